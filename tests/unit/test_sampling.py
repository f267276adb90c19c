"""Candidates by the agent: labels, what is kept of a trajectory, outages, resumption, candidates of the file."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.outages import raise_first
from agents.store import Store
from agents.types import Candidate, StopReason, Task, Trajectory
from distill.sampling import by_agent, candidate_of, sample_all
from graphs.react_state import ReactContext
from tests.unit.fakes import CALL, FakeChat, FakePython, Reply
from tools.errors import ModelError

SECRET = "GROUND-TRUTH-7f3a"
TASKS = [
    Task(question=f"q{i}: who?", answer=f"Anna {i}", aliases=(SECRET,), kind="qa", metadata={"key": SECRET})
    for i in range(3)
]


class Agent(FakeChat):
    """Calls a tool, then names somebody: the first sample rightly, the second one wrongly, the third one nobody."""

    down: str = "none"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Answer by the sample's number; fail on the question `down`, once it has called its tool."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        question = str(messages[1].content)
        if asked == 0:
            return CALL
        if self.down in question:
            return ModelError("gone")
        number = question.split("q")[-1][0]
        said = (f"Found. <answer>the Anna {number}</answer>", "<answer>Carl</answer>", "I give up.")
        return said[int(session.rpartition(":")[2])]


def context(chat: Agent) -> ReactContext:
    return ReactContext(chat=chat, tools={"python": FakePython("SEEN-THERE")}, style="compact", max_turns=2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.sqlite") as opened:
        yield opened


async def test_a_trajectory_is_a_labelled_candidate():
    """Right, wrong, and none: a limit is the agent's own doing, and a wrong answer."""
    chat = Agent()
    drawn = await by_agent(context(chat), 3)(TASKS[1])
    assert drawn.error is None and [c.index for c in drawn.candidates] == [0, 1, 2]
    labels = [(c.answer, c.correct, c.model) for c in drawn.candidates]
    assert labels == [("the Anna 1", True, "fake"), ("Carl", False, "fake"), (None, False, "fake")]
    for found, said in zip(drawn.candidates, ("Found.", "Carl", "I give up."), strict=True):
        assert len(found.turns) == 2 and found.turns[0].results[0].content == "SEEN-THERE"
        headings = [line for line in found.text.splitlines() if line.startswith("## ")]
        assert headings == ["## Turn 1", "## Observation 1", "## Turn 2"]
        assert CALL in found.text and "SEEN-THERE" in found.text and said in found.text
        assert "q1: who?" not in found.text  # the question opens it, and is no part of it
    sessions = {given["session"] for _, given in chat.sent}
    assert sessions == {f"{TASKS[1].id}:{i}" for i in range(3)}


async def test_it_is_shown_the_question_alone():
    chat = Agent()
    await by_agent(context(chat), 3)(TASKS[2])
    sent = repr([[m.model_dump() for m in messages] for messages, _ in chat.sent])
    assert "q2: who?" in sent and "python(code" in sent
    assert SECRET not in sent and sent.count("Anna") == sent.count("the Anna 2")  # what it says itself, if anything


async def test_an_outage_leaves_nothing_of_its_problem_and_is_told(store: Store):
    """The first and the third problem are kept whole; the next call makes the second one, and nothing else."""
    chat = Agent(down="q1")
    with pytest.raises(ExceptionGroup) as group:
        await sample_all(TASKS, store, by_agent(context(chat), 2), 1, ("grpo", "the agent"))
    with pytest.raises(ModelError, match=r"^grpo problem: the agent failed \(gone\); run again to resume$"):
        raise_first(group.value)
    assert store.candidates(TASKS[0].id) is not None and store.candidates(TASKS[1].id) is None
    lacking = [task for task in TASKS if store.candidates(task.id) is None]
    again = Agent()
    await sample_all(TASKS, store, by_agent(context(again), 2), 1, ("grpo", "the agent"))
    asked = {given["session"].rpartition(":")[0] for _, given in again.sent}
    assert asked == {task.id for task in lacking} and len(again.sent) == 4 * len(lacking)
    found = [store.candidates(task.id) for task in TASKS]
    assert [[c.correct for c in own or []] for own in found] == [[True, False]] * 3
    last = Agent()
    await sample_all(TASKS, store, by_agent(context(last), 2), 1, ("grpo", "the agent"))
    assert not last.sent


async def test_turns_come_back_from_the_store(store: Store):
    """What the judge is shown, and what is trained on, is what the agent did."""
    drawn = await by_agent(context(Agent()), 2)(TASKS[0])
    store.add_task(TASKS[0])
    store.add_candidates(TASKS[0].id, drawn.candidates)
    assert store.candidates(TASKS[0].id) == list(drawn.candidates)


async def test_given_candidates_are_taken_as_they_are():
    """They are labelled, and nobody is asked."""
    task = TASKS[0]
    given = tuple(Candidate(task_id=task.id, index=i, text=f"Answer: {t}") for i, t in enumerate(("Anna 0", "Carl")))
    chat = Agent()
    drawn = await by_agent(context(chat), 3)(task.model_copy(update={"candidates": given}))
    assert [(c.text, c.correct, c.turns) for c in drawn.candidates] == [
        ("Answer: Anna 0", True, ()),
        ("Answer: Carl", False, ()),
    ]
    assert not chat.sent


async def test_a_cut_answer_is_none():
    """What stands in a reply that was cut, or beside a call, is no final answer."""
    drawn = await by_agent(context(Agent()), 1)(TASKS[0])
    made = drawn.candidates[0].turns
    cut = Trajectory(role="agent", turns=made, stop_reason=StopReason.LENGTH)
    assert (candidate_of(TASKS[0], 0, cut).answer, candidate_of(TASKS[0], 0, cut).correct) == (None, False)
