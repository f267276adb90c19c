"""A graph of one's own as rollouts: the debate of `tests.unit.debate`, exact ids and masks, what is refused."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agents.types import Task
from eval import agent_grades
from graphs import react
from tests.unit import debate
from tests.unit.fakes import CALL, FakePython
from tests.unit.writing import END, Writer, policy_chat, text
from tools.errors import ConfigError, ModelError
from train.graph_runs import named
from train.own_graph import Course, OwnGroup, OwnRollouts
from train.pools import Problem
from train.recorder import Recorder

OBJECTION = "the sky is up"


def debater(prompt: str, asked: int) -> Any:
    """The second debater objects; the first one settles on 5, then on 4."""
    if "What is wrong" in prompt:
        return OBJECTION
    return ("5" if asked % 2 == 0 else "4") if "Someone objects" in prompt else "perhaps 5"


def roll(
    writer: Writer, width: int = 2, reward: Any = debate.reward, graph: Any = None, rows: int = 4
) -> tuple[dict, dict]:
    logged: dict[str, float] = {}
    policy: Any = SimpleNamespace(
        chat=policy_chat(writer), refresh=lambda: None, attached=lambda trainer: nullcontext()
    )
    problems = [Problem("a", Task(question="What is 2 + 2?", answer="4"))]
    func = OwnRollouts(
        problems,
        policy,
        graph or debate.build(),
        reward,
        limits=(32, 1.0),
        width=width,
        resample_budget=0,
        end_token=END,
        seed=0,
    )
    trainer = SimpleNamespace(
        num_generations=rows, state=SimpleNamespace(global_step=0), _log_metric=lambda k, v: logged.__setitem__(k, v)
    )
    return func(["a"] * rows, trainer), logged


def test_each_debater_is_a_row_and_both_share_the_rollouts_reward():
    """G 2, 2 conversations a rollout: 4 rows; the first rollout settles on 5 (0), the second on 4 (1)."""
    out, logged = roll(Writer(debater))
    assert out["reward"] == [0.0, 0.0, 1.0, 1.0]
    assert [OBJECTION in text(ids) for ids in out["completion_ids"]] == [True] * 4
    assert (logged["reward/mean"], logged["rollouts/n"], logged["rollouts/conversations"]) == (0.5, 2.0, 2.0)


def test_what_the_other_debater_said_is_masked():
    """Row 0: "perhaps 5" and "5" with their end tokens are trained on, the objection between them is not."""
    out, _ = roll(Writer(debater))
    ids, mask, logprobs = (out[name][0] for name in ("completion_ids", "env_mask", "logprobs"))
    assert text([i for i, m in zip(ids, mask, strict=True) if m]) == "perhaps 5<|im_end|>5<|im_end|>"
    environment = text([i for i, m in zip(ids, mask, strict=True) if not m])
    assert f"Someone objects: {OBJECTION}" in environment and "perhaps" not in environment
    assert all((p == -0.25) is bool(m) for p, m in zip(logprobs, mask, strict=True))
    assert text([i for i, m in zip(out["completion_ids"][1], out["env_mask"][1], strict=True) if m]) == (
        f"{OBJECTION}<|im_end|>"
    )


def test_an_outage_drops_all_rows_of_its_rollout():
    def write(prompt: str, asked: int) -> Any:
        return ModelError("gone") if "What is wrong" in prompt and asked == 0 else debater(prompt, asked)

    out, logged = roll(Writer(write))
    assert out["reward"] == [None, None, 0.0, 0.0] and logged["rollouts/outages"] == 1.0
    assert [sum(mask) for mask in out["env_mask"]] == [0] * 4  # the two rows left do not differ


def test_a_reward_may_be_async_and_may_be_none():
    async def reward(task: Task, state: Any) -> float | None:
        return None if state["answer"] == "5" else 1.0

    assert roll(Writer(debater), reward=reward)[0]["reward"] == [None, None, 1.0, 1.0]


def test_our_own_agent_trains_so(monkeypatch):
    """Two rollouts on the react graph: each calls python once, then answers 5 and 4. The observation is masked."""

    def agent(prompt: str, asked: int) -> str:
        return f"<answer>{5 - asked}</answer>" if "<tool_response>" in prompt else CALL

    async def tools_of(context: Any) -> dict[str, Any]:
        return {"python": FakePython("twelve")}

    monkeypatch.setattr(react, "tools_of", tools_of)
    out, logged = roll(Writer(agent), width=1, reward=agent_grades.reward, graph=react.build_react(), rows=2)
    assert out["reward"] == [0.0, 1.0] and logged["rollouts/conversations"] == 1.0
    for ids, mask, last in zip(out["completion_ids"], out["env_mask"], "54", strict=True):
        trained = text([i for i, m in zip(ids, mask, strict=True) if m])
        assert trained == f"{CALL}<|im_end|><answer>{last}</answer><|im_end|>"
        assert "twelve" in text([i for i, m in zip(ids, mask, strict=True) if not m])


def test_more_conversations_than_told_are_an_error():
    with pytest.raises(ConfigError, match="held 2 conversations in one rollout; set --conversations"):
        roll(Writer(debater), width=1)


def test_rows_beyond_a_rollouts_conversations_are_empty():
    turns: Any = ("turn",)
    group = OwnGroup((Course((turns,), 1.0), Course((turns, turns), 0.0)), 2)
    assert group.conversations == [turns, (), turns, turns]
    assert group.rewards == (1.0, None, 0.0, 0.0)


async def test_replies_that_the_policy_did_not_write_are_refused():
    chat = Recorder(chat=policy_chat(Writer(lambda prompt, asked: "yes")), session="n", max_tokens=8, temperature=0.0)
    asked = [HumanMessage("a")]
    reply = await chat.ainvoke(asked)
    for edited in (
        [*asked, AIMessage("no"), HumanMessage("b")],
        [HumanMessage("c"), AIMessage("x"), HumanMessage("d")],
    ):
        with pytest.raises(ModelError, match="a reply that is not held"):
            await chat.ainvoke(edited)
    await chat.ainvoke([*asked, reply, HumanMessage("b")])
    with pytest.raises(ModelError, match="a reply that is not held"):
        await chat.ainvoke([*asked, reply, HumanMessage("another branch")])
    assert [len(turns) for turns in chat.conversations] == [2]


def test_what_cannot_be_loaded_is_one_line():
    assert named("tests.unit.debate:build") is debate.build
    for where in ("no.such:build", "tests.unit.debate:no", "tests.unit.debate"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            named(where)
