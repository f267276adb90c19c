"""Asking the chat model: one turn of a verifier, and the verdict that it may give.

Inputs: the state of a verifier, the prompt of a stage. Output: a partial update of the state, in which `stop` and
`outcome` are set where the turn ends the trajectory.
"""

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage

from agents.confidence import Confidence, Reading, read_confidence
from agents.protocol import parse_findings, to_langchain
from agents.roles import Stage, spec_of
from agents.types import Message, Role, StopReason, Verdict
from graphs.opened import chat_of
from graphs.state import VerifierContext, VerifierState
from graphs.turns import findings, make_turn, stop_after, stop_before, tokens_held, unanswered

Update = dict[str, Any]


async def take_turn(state: VerifierState, context: VerifierContext, stage: Stage, prompt: Sequence[Message]) -> Update:
    """Ask the chat model and read its reply.

    Raises:
        ModelError: the chat model failed.
    """
    turns, began = state["turns"], time.monotonic()
    if stop := stop_before(turns, began - state["started"], context):
        return {"stop": stop}
    opening = [to_langchain(message) for message in prompt]
    messages = [*state["messages"], *opening]
    max_tokens = min(context.max_tokens, context.max_trajectory_tokens - tokens_held(turns))
    reply = await chat_of(context).ainvoke(
        messages,
        session=state.get("trajectory_id", ""),
        stage=stage,
        max_tokens=max_tokens,
        temperature=context.temperature,
        top_logprobs=context.top_logprobs if stage in ("verdict", "reconcile") else None,
    )
    turn = make_turn(stage, unanswered(messages), reply, time.monotonic() - began)
    parsed = spec_of(state["role"]).parsers[stage](turn.content)
    update: Update = {"turns": turn, "messages": [*opening, AIMessage(turn.content)]}
    if stop := stop_after([*turns, turn], parsed, context):
        update["stop"] = stop
    if stop is StopReason.COMPLETED:
        how = reading_of(context, state.get("trajectory_id", ""), max_tokens)
        confidence = await read_confidence(messages, reply, how)
        update["outcome"] = make_verdict(parsed is True, confidence, findings([*turns, turn]), state["role"])
    return update


def reading_of(context: VerifierContext, session: str, max_tokens: int) -> Reading:
    """Return how the confidence of a verdict is read."""
    return Reading(
        chat=chat_of(context),
        session=session,
        method=context.confidence,
        samples=context.verdict_samples,
        top_logprobs=context.top_logprobs,
        max_tokens=max_tokens,
    )


def make_verdict(passed: bool, confidence: Confidence, critique: str, role: Role) -> Verdict:
    """Return the verdict of a review, its critique read for findings on steps."""
    return Verdict(
        passed=passed,
        score=confidence.score,
        source=confidence.source,
        critique=critique,
        extra_tokens=confidence.tokens,
        findings=parse_findings(critique, spec_of(role).labels),
    )


def seconds_left(state: VerifierState, context: VerifierContext) -> float:
    """Return the seconds left of the trajectory."""
    return context.max_seconds - (time.monotonic() - state["started"])
