"""Many trajectories, each judged: ids, samples, what is held is not asked again, outages are counted."""

import asyncio
from pathlib import Path

import pytest

from agents.store import Store
from agents.types import Candidate, Task, Trajectory, Turn
from eval.candidates import Problem
from eval.judging import Item, Judging, items_of, key_of
from graphs.judge_state import JudgeContext
from tests.unit.fakes import FakeChat, Reply
from tools.errors import ModelError

TASK = Task(question="q", answer="SECRET-7f3a")
TEXTS = ("A: 1", "A: 2", "A: 1 ")
CANDIDATES = tuple(Candidate(task_id=TASK.id, index=i, text=t, correct=i == 0) for i, t in enumerate(TEXTS))
GOOD = "<think>t</think><critique>c</critique><score>0.8</score>"


class Judge(FakeChat):
    """Scores everything alike; fails on trajectories that hold `down`."""

    down: str = "none"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        shown = str(next(m for m, given in self.sent if given["session"] == session)[-1].content)
        return ModelError("gone") if self.down in shown else GOOD


def items() -> list[Item]:
    return items_of([Problem(task=TASK, candidates=CANDIDATES, benchmark="b", scores=({}, {}, {}))])


def judging(chat: FakeChat, record: list[Trajectory], **more: int) -> Judging:
    return Judging(JudgeContext(chat=chat), record.append, **more)


async def drive(work: Judging, done: set[str] | None = None, of: list[Item] | None = None) -> list[bool]:
    failures: list[bool] = []
    await work.judge_all(work.missing(of or items(), done or set()), failures.append)
    return failures


async def test_each_distinct_candidate_is_judged_once_a_sample():
    chat, made = Judge(), []
    work = judging(chat, made, samples=2)
    assert await drive(work) == [False] * 4
    assert sorted((t.candidate_id, t.sample_index) for t in made) == sorted(
        (c.id, i) for c in CANDIDATES[:2] for i in (0, 1)
    )
    assert {t.task_id for t in made} == {TASK.id} and {t.verdict.score for t in made if t.verdict} == {0.8}
    assert len({kwargs["session"] for _, kwargs in chat.sent}) == 4
    assert "SECRET-7f3a" not in repr(chat.sent)


async def test_what_is_held_is_not_asked_again(tmp_path: Path):
    with Store(tmp_path / "s.sqlite") as store:
        store.add_task(TASK)
        store.add_candidates(TASK.id, CANDIDATES)
        chat = Judge()
        work = Judging(JudgeContext(chat=chat), store.add_trajectory)
        await drive(work)
        held = store.done_keys()
        assert held == {key_of(item, 0, work.context) for item in items()}
        assert [row.trajectory.role for row in store] == ["judge", "judge"]
        assert await drive(work, held) == [] and len(chat.sent) == 2
        longer = Judging(JudgeContext(chat=chat), store.add_trajectory, samples=2)
        assert len(longer.missing(items(), held)) == 2
        shorter = JudgeContext(chat=chat, max_transcript=100)  # it would be shown something else
        assert len(Judging(shorter, store.add_trajectory).missing(items(), held)) == 2


async def test_an_outage_is_recorded_and_counted():
    made: list[Trajectory] = []
    work = judging(Judge(down="A: 2"), made)
    assert sorted(await drive(work)) == [False, True]
    assert work.failed == 1 and work.last is not None and work.last.message == "gone"
    assert sorted(t.stop_reason.value for t in made) == ["completed", "error"]


async def test_outages_in_a_row_stop_the_work():
    work = judging(Judge(down="A: "), [], width=1, max_outages=1)
    with pytest.raises(ExceptionGroup) as raised:
        await drive(work)
    assert "1 failures in a row" in str(raised.value.exceptions[0])


async def test_an_agents_turns_are_judged_whole():
    chat = Judge()
    turns = (Turn(stage="think", prompt=(), content="FIRST"), Turn(stage="think", prompt=(), content="A: 1"))
    await drive(judging(chat, []), of=[Item(TASK, CANDIDATES[0], turns)])
    assert "## Turn 1\nFIRST\n\n## Turn 2\nA: 1" in str(chat.sent[0][0][-1].content)


def test_only_so_many_at_once():
    class Counting(Judge):
        now: int = 0
        most: int = 0

        async def _agenerate(self, *args, **kwargs):
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await super()._agenerate(*args, **kwargs)
            finally:
                self.now -= 1

    chat = Counting(delay=0.01)
    asyncio.run(drive(judging(chat, [], samples=4, width=2)))
    assert chat.most == 2 and len(chat.sent) == 8
