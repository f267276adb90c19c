"""Reagent's rollouts on the refinement graph with a real PolicyChat: rows, masks, what each party is shown, outages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from agents.plain_roles import render_judge
from agents.types import Task, Turn
from graphs.refine_state import Attempt, RefineContext
from tests.unit.fakes import FakeChat
from tests.unit.writing import END, Writer, policy_chat, text
from tools.errors import ContextLengthError, ModelError
from train import reagent
from train.pools import Problem
from train.reagent import Parties, ReagentRollouts, open_judge
from train.settings import JudgeConfig

CRITIQUE = "The garden is not a place."


def problem(key: str = "a", question: str = "Where is the cat?") -> Problem:
    return Problem(key, Task(question=question, answer="on the roof", kind="qa"))


def by_turns(prompt: str, asked: int) -> Any:
    """First answers: wrong, then right; every refined answer is right."""
    if "# Revise" in prompt:
        return "It was seen there.\nAnswer: on the roof"
    return "It is outside.\nAnswer: " + ("on the roof" if asked % 2 else "in the garden")


class Judge(BaseChatModel):
    """Says the same of every answer; scores those that end on the roof 1, others 0; fails where it is told to."""

    fails: Any = lambda text: False
    raises: bool = True
    _seen: list[str] = PrivateAttr(default_factory=list)

    def __init__(self, fails: Any = lambda text: False, raises: bool = True) -> None:
        """Take when to fail, and whether that is an outage or a reply that is no judgement."""
        super().__init__(fails=fails, raises=raises)  # pyright: ignore[reportCallIssue]

    @property
    def seen(self) -> list[str]:
        """The prompts of all judgements."""
        return self._seen

    @property
    def _llm_type(self) -> str:
        return "judge"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        shown = "".join(str(m.content) for m in messages)
        if kwargs["stage"] == "judge":
            self._seen.append(shown)
        answer = shown.split("Trajectory:\n")[-1]
        said = f"<think>Hm.</think><critique>{CRITIQUE}</critique><score>{float('roof' in answer)}</score>"
        if self.fails(answer):
            if self.raises:
                raise ModelError("the judge is down")
            said = "nothing in form"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])


@pytest.fixture(autouse=True)
def _opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever judge is opened is the one of the test."""
    monkeypatch.setattr("agents.models.open_chat", lambda model, base_url: OPENED["judge"])


OPENED: dict[str, Any] = {}


@asynccontextmanager
async def opened(tools: dict[str, Any]) -> AsyncIterator[Parties]:
    async with open_judge(JudgeConfig()) as judge:
        yield Parties(judge, tools)


def one_turn(text: str) -> tuple[Turn, ...]:
    return (Turn(stage="solve", prompt=(), content=text),)


def roll(writer: Writer, judge: Any, rows: int = 4, refines: bool = True, **more: Any) -> tuple[dict, dict]:
    """Return the columns and the metrics of one step on `problems` (default: one)."""
    problems = more.pop("problems", [problem()])
    logged: dict[str, float] = {}

    OPENED["judge"] = judge
    policy: Any = SimpleNamespace(
        chat=policy_chat(writer), refresh=lambda: None, attached=lambda trainer: nullcontext()
    )
    func = ReagentRollouts(
        problems,
        policy,
        more.pop("context", RefineContext()),
        lambda: opened(more.pop("tools", {})),
        refines=refines,
        weight=more.pop("weight", 0.5),
        resample_budget=more.pop("budget", 0),
        end_token=END,
        seed=0,
    )
    trainer = SimpleNamespace(
        num_generations=rows, state=SimpleNamespace(global_step=0), _log_metric=lambda k, v: logged.__setitem__(k, v)
    )
    return func([p.key for p in problems[: more.pop("wanted", 1)] for _ in range(rows)], trainer), logged


def test_a_pool_is_first_answers_then_refined_ones_in_their_order():
    """G 2, λ 0.5. First: wrong (0 + 0), right (1 + 0.5); refined: right, right (1.5 each)."""
    writer, judge = Writer(by_turns), Judge()
    out, logged = roll(writer, judge)
    assert out["reward"] == [0.0, 1.5, 1.5, 1.5]
    endings = [text(ids).splitlines()[-1] for ids in out["completion_ids"]]
    assert endings == [f"Answer: {place}<|im_end|>" for place in ("in the garden", *["on the roof"] * 3)]
    assert ["in the garden" in text(ids) for ids in out["prompt_ids"]] == [False, False, True, False]
    assert (logged["rule/first"], logged["rule/refined"], logged["rule/delta"]) == (0.5, 1.0, 0.5)
    assert logged["pool/dropped"] == 0.0 and logged["advantage/first"] < 0 < logged["advantage/refined"]


def test_the_critique_is_context_and_never_a_trained_token():
    out, _ = roll(Writer(by_turns), Judge())
    for i, (prompt, completion) in enumerate(zip(out["prompt_ids"], out["completion_ids"], strict=True)):
        assert (CRITIQUE in text(prompt)) is (i >= 2)
        assert CRITIQUE not in text(completion)
    assert out["env_mask"] == [[1] * len(ids) for ids in out["completion_ids"]]
    assert out["logprobs"] == [[-0.25] * len(ids) for ids in out["completion_ids"]]


def test_nobody_is_shown_the_reference_answer():
    """A policy that never writes it: it stands in no prompt, and the judge is not told."""
    writer, judge = Writer(lambda prompt, asked: f"Answer: place {asked}"), Judge()
    roll(writer, judge)
    assert len(writer.prompts) == 4 and all("roof" not in prompt for prompt in writer.prompts)
    assert len(judge.seen) == 4 and all("roof" not in seen for seen in judge.seen)


def test_reagent_r_rolls_out_first_answers_and_adds_the_judges_score():
    writer, judge = Writer(by_turns), Judge()
    out, logged = roll(writer, judge, rows=4, refines=False)
    assert out["reward"] == [0.0, 1.5, 0.0, 1.5]
    assert len(writer.prompts) == len(judge.seen) == 4
    assert not any("# Revise" in prompt for prompt in writer.prompts) and "rule/refined" not in logged


def test_without_weight_the_judge_only_critiques():
    judge = Judge()
    out, _ = roll(Writer(by_turns), judge, weight=0.0)
    assert out["reward"] == [0.0, 1.0, 1.0, 1.0] and len(judge.seen) == 2  # first answers alone
    judge = Judge()
    roll(Writer(by_turns), judge, refines=False, weight=0.0)
    assert judge.seen == []


@pytest.mark.parametrize("raises", [True, False])
def test_an_outage_of_the_judge_drops_rows_and_counts_them(raises):
    """It fails on wrong answers: the first answer has no score, and what should refine it has no critique."""
    out, logged = roll(Writer(by_turns), Judge(lambda answer: "garden" in answer, raises), rows=8)
    assert out["reward"] == [None, 1.5, None, 1.5, None, 1.5, None, 1.5]
    assert logged["pool/dropped"] == logged["pool/dropped_by_judge"] == 4.0
    assert [sum(mask) for mask in out["env_mask"]] == [0] * 8  # what is left does not differ: a dead pool


@pytest.mark.parametrize("raises", [True, False])
def test_a_first_answer_without_critique_still_counts_at_weight_0(raises):
    out, logged = roll(Writer(by_turns), Judge(lambda answer: "garden" in answer, raises), weight=0.0)
    assert out["reward"] == [0.0, 1.0, None, 1.0]
    assert [sum(mask) > 0 for mask in out["env_mask"]] == [True, True, False, True]
    assert logged["pool/dropped_by_judge"] == 1.0


def test_an_outage_of_the_policy_drops_the_pair():
    def write(prompt: str, asked: int) -> Any:
        return ModelError("no engine") if asked == 0 and "# Revise" not in prompt else by_turns(prompt, asked)

    out, logged = roll(Writer(write), Judge(), rows=6)
    assert out["reward"] == [None, 1.5, 0.0, None, 1.5, 1.5]
    assert (logged["pool/dropped"], logged["pool/dropped_by_judge"]) == (2.0, 0.0)
    assert [sum(mask) > 0 for mask in out["env_mask"]] == [False, True, True, False, True, True]


def test_a_refinement_that_does_not_fit_the_context_drops_its_row_alone():
    """The first answer, what the judge said of it, and the other pair stay as they are."""

    def write(prompt: str, asked: int) -> Any:
        revised = "# Revise" in prompt and "in the garden" in prompt
        return ContextLengthError("too long") if revised else by_turns(prompt, asked)

    out, logged = roll(Writer(write), Judge())
    assert out["reward"] == [0.0, 1.5, None, 1.5]
    assert (logged["pool/dropped"], logged["pool/dropped_by_judge"]) == (1.0, 0.0)
    assert [sum(mask) > 0 for mask in out["env_mask"]] == [True, True, False, True]


def test_a_pool_with_fewer_than_two_rewards_is_resampled():
    """Problem a: the judge is down for all of it. Problem b takes its place; nothing is copied."""

    def write(prompt: str, asked: int) -> str:
        return f"{by_turns(prompt, asked)} of a" if "dog" in prompt else by_turns(prompt, asked)

    problems = [problem("a", "Where is the dog?"), problem("b")]
    out, logged = roll(Writer(write), Judge(lambda answer: "of a" in answer), problems=problems, budget=1)
    assert out["reward"] == [0.0, 1.5, 1.5, 1.5]
    assert (logged["pool/too_small"], logged["groups/resampled"]) == (1.0, 1.0)
    assert all("cat" in text(ids) for ids in out["prompt_ids"])


def test_when_everything_is_down_training_stops_with_the_reason():
    with pytest.raises(ModelError, match="all rollouts of step 0 failed \\(no engine\\)"):
        roll(Writer(lambda prompt, asked: ModelError("no engine")), Judge())
    with pytest.raises(ModelError, match="the judge is down"):
        roll(Writer(by_turns), Judge(lambda answer: True))


def test_an_empty_or_repeated_revision_is_the_policys_own_doing():
    """The refined row is what the policy wrote: nothing earns 0, the same answer again what it is worth."""
    out, _ = roll(Writer(lambda prompt, asked: "" if "# Revise" in prompt else by_turns(prompt, asked)), Judge())
    assert out["reward"] == [0.0, 1.5, 0.0, 0.0]
    again = "It is outside.\nAnswer: on the roof"
    out, _ = roll(Writer(lambda p, asked: again if "# Revise" in p else by_turns(p, asked)), Judge())
    assert out["reward"] == [0.0, 1.5, 1.5, 1.5]


async def test_the_judge_has_settings_of_its_own():
    """Not those of the policy, whose context the graph has; a full score leaves no answer alone."""
    chat = FakeChat(replies={"judge": ["<think>t</think><critique>Fine.</critique><score>1</score>"]})
    OPENED["judge"] = chat
    settings = JudgeConfig(max_tokens=7, temperature=0.5, style="full", max_transcript=300)
    async with open_judge(settings) as judge:
        said = await judge(
            Attempt("Where?", "On the roof. " * 100, one_turn("On the roof. " * 100), "n"), RefineContext()
        )
    assert said.accepted is False and said.text == "Fine." and said.reviews[0].verdict is not None
    assert said.reviews[0].verdict.score == 1.0
    messages, sent = chat.sent[0]
    assert (sent["max_tokens"], sent["temperature"], sent["session"]) == (7, 0.5, "n:judge")
    assert "characters left out" in str(messages[-1].content)
    assert messages[0].content == render_judge("full", "Where?", "")[0].content


async def test_so_many_answers_are_judged_at_once():
    at_once, most = 0, 0

    class Slow(FakeChat):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.01)
            at_once -= 1
            return await super()._agenerate(*args, **kwargs)

    OPENED["judge"] = Slow(replies={"judge": ["<think>t</think><critique>c</critique><score>1</score>"]})
    async with open_judge(JudgeConfig(concurrency=2)) as judge:
        await asyncio.gather(*(judge(Attempt("q", "s", one_turn("s"), str(i)), RefineContext()) for i in range(5)))
    assert most == 2


def test_rewards_are_graded_off_the_event_loop(monkeypatch):
    import threading

    names = set()

    def graded(task: Task, turns: Any) -> float:
        names.add(threading.current_thread() is threading.main_thread())
        return 1.0

    monkeypatch.setattr(reagent, "rule_reward", graded)
    roll(Writer(by_turns), Judge())
    assert names == {False}
