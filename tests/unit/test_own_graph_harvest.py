"""`python -m distill.own_graph`: the debate harvested with a stand-in for the teacher; outages, resuming, selection."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.errors import GraphRecursionError

from agents.types import Message, Task, Turn
from distill import own_graph, own_rollouts, own_rows
from distill.own_rollouts import LIMITS, Rollout, Teacher, place_of, roll
from tests.unit import debate
from tests.unit.fakes import FakeChat, Reply, answer
from tools.errors import ConfigError, ContextLengthError, ModelError
from train.graph_runs import compiled, named
from train.recorder import Recorder

TASKS = [Task(question=f"What is {i} + {i}?", answer=f"{2 * i}") for i in (1, 2)]
OPEN = [{"role": "system", "content": "Answer in one line."}]
ORIGIN = own_rows.Origin("m:build", "m:fn", "teacher")
Made = dict[own_rollouts.Place, Rollout]


class Debaters(FakeChat):
    """Settles in sample i of problem n on 2n where i is odd, else on "no"; an entry of `down` fails that session."""

    down: dict[str, Exception] = {}  # noqa: RUF012  pydantic copies it

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Choose by the last message and the sample's number."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        (question,) = [t for t in TASKS if t.question in "".join(str(m.content) for m in messages)]
        name, last = f"{question.answer}:{session.split(':')[1]}", str(messages[-1].content)
        if name in self.down and "objects" in last:
            return self.down[name]
        if "What is wrong" in last:
            return "the sky is up"
        if "objects" not in last:
            return f"perhaps {name}"
        return str(question.answer) if int(session.split(":")[1]) % 2 else "no"


def command(tmp_path: Path, *more: str, reward: str = "tests.unit.debate:reward") -> list[str]:
    tasks = tmp_path / "p.jsonl"
    tasks.write_text("".join(json.dumps({"question": t.question, "answer": t.answer}) + "\n" for t in TASKS))
    given = ["--graph", "tests.unit.debate:build", "--reward", reward, "--tasks", f"jsonl:{tasks}"]
    return [*given, "--model", "teacher", "--base-url", "http://x/v1", "--out", str(tmp_path / "data"), *more]


@pytest.fixture
def teach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Debaters]:
    """Return a function that puts a teacher in the model's place."""

    def put(**given: Any) -> Debaters:
        chat = Debaters(**given)

        @contextmanager
        def opened(*_: Any, **__: Any) -> Iterator[FakeChat]:
            yield chat

        monkeypatch.setattr(own_rollouts, "opened_chat", opened)
        return chat

    return put


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (tmp_path / "data" / "rollouts.jsonl").read_text().splitlines()]


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    from train.launch import read_rows

    return read_rows(str(tmp_path / "data"), "sft", ("messages", "role", "verdict", "task_id", "trajectory"))


# --- the command -----------------------------------------------------------------------------------------------------


def test_rewarded_rollouts_become_rows(tmp_path: Path, teach: Any, capsys: pytest.CaptureFixture[str]):
    """2 problems, 2 samples: sample 1 of each is right: 2 rollouts of 2 conversations, 4 rows; 3 calls a rollout."""
    chat = teach()
    assert own_graph.main(command(tmp_path, "--samples", "2", "--temperature", "0.7", "--max-tokens", "9")) == 0
    told = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert told[:6] == [["made", "4"], ["scored", "4"], ["kept", "2"], ["unique", "2"], ["whole", "4"], ["rows", "4"]]
    found = {(row["messages"][-1]["content"], len(row["messages"])): row for row in rows(tmp_path)}
    assert set(found) == {("2", 5), ("4", 5), ("the sky is up", 2)} and len(rows(tmp_path)) == 4
    assert found["2", 5]["messages"] == [
        *OPEN,
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "perhaps 2:1"},
        {"role": "user", "content": "Someone objects: the sky is up"},
        {"role": "assistant", "content": "2"},
    ]
    assert found["2", 5]["verdict"] is True and found["2", 5]["completion_tokens"] == 10
    assert found["2", 5]["source"] == "p.jsonl" and len({row["trajectory"] for row in rows(tmp_path)}) == 4
    assert len(chat.sent) == 12 and {given["temperature"] for _, given in chat.sent} == {0.7}
    assert {given["max_tokens"] for _, given in chat.sent} == {9}
    made = sorted((line["index"], line["reward"]) for line in lines(tmp_path))
    assert made == [(0, 0.0), (0, 0.0), (1, 1.0), (1, 1.0)]
    assert "| rows | 4 |" in (tmp_path / "data" / "README.md").read_text()


def test_an_outage_is_tried_again_and_more_samples_go_on(tmp_path: Path, teach: Any, capsys: Any):
    """The first run loses a rollout; the second makes that one alone, the third two more."""
    teach(down={"2:1": ModelError("gone")})
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 2
    out = capsys.readouterr()
    assert "1 rollouts failed" in out.err and "gone" in out.err and "1 outages" in out.out
    assert sum(row["messages"][-1]["content"] == "4" for row in rows(tmp_path)) == 1  # the others are written
    lost = [line for line in lines(tmp_path) if line["error"]]
    assert [(line["reward"], line["error"]["kind"]) for line in lost] == [(None, "ModelError")]
    for samples, calls in ((2, 3), (3, 6), (3, 0), (2, 0)):
        chat = teach()
        assert own_graph.main(command(tmp_path, "--samples", str(samples))) == 0
        assert len(chat.sent) == calls
    assert len(rows(tmp_path)) == 4 and len(lines(tmp_path)) == 7


def test_a_line_cut_by_a_kill_is_made_again(tmp_path: Path, teach: Any):
    teach()
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 0
    file = tmp_path / "data" / "rollouts.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    chat = teach()
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 0
    assert len(chat.sent) == 3 and len(lines(tmp_path)) == 4


def test_many_outages_in_a_row_stop_the_work(tmp_path: Path, teach: Any, capsys: Any):
    chat = teach(down={f"{t.answer}:{i}": ModelError("gone") for t in TASKS for i in range(9)})
    more = ("--samples", "9", "--max-outages", "3", "--concurrency", "1")
    assert own_graph.main(command(tmp_path, *more)) == 2
    assert "3 failures in a row" in capsys.readouterr().err and len(chat.sent) == 9


def test_a_limit_is_no_outage(tmp_path: Path, teach: Any, capsys: Any):
    teach(down={"2:0": ContextLengthError("too long")})
    assert own_graph.main(command(tmp_path, "--samples", "2", "--max-outages", "1")) == 0
    assert "0 outages, 1 over a limit, 0 unrewarded" in capsys.readouterr().out
    chat = teach()
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 0 and chat.sent == []


async def asynchronous(task: Task, state: Any) -> float | None:
    """A reward as a coroutine; None for problem 1."""
    return None if task.answer == "2" else debate.reward(task, state)


def test_a_reward_may_be_async_and_may_be_none(tmp_path: Path, teach: Any, capsys: Any):
    teach()
    assert own_graph.main(command(tmp_path, "--samples", "2", reward=f"{__name__}:asynchronous")) == 0
    told = capsys.readouterr().out
    assert "0 outages, 0 over a limit, 2 unrewarded" in told
    assert {row["messages"][-1]["content"] for row in rows(tmp_path)} == {"4", "the sky is up"}


def wordy(task: Task, state: Any) -> str:
    """A reward that is no number."""
    return "good"


def test_bad_input_is_one_line(tmp_path: Path, teach: Any, capsys: Any):
    teach()
    assert own_graph.main(command(tmp_path, "--samples", "1", "--keep", "2")) == 3
    assert "nothing to learn" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "sft").mkdir()
    for changed, expected in (
        (["--temperature", "0.5"], "rollouts of another graph, reward or model (temperature: 1.0 there, 0.5 here)"),
        (["--reward", f"{__name__}:asynchronous"], "rollouts of another graph, reward or model"),
        (["--graph", "no.such:build"], "cannot be loaded"),
        (["--graph", f"{__name__}:TASKS"], "is a list; name a function"),
        (["--graph", "builtins:dict"], "returns a dict; return the compiled graph"),
        (["--tasks", "jsonl:nowhere"], "no such file"),
        (["--reward", f"{__name__}:wordy", "--out", str(tmp_path / "wordy")], "--reward gave 'good'"),
        (["--out", str(tmp_path / "full")], "holds no rollouts of a graph"),
    ):
        assert own_graph.main([*command(tmp_path, "--samples", "1"), *changed]) == 2
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
        assert expected in line


def test_changed_code_is_another_graph(tmp_path: Path, teach: Any, monkeypatch: Any, capsys: Any):
    teach()
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 0
    monkeypatch.setattr(own_graph, "code_of", lambda where: "changed")
    assert own_graph.main(command(tmp_path, "--samples", "2")) == 2
    assert "graph_code" in capsys.readouterr().err


# --- a rollout -------------------------------------------------------------------------------------------------------


async def test_the_graph_is_given_the_question_alone():
    """The reference answer is for the reward; the graph's input and its context hold nothing of it."""
    given: list[Any] = []

    async def ainvoke(state: Any, context: Any) -> Any:
        given.extend([state, context])
        return {"answer": "x"}

    seen: list[Task] = []
    task = Task(question="q?", answer="secret", aliases=("hidden",), metadata={"m": "private"})
    graph = SimpleNamespace(ainvoke=ainvoke)
    made = await roll(task, 0, Teacher(graph, lambda t, s: seen.append(t) or 0.5, "m"), FakeChat())
    assert given[0] == {"problem": "q?"} and list(given[1]) == ["chat"] and seen == [task] and made.reward == 0.5
    shown = f"{given} {vars(given[1]['chat'])}"
    assert not any(word in shown for word in ("secret", "hidden", "private"))


async def test_the_graphs_own_limit_ends_a_rollout_for_good():
    async def ainvoke(state: Any, context: Any) -> Any:
        raise GraphRecursionError("25 steps\nfor troubleshooting, see")

    made = await roll(TASKS[0], 0, Teacher(SimpleNamespace(ainvoke=ainvoke), debate.reward, "m"), FakeChat())
    assert made.error and made.error.kind in LIMITS and made.error.message == "25 steps" and not made.is_outage


async def test_thoughts_are_kept_and_half_characters_are_not():
    said = answer("5\ud83d")
    said.additional_kwargs["reasoning_content"] = "hm"

    async def ainvoke(state: Any, context: Any) -> Any:
        return await context["chat"].ainvoke([HumanMessage("q")])

    teacher = Teacher(SimpleNamespace(ainvoke=ainvoke), lambda task, state: 1, "m")
    ((turn,),) = (await roll(TASKS[0], 0, teacher, FakeChat(replies={"own": [said]}))).conversations
    assert (turn.content, turn.reasoning, turn.prompt_ids) == ("5?", "hm", None)


async def test_the_recorder_refuses_replies_that_are_not_the_models():
    """A teacher holds no conversation itself: the recorder has to see it."""
    chat = Recorder(chat=FakeChat(replies={"own": ["yes"]}), session="n", max_tokens=8, temperature=0.0)
    asked = [HumanMessage("a")]
    reply = await chat.ainvoke(asked)
    with pytest.raises(ModelError, match="a reply that is not held"):
        await chat.ainvoke([*asked, answer("no"), HumanMessage("b")])
    await chat.ainvoke([*asked, reply, HumanMessage("b")])
    ((first, second),) = chat.conversations
    assert [m.content for m in (*first.prompt, *second.prompt)] == ["a", "b"] and first.completion_ids is None


# --- selection -------------------------------------------------------------------------------------------------------


def turn(prompt: str, content: str, finish: str = "stop") -> Turn:
    return Turn(stage="own", prompt=(Message(role="user", content=prompt),), content=content, finish_reason=finish)


def made(*given: tuple[float | None, list[tuple[Turn, ...]]]) -> Made:
    found = [(place_of(TASKS[0], i), reward, turns) for i, (reward, turns) in enumerate(given)]
    return {p: Rollout(problem=p[0], index=p[1], reference=p[2], reward=r, conversations=tuple(c)) for p, r, c in found}


def test_the_funnel_by_hand():
    """7 samples of problem 1, the last an outage. Kept: 0 to 3; 1 says what 0 says; 2 shares a conversation with 0 and
    has one of its own; of 3's two one is cut. Rows: both of 0, one of 2, one of 3.
    """
    a, b, c, d = (turn("q", text) for text in "abcd")
    cut = turn("q", "e", "length")
    found = made(
        (1.0, [(a,), (b,)]), (1.5, [(a,), (b,)]), (1.0, [(a,), (c,)]), (2.0, [(cut,), (d,)]), (0.9, [(c,)]), (None, [])
    )
    harvest = own_rows.select(TASKS[:1], 7, found, 1.0, ORIGIN)
    assert [left for _, left, _ in harvest.funnel] == [7, 5, 4, 3, 5, 4] and harvest.conversations == 2
    assert "1 outages, 0 over a limit, 1 unrewarded" in harvest.funnel[1][2]
    assert [row["messages"][-1]["content"] for row in harvest.rows] == ["a", "b", "c", "d"]
    assert [row["reward"] for row in harvest.rows] == [1.0, 1.0, 1.0, 2.0]
    assert [left for _, left, _ in own_rows.select(TASKS[:1], 1, found, 1.0, ORIGIN).funnel] == [1, 1, 1, 1, 2, 2]


def test_another_reference_answer_is_another_place():
    changed = TASKS[0].model_copy(update={"answer": "3"})
    assert changed.id == TASKS[0].id and place_of(changed, 0) != place_of(TASKS[0], 0)


def test_what_is_no_graph_or_function_is_one_line():
    assert hasattr(compiled("tests.unit.debate:build"), "ainvoke")
    with pytest.raises(ConfigError, match="name a function"):
        named(f"{__name__}:ORIGIN")
