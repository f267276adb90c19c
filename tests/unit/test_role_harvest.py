"""The harvest of judge, refiner and agent: each trajectory once, outages, and what each of them is shown."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from agents.plain_roles import SOLVER
from agents.store import Row, Store
from agents.types import Candidate, StopReason, Task
from distill.config import load_config
from distill.mixture import Apart, select_mixture
from distill.role_harvest import Teachers, harvest_roles
from distill.sections import RunConfig
from tests.unit.fakes import CALL, FakeChat, FakePython, Reply, answer
from tools.errors import ModelError, NothingAcceptedError
from tools.progress import Progress

SECRET = "GROUND-TRUTH-7f3a"
CRITIQUE = "Step 1: the sum is off."
JUDGED = f"<think>THOUGHTS-OF-THE-JUDGE</think><critique>{CRITIQUE}</critique><score>0.1375</score>"
EVERY = ("judge", "refiner", "agent")
TASKS = [
    Task(question=f"q{i}: {i} + 1000?", answer=SECRET, aliases=(SECRET,), source=SECRET, metadata={"key": SECRET})
    for i in range(2)
]


class Fake(FakeChat):
    """Answers by stage; a prompt that holds a key of `instead` is answered by its value."""

    instead: dict[str, Any] = {}  # noqa: RUF012

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Look for what is special in the session's last prompt."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        text = "\n".join(str(m.content) for m in messages)
        special = next((reply for part, reply in self.instead.items() if part in text), None)
        return special if special is not None else super().reply_to(stage, session, asked)

    @property
    def shown(self) -> list[str]:
        """What was sent, a text a call."""
        return ["\n".join(str(m.content) for m in messages) for messages, _ in self.sent]


def teachers(judge: dict[str, Any] | None = None, refiner: dict[str, Any] | None = None, agent: Any = None) -> Teachers:
    return Teachers(
        Fake(model_id="fake-judge", replies={"judge": [JUDGED], "repair": ["still none"]}, instead=judge or {}),
        Fake(model_id="fake-teacher", replies={"refine": ["Mended.\nAnswer: 1000"]}, instead=refiner or {}),
        Fake(model_id="fake-teacher", replies={"act": list(agent or ["<answer>1000</answer>"])}),
    )


def sent(who: Teachers) -> tuple[int, int, int]:
    return len(who.judge.sent), len(who.refiner.sent), len(who.agent.sent)  # pyright: ignore


def shown(chat: Any) -> list[str]:
    return chat.shown


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two problems of two solutions, one of them written twice."""
    with Store(tmp_path / "s.sqlite") as opened:
        for i, task in enumerate(TASKS):
            opened.add_task(task)
            texts = [f"RIGHT-{i}\nAnswer: {i + 1000}", f"WRONG-{i}\nAnswer: 7", f" WRONG-{i}\nAnswer: 7 "]
            labels = (True, False, False)
            found = [
                Candidate(task_id=task.id, index=n, text=text, answer=SECRET, correct=label)
                for n, (text, label) in enumerate(zip(texts, labels, strict=True))
            ]
            opened.add_candidates(task.id, found)
        yield opened


def settings(*roles: str, sets: tuple[str, ...] = ()) -> RunConfig:
    weights = ", ".join(f"{role}: 1" for role in (SOLVER, *roles))  # else the agent answers
    return load_config(None, [f"mixture.weights={{{weights}}}", "grpo.steps=0", "teacher.max_outages=9", *sets])


async def harvest(store: Store, who: Teachers, *roles: str, tools: Any = None, **more: Any) -> tuple[int, Progress]:
    """Harvest; return how many failed, and the progress."""
    progress = Progress("harvest", 0, "trajectories", stream=StringIO())
    cfg = settings(*(roles or EVERY), **more)
    return await harvest_roles(TASKS, store, cfg, who, tools or {}, progress), progress


def of(store: Store, role: str) -> list[Row]:
    return [row for row in store if row.trajectory.role == role]


async def test_every_trajectory_is_made_once(store: Store):
    """2 problems of 2 different solutions: 4 judgements, 4 revisions; 2 questions for the agent. Then nothing."""
    who = teachers()
    failed, progress = await harvest(store, who)
    assert (failed, sent(who), progress.total, progress.done) == (0, (4, 4, 2), 10, 10)
    assert [len(of(store, role)) for role in EVERY] == [4, 4, 2]
    for row in store:
        made = row.trajectory
        assert (made.task_id, made.stop_reason) == (row.task.id, StopReason.COMPLETED)
        assert made.candidate_id == ("" if made.role == "agent" else row.candidate.id)
        assert made.model == ("fake-judge" if made.role == "judge" else "fake-teacher")
    judged = {row.candidate.text[:7]: row.trajectory.verdict for row in of(store, "judge")}
    assert sorted(judged) == ["RIGHT-0", "RIGHT-1", "WRONG-0", "WRONG-1"]
    assert {(v.score, v.critique) for v in judged.values() if v} == {(0.1375, CRITIQUE)}
    assert {row.trajectory.turns[-1].content for row in of(store, "refiner")} == {"Mended.\nAnswer: 1000"}
    assert {row.candidate.text for row in of(store, "agent")} == {"<answer>1000</answer>"}

    before, again = store.done_keys(), teachers()
    failed, progress = await harvest(store, again)
    assert (failed, sent(again), progress.total) == (0, (0, 0, 0), 0)
    assert store.done_keys() == before and len(before) == 10


@pytest.mark.parametrize(
    ("roles", "calls"),
    [(("judge",), (4, 0, 0)), (("refiner",), (4, 4, 0)), (("agent",), (0, 0, 2)), (("solver",), (0, 0, 0))],
)
async def test_nobody_is_asked_in_vain(store: Store, roles: tuple[str, ...], calls: tuple[int, int, int]):
    """A refiner needs judgements, whether or not they are learned."""
    who = teachers()
    await harvest(store, who, *roles)
    assert sent(who) == calls


async def test_a_judges_outage_is_a_row_that_is_tried_again(store: Store):
    """One judgement of four fails: no revision on it; both are made by the next call, and nothing else is."""
    who = teachers(judge={"WRONG-0": ModelError("judge is down")})
    failed, progress = await harvest(store, who)
    assert (failed, progress.failed, sent(who)) == (1, 1, (4, 3, 2))
    (lost,) = [row.trajectory for row in of(store, "judge") if row.trajectory.stop_reason is StopReason.ERROR]
    assert lost.error is not None and lost.error.message == "judge is down" and lost.verdict is None
    assert not any("WRONG-0" in row.candidate.text for row in of(store, "refiner"))

    who = teachers()
    assert (await harvest(store, who))[0] == 0 and sent(who) == (1, 1, 0)
    assert "WRONG-0" in shown(who.judge)[0] and "WRONG-0" in shown(who.refiner)[0]
    assert len(list(store)) == 10 and "stop/error" not in store.counts()


@pytest.mark.parametrize("role", ["refiner", "agent"])
async def test_an_outage_is_no_example(store: Store, role: str):
    """All of the role's calls fail: rows, each tried again, and none of them is selected."""
    down = ModelError("no teacher")
    who = teachers(refiner={"": down}, agent=[down])
    n = {"refiner": 4, "agent": 2}[role]
    assert (await harvest(store, who, role))[0] == n
    assert [row.trajectory.stop_reason for row in of(store, role)] == [StopReason.ERROR] * n
    alone = load_config(None, [f"mixture.weights={{{role}: 1}}", "grpo.steps=0"])
    with pytest.raises(NothingAcceptedError, match=rf"of {role} .* answered \({n} of {n}\)"):
        select_mixture(list(store), [], alone.mixture, alone.select, Apart(), 0)
    who = teachers()
    assert (await harvest(store, who, role))[0] == 0 and sent(who)[1:] == ((4, 0) if role == "refiner" else (0, 2))
    assert {row.trajectory.stop_reason for row in of(store, role)} == {StopReason.COMPLETED}


async def test_too_many_outages_in_a_row_stop_the_harvest_and_what_is_done_is_kept(store: Store):
    who = teachers(judge={"RIGHT-1": ModelError("gone"), "WRONG": ModelError("gone")})
    with pytest.raises(ModelError, match=r"2 failures in a row.*gone"):
        await harvest(store, who, sets=("teacher.max_outages=2", "teacher.concurrency=1"))
    assert sent(who)[1:] == (0, 0) and len(store.done_keys()) == 1


async def test_a_judge_that_says_nothing_is_no_outage(store: Store):
    """It is not asked again, and there is nothing to revise on."""
    who = teachers(judge={"WRONG-0": "nothing in form"})
    assert (await harvest(store, who))[0] == 0 and sent(who) == (5, 3, 2)  # a repair is one call more
    assert sorted(row.trajectory.stop_reason for row in of(store, "judge"))[-1] is StopReason.UNPARSED
    who = teachers()
    await harvest(store, who)
    assert sent(who) == (0, 0, 0)


async def test_a_cut_revision_is_the_refiners_own_doing(store: Store):
    who = teachers(refiner={"WRONG-1": answer("Answer: 10", finish_reason="length")})
    assert (await harvest(store, who))[0] == 0
    stops = [row.trajectory.stop_reason for row in of(store, "refiner")]
    assert sorted(stops) == [StopReason.COMPLETED] * 3 + [StopReason.LENGTH]


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_nobody_is_shown_ground_truth(store: Store, style: str):
    """The refiner sees problem, solution and critique; no label, no reference answer, no score, no thoughts."""
    who = teachers()
    await harvest(store, who, sets=(f"teacher.style={style}",))
    for chat in who:
        for text in shown(chat):
            assert SECRET not in text and "7f3a" not in text
    for text in shown(who.refiner):
        assert CRITIQUE in text and ("RIGHT-" in text or "WRONG-" in text) and "+ 1000?" in text
        assert "0.1375" not in text and "THOUGHTS" not in text
    told = {text.replace("WRONG", "RIGHT").replace("Answer: 7", "Answer: 1000") for text in shown(who.judge)}
    assert len({text.replace("Answer: 1001", "Answer: 1000") for text in told}) == 2  # right or wrong: it reads alike
    held = repr([[turn.prompt for turn in row.trajectory.turns] for row in store])
    assert SECRET not in held and "0.1375" not in held  # what is learned from


async def test_an_agent_is_shown_its_question_alone(store: Store):
    who = teachers()
    await harvest(store, who)
    for task, text in zip(TASKS, sorted(shown(who.agent)), strict=True):
        assert task.question in text
        assert not [part for part in ("RIGHT", "WRONG", CRITIQUE, "Mended", SECRET) if part in text]
    systems = {str(messages[0].content) for messages, _ in who.agent.sent}  # pyright: ignore
    assert len(systems) == 1


async def test_a_critique_gives_the_refiner_no_answer(store: Store):
    leak = "<think>t</think><critique>Step 1: off. The answer is 4711.</critique><score>0.1</score>"
    who = teachers(judge={"WRONG-0": leak})
    await harvest(store, who)
    (text,) = [text for text in shown(who.refiner) if "WRONG-0" in text]
    assert "4711" not in text and "[withheld]" in text and "Step 1: off." in text


async def test_the_agent_uses_its_tools_and_has_several_tries(store: Store):
    """2 samples of 2 questions, each a call and an answer; the key of each sample is its own."""
    who, python = teachers(agent=[CALL, "<answer>1000</answer>"]), FakePython("2")
    await harvest(store, who, "agent", tools={"python": python}, sets=("teacher.samples=2",))
    rows = of(store, "agent")
    assert [(row.task.id, row.trajectory.sample_index) for row in rows] == [(t.id, i) for t in TASKS for i in (0, 1)]
    assert len({row.trajectory.key for row in rows}) == len(python.calls) == len(set(python.released)) == 4
    assert {row.trajectory.tool_calls for row in rows} == {1} and "python(code" in shown(who.agent)[0]
    again = teachers()
    await harvest(store, again, "agent", tools={"python": python}, sets=("teacher.samples=2",))
    assert sent(again) == (0, 0, 0)


async def test_the_limits_are_those_of_the_run(store: Store):
    who = teachers(agent=["I think."])
    sets = ("mixture.agent_turns=2", "teacher.temperature=0.7", "judge.max_tokens=11", "solver.max_tokens=12")
    await harvest(store, who, sets=(*sets, "judge.temperature=0.3", "teacher.max_tokens=13"))
    given = [{(s["max_tokens"], s["temperature"]) for _, s in chat.sent} for chat in who]  # pyright: ignore
    assert given == [{(11, 0.3)}, {(12, 0.7)}, {(13, 0.7)}]
    assert {(row.trajectory.stop_reason, len(row.trajectory.turns)) for row in of(store, "agent")} == {
        (StopReason.UNPARSED, 2)
    }
