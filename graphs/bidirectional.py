"""The bidirectional verifier: forward ∥ backward → aggregate (AgentV-RL: sufficiency and necessity).

Input: a problem and a solution. Output: the trajectories of both directions (several samples each, where the context
asks for them) and the joint verdict: the AND of the directions' verdicts, with a confidence joined by the method that
the context names. The samples of a direction are averaged first, and their majority is its verdict.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agents.types import ROLES, Role, Trajectory, Verdict
from graphs.state import (
    Aggregation,
    BidirectionalContext,
    BidirectionalInput,
    BidirectionalOutput,
    BidirectionalState,
    VerifierInput,
)
from graphs.verifier import build_verifier

Weights = tuple[float, float]

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
        Passed when both passed; a score in [0, 1]; both critiques; the findings on steps are those of the first direction
        that found one wrong. None where either verdict is missing: a review that
        failed is not a review that found no error.
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
        the mean of the confidences; critique and findings of the first sample of the majority. None where no sample gave a verdict.
    """
    given = [v for v in verdicts if v is not None]
    if len(given) < 2:
        return given[0] if given else None
    mean = fmean(v.confidence for v in given)
    ahead = 2 * sum(v.passed for v in given) - len(given)
    passed = ahead > 0 or (ahead == 0 and mean > 0.5)
    voice = next(v for v in given if v.passed == passed)
    return voice.model_copy(update={"score": mean, "source": "aggregate", "extra_tokens": 0})


def joint_verdict(reviews: Sequence[Trajectory], context: BidirectionalContext) -> Verdict | None:
    """Return the verdict that the reviews of one solution come to: samples first, then directions."""
    forward, backward = (agreed([r.verdict for r in reviews if r.role == role]) for role in ROLES)
    return aggregate(forward, backward, context.aggregation)


async def _review(state: BidirectionalState, runtime: Runtime[BidirectionalContext], role: Role) -> dict[str, Any]:
    """Run the samples of a direction at once."""
    context = runtime.context or BidirectionalContext()
    base = state.get("trajectory_id") or uuid.uuid4().hex

    async def one(index: int) -> Trajectory:
        session = session_of(base, role, index)
        given = VerifierInput(
            problem=state["problem"], solution=state["solution"], role=role, trajectory_id=session
        )
        out = await build_verifier().ainvoke(given, context=context)
        return out["trajectory"].model_copy(update={"sample_index": index})

    return {"reviews": await asyncio.gather(*(one(i) for i in range(context.samples)))}


def session_of(base: str, role: Role, index: int) -> str:
    """Return the name of a review's chat and sandbox session."""
    return f"{base}:{role}:{index}" if index else f"{base}:{role}"


async def verify_forward(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Is each step sufficient for the next?"""
    return await _review(state, runtime, "forward_verifier")


async def verify_backward(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Are all conditions of the problem met and used?"""
    return await _review(state, runtime, "backward_verifier")


async def join_verdicts(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Join the two verdicts."""
    context = runtime.context or BidirectionalContext()
    first = {r.role: r for r in reversed(state["reviews"])}
    return {
        "forward": first["forward_verifier"],
        "backward": first["backward_verifier"],
        "verdict": joint_verdict(state["reviews"], context),
    }


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
    graph.add_edge(START, "verify_forward")
    graph.add_edge(START, "verify_backward")
    graph.add_edge(["verify_forward", "verify_backward"], "aggregate")
    graph.add_edge("aggregate", END)
    return graph.compile(name="bidirectional")
