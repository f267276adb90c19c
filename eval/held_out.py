"""Verdicts on held-out candidates: the bidirectional verifier with a given chat model, every trajectory recorded.

Inputs: problems with labelled candidates; outputs: one `VerdictRow` a candidate. Candidates of a problem with the same
text are verified once: decoding is greedy, so they would get the same review.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agents.types import ROLES, Candidate, StopReason, Task, Trajectory
from eval.answers import extract_answer
from eval.best_of_n import Scored
from eval.results import VerdictRow
from graphs.bidirectional import aggregate, build_bidirectional
from graphs.state import BidirectionalContext
from tools.errors import ModelError

Reviews = dict[str, dict[str, Trajectory]]  # candidate id → role → trajectory
Record = Callable[[Trajectory], object]


class Pool(NamedTuple):
    """A problem and its labelled candidates."""

    task: Task
    candidates: Sequence[Candidate]


def representatives(pools: Iterable[Pool]) -> dict[str, str]:
    """Map each candidate's id to that of the first candidate of its problem with the same text."""
    out: dict[str, str] = {}
    for pool in pools:
        first: dict[str, str] = {}
        for candidate in pool.candidates:
            out[candidate.id] = first.setdefault(candidate.text.strip(), candidate.id)
    return out


async def review_all(
    pools: Sequence[Pool],
    context: BidirectionalContext,
    *,
    held: Reviews,
    record: Record,
    width: int,
    advance: Callable[[], object],
) -> Reviews:
    """Review every distinct candidate in both directions; those in `held` are not reviewed again.

    Args:
        pools: what to review.
        context: of the bidirectional graph, chat and tools filled in.
        held: reviews made before.
        record: keeps a trajectory, its ids filled.
        width: candidates at once.
        advance: called after each candidate.

    Returns:
        Reviews of the representatives.

    Raises:
        ModelError: a review failed: an outage is not a verdict. What is recorded is kept.
    """
    graph, slots, reviews = build_bidirectional(), asyncio.Semaphore(width), dict(held)
    stands_for = representatives(pools)

    async def one(task: Task, candidate: Candidate) -> None:
        async with slots:
            out = await graph.ainvoke(
                {"problem": task.question, "solution": candidate.text, "trajectory_id": candidate.id}, context=context
            )
        ids = {"task_id": task.id, "candidate_id": candidate.id}
        for role, side in zip(ROLES, ("forward", "backward"), strict=True):
            trajectory = out[side].model_copy(update=ids)
            if trajectory.stop_reason is StopReason.ERROR:
                raise ModelError(f"evaluation: {trajectory.error.message if trajectory.error else 'a review failed'}")
            record(trajectory)
            reviews.setdefault(candidate.id, {})[role] = trajectory
        advance()

    async with asyncio.TaskGroup() as group:
        for pool in pools:
            for candidate in pool.candidates:
                if stands_for[candidate.id] == candidate.id and len(held.get(candidate.id, {})) < len(ROLES):
                    group.create_task(one(pool.task, candidate))
    return reviews


def verdict_rows(
    pools: Sequence[Pool], reviews: Mapping[str, Mapping[str, Trajectory]], context: BidirectionalContext
) -> list[VerdictRow]:
    """Return one row for each labelled candidate, in order; costs are those of both reviews."""
    rows: list[VerdictRow] = []
    stands_for = representatives(pools)
    for pool in pools:
        for candidate in pool.candidates:
            if candidate.correct is None:
                continue
            forward, backward = (reviews[stands_for[candidate.id]][role] for role in ROLES)
            verdict = aggregate(forward.verdict, backward.verdict, context.aggregation)
            rows.append(
                VerdictRow(
                    task_id=pool.task.id,
                    label=candidate.correct,
                    passed=verdict.passed if verdict else None,
                    confidence=verdict.confidence if verdict else None,
                    family=pool.task.source.rpartition(":")[2].rpartition("/")[2],
                    tool_calls=forward.tool_calls + backward.tool_calls,
                    tokens=forward.completion_tokens + backward.completion_tokens,
                    seconds=forward.seconds + backward.seconds,
                )
            )
    return rows


def scored_pools(pools: Sequence[Pool], rows: Sequence[VerdictRow]) -> list[list[Scored]]:
    """Return each problem's candidates with their verdicts for Best-of-N; `rows` are those of `verdict_rows`."""
    verdicts, out = iter(rows), []
    for pool in pools:
        scored = []
        for candidate in pool.candidates:
            if candidate.correct is not None:
                row = next(verdicts)
                answer = candidate.answer or extract_answer(candidate.text)
                scored.append(Scored(answer=answer, correct=row.label, confidence=row.confidence, passed=row.passed))
        if scored:
            out.append(scored)
    return out
