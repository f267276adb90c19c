"""The agent's turns: pure rules on what a reply means and when to stop, and the running of its calls.

Inputs: the turns so far, the limits of a `ReactContext`. Outputs: where the graph goes, a `StopReason` or None, tool
results. What the model got wrong is an observation (`ok=False`), a repeated call too; a failure of the infrastructure
is raised, for `graphs.turns.within` to make data of.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from agents.final_answer import gives_answer
from agents.protocol import ParseFailure, format_tool_call, parse_tool_calls
from agents.types import StopReason, Turn
from graphs.react_state import ReactContext, Update
from graphs.turns import calls_made, tokens_held, wants_tools
from tools.base import Tool, ToolCall, ToolResult
from tools.registry import call_tool

STATEFUL = ("python",)  # between two of its calls another one may have changed what the same call gives
LAST_STEP = "(this is your last step: give your final answer now, without a tool call)"
NO_CALLS_LEFT = "(no tool calls left: give your final answer)"
NOTHING_DONE = "That holds neither a tool call nor a final answer. Call a tool, or give your answer: <answer>…</answer>"


def stop_after_act(turns: Sequence[Turn], context: ReactContext) -> StopReason | None:
    """Return why the trajectory ends with its last turn, or None when it goes on.

    A reply with neither a call nor an answer is pointed out once; two of them in a row end the trajectory. Calls of the
    last step are not run: there is no step left to read what they give.
    """
    turn = turns[-1]
    if turn.finish_reason == "length":
        cut_by_trajectory = tokens_held(turns) >= context.max_trajectory_tokens
        return StopReason.MAX_TOKENS if cut_by_trajectory else StopReason.LENGTH
    if gives_answer(turn):
        return StopReason.COMPLETED
    calls = wants_tools(turn)
    if calls and calls_made(turns[:-1]) >= context.max_tool_calls:
        return StopReason.MAX_TOOL_CALLS
    if not calls and len(turns) > 1 and does_nothing(turns[-2]):
        return StopReason.UNPARSED
    return StopReason.MAX_TURNS if len(turns) >= context.max_turns else None


def does_nothing(turn: Turn) -> bool:
    """Return whether a turn holds neither a call, well-formed or not, nor a final answer."""
    return not wants_tools(turn) and not gives_answer(turn)


def after_think(update: Update) -> Literal["tools", "think", "finish"]:
    """A call, well-formed or not, is answered; a reply that does nothing is pointed out and the model asked again."""
    if "stop" in update:
        return "finish"
    return "tools" if wants_tools(update["turns"]) else "think"


def after_tools(update: Update) -> Literal["think", "finish"]:
    """What the tools said goes back to the model."""
    return "finish" if "stop" in update else "think"


def notice(turns: Sequence[Turn], context: ReactContext) -> str:
    """Return what the model is told of its limits with an observation, "" when there is room for more calls.

    The next step is the last one when no other is allowed after it, or when the tokens left are those of one step.
    """
    room = context.max_trajectory_tokens - tokens_held(turns)
    if len(turns) + 1 >= context.max_turns or room < 2 * context.max_tokens:
        return LAST_STEP
    return NO_CALLS_LEFT if calls_made(turns) >= context.max_tool_calls else ""


class Past(NamedTuple):
    """A call made before: the step in which it was (from 1), and whether its result was one."""

    step: int
    call: ToolCall
    ok: bool


def past_calls(turns: Sequence[Turn]) -> Iterator[Past]:
    """Yield the calls of the turns in order; those of a turn whose calls have not run are left out."""
    for step, turn in enumerate(turns, 1):
        for call, result in zip(turn.tool_calls, turn.results, strict=False):
            yield Past(step, call, result.ok)


def repeated(call: ToolCall, past: Sequence[Past]) -> int | None:
    """Return the step in which this very call was made before, None where it is to be run.

    A call that failed may be tried a second time, and one of a tool with a state is another one when the tool was
    called in between.
    """
    same = [i for i, made in enumerate(past) if _same(made.call, call)]
    if not same or (len(same) == 1 and not past[same[0]].ok):
        return None
    since = past[same[-1] + 1 :]
    if call.name in STATEFUL and any(made.call.name == call.name for made in since):
        return None
    return past[same[-1]].step


def _same(one: ToolCall, other: ToolCall) -> bool:
    return one.name == other.name and _spelled(one) == _spelled(other)


def _spelled(call: ToolCall) -> str:
    return json.dumps(call.arguments, sort_keys=True)


async def run_steps_calls(
    turns: Sequence[Turn], tools: Mapping[str, Tool], key: str, context: ReactContext
) -> list[ToolResult]:
    """Run the calls of the last turn one after the other.

    Args:
        turns: All turns; the last one wants tools.
        tools: The tools by name.
        key: The trajectory, whose session the calls share.
        context: How many calls there may be.

    Raises:
        SandboxError: the sandbox is out of order.
        ToolError: another tool's backend is.
    """
    calls, hint = parse_tool_calls(turns[-1].content), call_hint(tools)
    if isinstance(calls, ParseFailure):
        return [ToolResult(name="", content=f"{calls.reason} {hint}", ok=False)]
    past = list(past_calls(turns[:-1]))
    budget = context.max_tool_calls - calls_made(turns[:-1])
    results: list[ToolResult] = []
    for index, call in enumerate(calls):
        if index >= budget:
            result = ToolResult(name=call.name, content="Not run: no tool calls left.", ok=False)
        elif step := repeated(call, past):
            result = ToolResult(name=call.name, content=told_repeated(step, len(turns)), ok=False)
        else:
            result = await call_tool(tools, call, key, hint=hint)
        past.append(Past(len(turns), call, result.ok))
        results.append(result)
    return results


def told_repeated(step: int, now: int) -> str:
    """Return the observation of a repeated call: it was made in step `step`, and this is step `now`."""
    where = "in this step" if step == now else f"in step {step}"
    return f"Not run: this very call was made {where} already, see its result there. Change it, or give your answer."


def call_hint(tools: Mapping[str, Tool]) -> str:
    """Return how a call is written, by the first tool that there is."""
    for tool in tools.values():
        return f"Write it as {format_tool_call(ToolCall(name=tool.name, arguments=tool.example))}"
    return "There are no tools."
