"""Taking a turn: the pure rules on what a reply means and when to stop, and the boundary where failures become data.

Inputs: the turns so far, a reply of the chat model, the limits of a `VerifierContext`. Outputs: a `Turn`, a
`StopReason` or None, tool results. Limits are StopReasons, failures of the infrastructure are `ErrorInfo`; neither
leaves a graph as an exception.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from agents.protocol import (
    CALL_HINT,
    FINDING_LABELS,
    ParseFailure,
    before_verdict,
    parse_findings,
    parse_tool_calls,
    to_message,
    without_calls,
)
from agents.types import ErrorInfo, StopReason, Turn
from graphs.state import RunContext, VerifierContext
from tools.base import Tool, ToolResult
from tools.errors import ContextLengthError, RolloutError
from tools.registry import call_tool

NO_CALLS_LEFT = "(no tool calls left: write your findings)"
REFUTED = "(a check failed: write your findings)"
CALLING = ("validate", "act")  # stages whose replies may hold tool calls


def calls_made(turns: Sequence[Turn]) -> int:
    """Return the number of well-formed tool calls in the turns."""
    return sum(len(turn.tool_calls) for turn in turns)


def tokens_held(turns: Sequence[Turn]) -> int:
    """Return the tokens of the conversation up to the last reply."""
    return turns[-1].prompt_tokens + turns[-1].completion_tokens if turns else 0


def stop_before(turns: Sequence[Turn], elapsed: float, context: RunContext) -> StopReason | None:
    """Return the limit that forbids another turn, if any. `elapsed` is in seconds."""
    if len(turns) >= context.max_turns:
        return StopReason.MAX_TURNS
    if tokens_held(turns) >= context.max_trajectory_tokens:
        return StopReason.MAX_TOKENS
    return StopReason.MAX_SECONDS if elapsed >= context.max_seconds else None


def stop_after(turns: Sequence[Turn], parsed: object, context: VerifierContext) -> StopReason | None:
    """Return why the trajectory ends with its last turn, or None when it goes on.

    Args:
        turns: All turns, at least one.
        parsed: What the stage's parser made of the last one.
        context: The limits.
    """
    turn = turns[-1]
    if turn.finish_reason == "length":
        cut_by_trajectory = tokens_held(turns) >= context.max_trajectory_tokens
        return StopReason.MAX_TOKENS if cut_by_trajectory else StopReason.LENGTH
    if turn.stage == "validate":
        if context.early_stop and is_refuted(turns):
            return None  # the verdict is next, and a call that it may hold is not run
        calls_again = parsed != [] and calls_made(turns[:-1]) >= context.call_limit
        return StopReason.MAX_TOOL_CALLS if calls_again else None
    if isinstance(parsed, ParseFailure):
        return StopReason.UNPARSED
    return StopReason.COMPLETED if turn.stage in ("verdict", "reconcile") else None


def refutes(result: ToolResult) -> bool:
    """Return whether a tool result refutes what was checked: truth values and nothing else, one of them False.

    Such is the output of a check like `print(3 + 3 == 6, 6 * 2 == 13)`; any other output is for the model to read.
    """
    words = result.content.split()
    return result.ok and "False" in words and set(words) <= {"True", "False"}


def is_refuted(turns: Sequence[Turn]) -> bool:
    """Return whether the validate stage has refuted something decisively.

    Either a tool result did (`refutes`), or the last reply has a finding line such as `Step 2: wrong …`.
    """
    replies = [turn for turn in turns if turn.stage == "validate"]
    if any(refutes(result) for turn in replies for result in turn.results):
        return True
    return bool(replies) and any(not finding.ok for finding in parse_findings(replies[-1].content, FINDING_LABELS))


def wants_tools(turn: Turn) -> bool:
    """Return whether a validate reply holds a tool call, well-formed or not."""
    return parse_tool_calls(turn.content) != []


def unanswered(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages after the last assistant message."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], AIMessage)), -1)
    return list(messages[last + 1 :])


def make_turn(stage: str, prompt: Sequence[BaseMessage], reply: AIMessage, seconds: float) -> Turn:
    """Turn a reply of the chat model into a record.

    Args:
        stage: The stage that asked.
        prompt: The messages added since the previous assistant message.
        reply: The answer, with the metadata that `agents/chat.py` describes.
        seconds: How long the call took.
    """
    content, meta, usage = str(reply.text), reply.response_metadata, reply.usage_metadata
    calls = parse_tool_calls(content) if stage in CALLING else []
    return Turn(
        stage=stage,
        prompt=tuple(to_message(message) for message in prompt),
        content=content,
        reasoning=reply.additional_kwargs.get("reasoning_content") or "",
        finish_reason=meta.get("finish_reason") or "stop",
        prompt_tokens=usage["input_tokens"] if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        prompt_ids=_tuple(meta.get("prompt_token_ids")),
        completion_ids=_tuple(meta.get("token_ids")),
        logprobs=_tuple(meta.get("logprobs")),
        tool_calls=() if isinstance(calls, ParseFailure) else tuple(calls),
        seconds=seconds,
    )


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def findings(turns: Sequence[Turn]) -> str:
    """Return what the review says: the last validate reply, or what a single pass says before its verdict.

    Without thoughts and tool calls.
    """
    texts = [without_calls(turn.content) for turn in turns if turn.stage == "validate"]
    if not texts and turns and turns[-1].stage == "verdict":
        return before_verdict(turns[-1].content)
    return texts[-1] if texts else ""


async def run_calls(turn: Turn, tools: Mapping[str, Tool], key: str, budget: int) -> list[ToolResult]:
    """Run the calls of a turn one after the other; what cannot be run becomes an observation with `ok=False`.

    Args:
        turn: A validate turn that wants tools.
        tools: The tools by name.
        key: The trajectory, whose session the calls share.
        budget: How many calls may run; those beyond are refused.

    Raises:
        SandboxError: the sandbox is out of order.
        ToolError: another tool's backend is.
    """
    calls = parse_tool_calls(turn.content)
    if isinstance(calls, ParseFailure):
        return [ToolResult(name="", content=f"{calls.reason} {calls.hint}", ok=False)]
    return [
        await call_tool(tools, call, key, hint=CALL_HINT)
        if index < budget
        else ToolResult(name=call.name, content="Not run: no tool calls left.", ok=False)
        for index, call in enumerate(calls)
    ]


async def within(seconds: float, where: str, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Await a node's work: its limits become `MAX_SECONDS` and `MAX_TOKENS`, a failure of the infrastructure `ERROR`.

    Args:
        seconds: Time left of the trajectory.
        where: The node's name, for the error record.
        work: Gives the node's state update.
    """
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            return await work
    except TimeoutError:
        if not timer.expired():
            raise
        return {"stop": StopReason.MAX_SECONDS}
    except ContextLengthError:
        return {"stop": StopReason.MAX_TOKENS}
    except RolloutError as error:
        info = ErrorInfo(kind=type(error).__name__, message=str(error), where=where)
        return {"stop": StopReason.ERROR, "error": info}
