"""Verdicts on held-out candidates: the bidirectional verifier with a given chat model, every trajectory recorded.

Inputs: problems with labelled candidates; outputs: one `VerdictRow` a candidate. Candidates of a problem with the same
text are verified once: decoding is greedy, so they would get the same review.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from agents.outages import Circuit, failure
from agents.types import ROLES, Candidate, ErrorInfo, Role, StopReason, Task, Trajectory, Verdict
from eval.answers import extract_answer
from eval.best_of_n import Scored
from eval.costs import cost_of
from eval.results import VerdictRow
from graphs.bidirectional import after_forward, build_bidirectional, first_asked, joint_verdict
from graphs.state import BidirectionalContext

Reviews = dict[str, dict[str, Trajectory]]  # candidate id → side (see `side_of`) → trajectory
Record = Callable[[Trajectory], object]
ROLE_OF: dict[str, Role] = {"verify_forward": "forward_verifier", "verify_backward": "backward_verifier"}


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


def failed(trajectory: Trajectory) -> bool:
    """Whether the infrastructure failed: that is no review."""
    return trajectory.stop_reason is StopReason.ERROR


def side_of(trajectory: Trajectory) -> str:
    """Return what a review is held under: its role, with the number of its sample from the second on."""
    return f"{trajectory.role}:{trajectory.sample_index}" if trajectory.sample_index else trajectory.role


def complete(sides: Mapping[str, Trajectory], context: BidirectionalContext) -> bool:
    """Whether a candidate has every review that the settings ask for, and none of them failed."""
    reviews = list(sides.values())
    if any(failed(review) for review in reviews):
        return False
    made = Counter(review.role for review in reviews)
    asked: set[Role] = {ROLE_OF[node] for node in first_asked(context)}
    if context.cascade and made[ROLES[0]] and after_forward(reviews, context) != "aggregate":
        asked.add(ROLES[1])
    return all(made[role] == context.samples for role in asked)


class Reviewer:
    """Reviews candidates as they are asked for; every trajectory is recorded, failures included.

    `reviews` holds those that are complete; `failed` counts candidates whose review failed in this sitting.
    """

    def __init__(
        self,
        context: BidirectionalContext,
        *,
        held: Mapping[str, Mapping[str, Trajectory]],
        record: Record,
        width: int,
        max_outages: int = 1,
    ) -> None:
        """Set out from what is held.

        Args:
            context: of the bidirectional graph, chat and tools filled in.
            held: reviews made before, by candidate and role; those that are complete are not made again.
            record: keeps a trajectory, its ids filled; a failed one too.
            width: candidates at once.
            max_outages: failures in a row after which no review begins.
        """
        self.context, self.record = context, record
        self.reviews: Reviews = {c: dict(sides) for c, sides in held.items() if complete(sides, context)}
        self.failed = 0
        self._halves = {c: {r: t for r, t in sides.items() if not failed(t)} for c, sides in held.items()}
        self._last: ErrorInfo | None = None
        self._graph, self._slots = build_bidirectional(), asyncio.Semaphore(width)
        self._circuit = Circuit(max_outages)

    async def review(self, task: Task, candidate: Candidate) -> dict[str, Trajectory] | None:
        """Return all reviews of a candidate, made now or before; None where one of them failed.

        Raises:
            ModelError, SandboxError, ToolError: too many failures in a row. What is recorded is kept.
        """
        if candidate.id in self.reviews:
            return self.reviews[candidate.id]
        async with self._slots:
            self._circuit.check()
            out = await self._graph.ainvoke(
                {"problem": task.question, "solution": candidate.text, "trajectory_id": candidate.id},
                context=self.context,
            )
        ids = {"task_id": task.id, "candidate_id": candidate.id}
        sides = {side_of(review): review.model_copy(update=ids) for review in out["reviews"]}
        sides |= self._halves.get(candidate.id, {})  # a sitting was killed between two rows: what is stored counts
        for trajectory in sides.values():
            self.record(trajectory)
        if not any(failed(review) for review in sides.values()):
            self.reviews[candidate.id] = sides
            self._circuit.worked()
            return sides
        self.failed += 1
        down = next(t for t in sides.values() if failed(t))
        error = down.error or ErrorInfo(kind="RolloutError", message="a review failed and gave no reason")
        self._last = error
        self._circuit.failed(error)
        return None

    def check_all(self) -> None:
        """Make sure that no review failed.

        Raises:
            ModelError, SandboxError, ToolError: one did: an outage is not a verdict.
        """
        if self._last is not None:
            raise failure(self.failed, "reviews", self._last)


async def review_all(
    pools: Sequence[Pool],
    context: BidirectionalContext,
    *,
    held: Reviews,
    record: Record,
    width: int,
    advance: Callable[[bool], object],
) -> Reviews:
    """Review every distinct candidate in both directions; those in `held` are not reviewed again.

    Args:
        pools: what to review.
        context: of the bidirectional graph, chat and tools filled in.
        held: reviews made before.
        record: keeps a trajectory, its ids filled.
        width: candidates at once.
        advance: called after each candidate, with whether its review failed.

    Returns:
        Reviews of the representatives.

    Raises:
        ModelError, SandboxError, ToolError: a review failed: an outage is not a verdict. What is recorded is kept.
    """
    reviewer = Reviewer(context, held=held, record=record, width=width)
    await review_each(reviewer, pools, advance)
    return reviewer.reviews


async def review_each(reviewer: Reviewer, pools: Sequence[Pool], advance: Callable[[bool], object]) -> None:
    """Let a reviewer review every distinct candidate that it does not hold; `advance` learns which failed."""
    stands_for = representatives(pools)

    async def one(task: Task, candidate: Candidate) -> None:
        advance(await reviewer.review(task, candidate) is None)

    async with asyncio.TaskGroup() as group:
        for pool in pools:
            for candidate in pool.candidates:
                if stands_for[candidate.id] == candidate.id and candidate.id not in reviewer.reviews:
                    group.create_task(one(pool.task, candidate))


def verdict_of(solution: str, sides: Mapping[str, Trajectory], context: BidirectionalContext) -> Verdict | None:
    """Return what all reviews of a candidate say together, None where a direction that was asked gave no verdict."""
    return joint_verdict(solution, list(sides.values()), context.aggregation, context.forward_weight)


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
            sides = reviews[stands_for[candidate.id]]
            verdict, cost = verdict_of(candidate.text, sides, context), cost_of(sides.values())
            rows.append(
                VerdictRow(
                    task_id=pool.task.id,
                    label=candidate.correct,
                    passed=verdict.passed if verdict else None,
                    confidence=verdict.confidence if verdict else None,
                    family=pool.task.source.rpartition(":")[2].rpartition("/")[2],
                    tool_calls=int(cost.tool_calls),
                    tokens=int(cost.tokens),
                    seconds=cost.seconds,
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
