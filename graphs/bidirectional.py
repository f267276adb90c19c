"""The bidirectional verifier: forward ∥ backward → aggregate (AgentV-RL: sufficiency and necessity).

Input: a problem and a solution. Output: both trajectories and the joint verdict: the AND of the verdicts, with a
confidence joined by the method that the context names.
"""

import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from agents.types import Role, Trajectory, Verdict
from graphs.state import (
    Aggregation,
    BidirectionalContext,
    BidirectionalInput,
    BidirectionalOutput,
    BidirectionalState,
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
        Passed when both passed; a score in [0, 1]; both critiques. None where either verdict is missing: a review that
        failed is not a review that found no error.
    """
    if forward is None or backward is None:
        return None
    return Verdict(
        passed=forward.passed and backward.passed,
        score=AGGREGATIONS[method](forward.confidence, backward.confidence, weights),
        source="aggregate",
        critique=f"Forward: {forward.critique}\nBackward: {backward.critique}",
    )


async def _review(state: BidirectionalState, runtime: Runtime[BidirectionalContext], role: Role) -> Trajectory:
    context = runtime.context or BidirectionalContext()
    session = f"{state.get('trajectory_id') or uuid.uuid4().hex}:{role}"
    out = await build_verifier().ainvoke(
        {"problem": state["problem"], "solution": state["solution"], "role": role, "trajectory_id": session},
        context=context,
    )
    return out["trajectory"]


async def verify_forward(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Is each step sufficient for the next?"""
    return {"forward": await _review(state, runtime, "forward_verifier")}


async def verify_backward(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Are all conditions of the problem met and used?"""
    return {"backward": await _review(state, runtime, "backward_verifier")}


async def join_verdicts(state: BidirectionalState, runtime: Runtime[BidirectionalContext]) -> dict[str, Any]:
    """Join the two verdicts."""
    context = runtime.context or BidirectionalContext()
    forward, backward = (t.verdict if t else None for t in (state.get("forward"), state.get("backward")))
    return {"verdict": aggregate(forward, backward, context.aggregation)}


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
