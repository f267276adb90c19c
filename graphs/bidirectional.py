"""The bidirectional verifier: forward ∥ backward → [reconcile] → aggregate (AgentV-RL: sufficiency and necessity).

Input: a problem and a solution. Output: the trajectories of both directions (several samples each, where the context
asks for them) and the joint verdict: the AND of the directions' verdicts, with a confidence joined by the method that
the context names. The samples of a direction are averaged first, and their majority is its verdict.

With a cascade, backward is asked only where forward's confidence lies inside a band; a direction that was not asked has
no part in the verdict. `graphs/reconcile.py` has what happens where the two disagree.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any, Literal

from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.hollow import is_hollow
from agents.types import ROLES, Role, Trajectory, Verdict, VerifierRole
from graphs.reconcile import disagreeing, reconcile_all
from graphs.state import (
    Aggregation,
    BidirectionalContext,
    BidirectionalInput,
    BidirectionalOutput,
    BidirectionalState,
    VerifierInput,
)
from graphs.verifier import build_verifier

HOLLOW = "The solution says nothing that could be verified."
Weights = tuple[float, float]
Direction = Literal["verify_forward", "verify_backward"]

AGGREGATIONS: dict[Aggregation, Callable[[float, float, Weights], float]] = {
    "weighted": lambda forward, backward, w: (w[0] * forward + w[1] * backward) / (w[0] + w[1]),
    "mean": lambda forward, backward, _: (forward + backward) / 2,
    "min": lambda forward, backward, _: min(forward, backward),
    "product": lambda forward, backward, _: forward * backward,
}


def aggregate(
    forward: Verdict | None,
    backward: Verdict | None,
    method: Aggregation = "weighted",
    weights: Weights = (0.7, 0.3),
) -> Verdict | None:
    """Join the verdicts of the two directions.

    Args:
        forward: Verdict on sufficiency, None where there is none.
        backward: Verdict on necessity, likewise.
        method: A name of `AGGREGATIONS`; "weighted" with 0.7 and 0.3 is that of AgentV-RL's code.
        weights: Weights of forward and backward ("weighted" only); they need not sum to one.

    Returns:
        Passed when both passed; a score in [0, 1]; both critiques; the findings on steps of the first direction that
        found one wrong. None where either verdict is missing: a review that failed is not a review that found no error.
    """
    if forward is None or backward is None:
        return None
    return Verdict(
        passed=forward.passed and backward.passed,
        score=AGGREGATIONS[method](forward.confidence, backward.confidence, weights),
        source="aggregate",
        critique=f"Forward: {forward.critique}\nBackward: {backward.critique}",
        findings=next((v.findings for v in (forward, backward) if v.first_error is not None), forward.findings),
    )


def agreed(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """Join the samples of one direction.

    Args:
        verdicts: One a sample; None where it gave none, which is left out.

    Returns:
        The verdict itself where there is one only. Else: passed by majority, a tie by the mean confidence (above 0.5);
        the mean of the confidences; critique and findings of the first sample of the majority. None where no sample
        gave a verdict.
    """
    given = [v for v in verdicts if v is not None]
    if len(given) < 2:
        return given[0] if given else None
    mean = fmean(v.confidence for v in given)
    ahead = 2 * sum(v.passed for v in given) - len(given)
    passed = ahead > 0 or (ahead == 0 and mean > 0.5)
    voice = next(v for v in given if v.passed == passed)
    return voice.model_copy(update={"score": mean, "source": "aggregate", "extra_tokens": 0})


def joint_verdict(
    solution: str, reviews: Sequence[Trajectory], aggregation: Aggregation = "weighted", forward_weight: float = 0.7
) -> Verdict | None:
    """Return the verdict that the reviews of one solution come to: samples first, then directions.

    Where one direction only was asked, it is that direction's own verdict, with its own source. A solution that says
    nothing is never accepted, whatever the reviews say (`agents/hollow.py`).
    """
    sides = [agreed([r.verdict for r in reviews if r.role == role]) for role in roles_of(reviews)]
    if not sides:
        return None
    if len(sides) == 1:
        joint = sides[0]
    else:
        joint = aggregate(*sides, method=aggregation, weights=(forward_weight, 1 - forward_weight))
    if joint is not None and joint.passed and is_hollow(solution):
        return joint.model_copy(update={"passed": False, "score": 0.0, "critique": HOLLOW})
    return joint


def roles_of(reviews: Sequence[Trajectory]) -> list[Role]:
    """Return the directions that were asked, in order."""
    return [role for role in ROLES if any(r.role == role for r in reviews)]


def first_asked(context: BidirectionalContext) -> list[Direction]:
    """Return the directions to begin with: both at once, or forward alone where backward may not be needed."""
    if context.directions == "both":
        return ["verify_forward"] if context.cascade else ["verify_forward", "verify_backward"]
    return ["verify_forward"] if context.directions == "forward" else ["verify_backward"]


def after_forward(
    reviews: Sequence[Trajectory], context: BidirectionalContext
) -> Literal["verify_backward", "aggregate"]:
    """Ask backward next where the cascade has one and forward leaves it open.

    A forward review that failed has no confidence, and nothing that backward says could make a joint verdict of it.
    """
    verdict = agreed([r.verdict for r in reviews if r.role == "forward_verifier"])
    if context.cascade is None or verdict is None:
        return "aggregate"
    low, high = context.cascade
    return "verify_backward" if low <= verdict.confidence <= high else "aggregate"


def must_reconcile(state: BidirectionalState, context: BidirectionalContext) -> bool:
    """Return whether the directions are to read each other's reviews: their verdicts differ, and they have not yet."""
    if not context.reconcile or state.get("reconciled"):
        return False
    sides = [agreed([r.verdict for r in state["reviews"] if r.role == role]) for role in ROLES]
    passed = {side.passed for side in sides if side is not None}
    return len(passed) == 2 and bool(disagreeing(state["reviews"]))


async def begin(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> list[Direction]:
    """Begin with the directions that the context names."""
    return first_asked(context_of(runtime))


async def verify_forward(
    state: BidirectionalState, runtime: Runtime[BidirectionalContext]
) -> Command[Literal["verify_backward", "aggregate"]]:
    """Is each step sufficient for the next?"""
    context = context_of(runtime)
    update = await _review(state, context, "forward_verifier")
    return Command(update=update, goto=after_forward(update["reviews"], context))


async def verify_backward(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Are all conditions of the problem met and used?"""
    return await _review(state, context_of(runtime), "backward_verifier")


async def _review(state: BidirectionalState, context: BidirectionalContext, role: VerifierRole) -> dict[str, Any]:
    """Run the samples of a direction at once."""
    base = state.get("trajectory_id") or uuid.uuid4().hex

    async def one(index: int) -> Trajectory:
        session = session_of(base, role, index)
        given = VerifierInput(problem=state["problem"], solution=state["solution"], role=role, trajectory_id=session)
        out = await build_verifier().ainvoke(given, context=context)
        return out["trajectory"].model_copy(update={"sample_index": index})

    return {"bases": {role: base}, "reviews": await asyncio.gather(*(one(i) for i in range(context.samples)))}


def session_of(base: str, role: str, index: int) -> str:
    """Return the name of a review's chat and sandbox session."""
    return f"{base}:{role}:{index}" if index else f"{base}:{role}"


async def join_verdicts(
    state: BidirectionalState, runtime: Runtime[BidirectionalContext]
) -> Command[Literal["reconcile", "__end__"]]:
    """Join the verdicts, after the reconciliation where there is to be one."""
    context, reviews = context_of(runtime), state["reviews"]
    if must_reconcile(state, context):
        return Command(goto="reconcile")
    first = {r.role: r for r in reversed(reviews)}
    update = {
        "asked": roles_of(reviews),
        "forward": first.get("forward_verifier"),
        "backward": first.get("backward_verifier"),
        "verdict": joint_verdict(state["solution"], reviews, context.aggregation, context.forward_weight),
    }
    return Command(update=update, goto="__end__")


async def reconcile(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Have each of two reviews that disagree read the other."""
    changed = await reconcile_all(
        disagreeing(state["reviews"]),
        state,
        lambda review: session_of(state["bases"][review.role], review.role, review.sample_index),
        context_of(runtime),
    )
    return {"reviews": changed, "reconciled": True}


def context_of(runtime: Runtime[BidirectionalContext]) -> BidirectionalContext:
    """Return the settings of the run, or the defaults where it was given none."""
    return runtime.context or BidirectionalContext()


@cache
def build_bidirectional() -> CompiledStateGraph[
    BidirectionalState, BidirectionalContext, BidirectionalInput, BidirectionalOutput
]:
    """Compile the bidirectional verifier."""
    graph = StateGraph(
        BidirectionalState,
        context_schema=BidirectionalContext,
        input_schema=BidirectionalInput,
        output_schema=BidirectionalOutput,
    )
    graph.add_node("verify_forward", verify_forward)
    graph.add_node("verify_backward", verify_backward)
    graph.add_node("aggregate", join_verdicts)
    graph.add_node("reconcile", reconcile)
    graph.add_conditional_edges(START, begin, ["verify_forward", "verify_backward"])
    graph.add_edge("verify_backward", "aggregate")
    graph.add_edge("reconcile", "aggregate")
    return graph.compile(name="bidirectional")
