"""Held-out verdicts: repeats are reviewed once, an outage is not a verdict, rows carry both reviews' costs."""

import pytest

from agents.types import Candidate, ErrorInfo, StopReason, Task, Trajectory, Turn, Verdict
from eval import held_out
from eval.held_out import Pool, complete, representatives, review_all, scored_pools, side_of, verdict_of, verdict_rows
from graphs.state import BidirectionalContext
from tools.errors import ModelError

TASK = Task(question="1+1?", answer="2", source="reasoning_gym:chain_sum")


def candidate(index: int, text: str, correct: bool) -> Candidate:
    return Candidate(task_id=TASK.id, index=index, text=text, correct=correct)


POOL = Pool(TASK, [candidate(0, "A: 2", True), candidate(1, "A: 3", False), candidate(2, "A: 2 ", True)])


def review(role: str, passed: bool | None, score: float | None = None) -> Trajectory:
    turn = Turn(stage="verdict", prompt=(), content="", completion_tokens=10)
    if passed is None:
        return Trajectory(role=role, turns=(turn,), stop_reason=StopReason.UNPARSED)  # pyright: ignore[reportArgumentType]
    verdict = Verdict(passed=passed, score=score, source="logprobs")
    return Trajectory(role=role, turns=(turn,), stop_reason=StopReason.COMPLETED, verdict=verdict)  # pyright: ignore[reportArgumentType]


class FakeGraph:
    def __init__(self, answers):
        self.answers, self.seen = answers, []

    async def ainvoke(self, state, context):
        self.seen.append(state["solution"].strip())
        return {"reviews": list(self.answers[state["solution"].strip()])}


async def reviewed(monkeypatch, answers, held=None):
    graph, kept = FakeGraph(answers), []
    monkeypatch.setattr(held_out, "build_bidirectional", lambda: graph)
    reviews = await review_all(
        [POOL], BidirectionalContext(), held=held or {}, record=kept.append, width=4, advance=lambda failed: None
    )
    return reviews, graph.seen, kept


BOTH = {
    "A: 2": (review("forward_verifier", True, 0.9), review("backward_verifier", True, 0.8)),
    "A: 3": (review("forward_verifier", True, 0.6), review("backward_verifier", False, 0.1)),
}


def test_repeats_stand_for_each_other():
    ids = [c.id for c in POOL.candidates]
    assert representatives([POOL]) == {ids[0]: ids[0], ids[1]: ids[1], ids[2]: ids[0]}


async def test_rows_by_hand(monkeypatch):
    """0.7 * 0.9 + 0.3 * 0.8 = 0.87; 0.7 * 0.6 + 0.3 * 0.1 = 0.45; verdicts are joined by AND."""
    reviews, seen, kept = await reviewed(monkeypatch, BOTH)
    assert sorted(seen) == ["A: 2", "A: 3"]
    assert len(kept) == 4 and all(t.task_id == TASK.id for t in kept)
    rows = verdict_rows([POOL], reviews, BidirectionalContext())
    assert [(r.label, r.passed) for r in rows] == [(True, True), (False, False), (True, True)]
    assert [r.confidence for r in rows] == pytest.approx([0.87, 0.45, 0.87])
    assert {(r.tokens, r.family) for r in rows} == {(20, "chain_sum")}
    scored = scored_pools([POOL], rows)[0]
    assert [(s.answer, s.correct) for s in scored] == [("2", True), ("3", False), ("2", True)]


async def test_what_is_held_is_not_reviewed_again(monkeypatch):
    first = POOL.candidates[0].id
    held = {first: {t.role: t for t in BOTH["A: 2"]}}
    _, seen, kept = await reviewed(monkeypatch, BOTH, held)
    assert seen == ["A: 3"] and len(kept) == 2


async def test_a_review_without_a_verdict_is_a_row_without_one(monkeypatch):
    answers = BOTH | {"A: 2": (review("forward_verifier", None), review("backward_verifier", True, 0.8))}
    reviews, _, _ = await reviewed(monkeypatch, answers)
    rows = verdict_rows([POOL], reviews, BidirectionalContext())
    assert (rows[0].passed, rows[0].confidence) == (None, None)


async def test_an_outage_is_not_a_verdict(monkeypatch):
    down = Trajectory(
        role="forward_verifier", stop_reason=StopReason.ERROR, error=ErrorInfo(kind="ModelError", message="gone")
    )
    with pytest.raises(BaseExceptionGroup) as caught:
        await reviewed(monkeypatch, BOTH | {"A: 2": (down, BOTH["A: 2"][1])})
    assert caught.group_contains(ModelError, match="gone")


def both(**more) -> BidirectionalContext:
    return BidirectionalContext(**more)


FORWARD, BACKWARD = "forward_verifier", "backward_verifier"


@pytest.mark.parametrize(
    ("context", "reviews", "done"),
    [
        (both(), [review(FORWARD, True)], False),
        (both(), [review(FORWARD, True), review(BACKWARD, None)], True),  # no verdict is an outcome
        (both(directions="forward"), [review(FORWARD, False)], True),
        (both(directions="backward"), [review(FORWARD, False)], False),
        (both(cascade=(0.2, 0.8)), [review(FORWARD, True, 0.9)], True),  # decided: backward is not asked
        (both(cascade=(0.2, 0.8)), [review(FORWARD, True, 0.5)], False),
        (both(cascade=(0.2, 0.8)), [review(FORWARD, True, 0.5), review(BACKWARD, True)], True),
        (both(samples=2, temperature=1.0, directions="forward"), [review(FORWARD, True)], False),
    ],
)
def test_what_the_settings_ask_for_is_complete(context: BidirectionalContext, reviews: list[Trajectory], done: bool):
    assert complete({side_of(r): r for r in reviews}, context) is done


def test_samples_stand_side_by_side():
    first, second = review(FORWARD, True, 0.9), review(FORWARD, False, 0.3).model_copy(update={"sample_index": 1})
    sides = {side_of(r): r for r in (first, second)}
    context = both(samples=2, temperature=1.0, directions="forward")
    assert complete(sides, context)
    verdict = verdict_of("A: 4", sides, context)
    assert verdict is not None and verdict.confidence == pytest.approx(0.6)
