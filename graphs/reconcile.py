"""Reconciliation: where the two directions disagree, each reads the other's review once and may change its verdict.

Inputs: the finished reviews of one solution and the context. Outputs: the reviews with one more turn each. Sample i of
forward reads sample i of backward, and the other way round; only pairs whose verdicts differ are asked. Neither paper
has this; it is off by default, and whether it helps is to be measured.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from agents.confidence import Confidence, Source
from agents.protocol import before_verdict, to_langchain
from agents.roles import reconciled_version, render
from agents.types import ROLES, StopReason, Trajectory, Verdict, VerifierRole
from graphs.asking import make_verdict, seconds_left, take_turn
from graphs.state import BidirectionalInput, VerifierContext, VerifierState
from graphs.turns import within

Pair = tuple[Trajectory, Trajectory]


def disagreeing(reviews: Sequence[Trajectory]) -> list[Pair]:
    """Return the pairs (forward, backward) of the same sample whose two verdicts were given and differ."""
    forward, backward = ({r.sample_index: r for r in reviews if r.role == role and r.verdict} for role in ROLES)
    pairs = [(forward[i], backward[i]) for i in sorted(forward.keys() & backward.keys())]
    return [(f, b) for f, b in pairs if f.verdict and b.verdict and f.verdict.passed != b.verdict.passed]


async def reconcile_all(
    pairs: Sequence[Pair], given: BidirectionalInput, session: Callable[[Trajectory], str], context: VerifierContext
) -> list[Trajectory]:
    """Ask both sides of every pair at once; each sees the other's first verdict.

    Args:
        pairs: What `disagreeing` found.
        given: The problem and the solution under review.
        session: Names the chat session of a review.
        context: Model, prompts' style and limits, which hold for a review as a whole.

    Returns:
        The reviews, each with its turn.
    """
    asked = [(mine, other) for forward, backward in pairs for mine, other in ((forward, backward), (backward, forward))]

    async def one(mine: Trajectory, other: Trajectory) -> Trajectory:
        state = reopened(mine, given, session(mine))
        return await reconcile(state, mine, cast(Verdict, other.verdict), context)

    return list(await asyncio.gather(*(one(mine, other) for mine, other in asked)))


def reopened(review: Trajectory, given: BidirectionalInput, session: str) -> VerifierState:
    """Return the state that a finished review was left in."""
    return VerifierState(
        problem=given["problem"],
        solution=given["solution"],
        role=cast(VerifierRole, review.role),
        trajectory_id=session,
        messages=[to_langchain(message) for message in review.messages],
        turns=list(review.turns),
        started=time.monotonic() - review.seconds,
    )


async def reconcile(state: VerifierState, review: Trajectory, other: Verdict, context: VerifierContext) -> Trajectory:
    """Show a review the other one and return it with what it says then.

    A reply without a verdict, or a limit, leaves the verdict as it was; an outage makes the review a failed one.
    """
    prompt = render(review.role, "reconcile", context.style, review=as_told(other))
    update = await within(seconds_left(state, context), "reconcile", take_turn(state, context, "reconcile", prompt))
    changed: dict[str, Any] = {"seconds": time.monotonic() - state["started"]}
    if "turns" in update:
        version = reconciled_version(review.prompt_version, review.role, context.style)
        changed |= {"turns": (*review.turns, update["turns"]), "prompt_version": version}
    if "outcome" in update:
        changed["verdict"] = second_verdict(review, update["outcome"], update["turns"].content)
    if update["stop"] is StopReason.ERROR:
        changed |= {"stop_reason": StopReason.ERROR, "error": update.get("error"), "verdict": None}
    return review.model_copy(update=changed)


def second_verdict(review: Trajectory, verdict: Verdict, reply: str) -> Verdict:
    """Return a verdict with the whole history of its review: what was found first, and what the reply adds."""
    first = cast(Verdict, review.verdict)
    critique = "\n".join(text for text in (first.critique, before_verdict(reply)) if text)
    confidence = Confidence(verdict.score, cast(Source, verdict.source), first.extra_tokens + verdict.extra_tokens)
    return make_verdict(verdict.passed, confidence, critique, review.role)


def as_told(verdict: Verdict) -> str:
    """Return a review as the other direction is shown it."""
    return f"{verdict.critique}\nIts verdict: {'true' if verdict.passed else 'false'}".strip()
