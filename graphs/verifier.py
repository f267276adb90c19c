"""The verifier: plan → validate ⇄ tools → verdict → finish. One machine, two roles (AgentV-RL, section Method).

Ablations leave parts out: without a plan it begins with validate, a single pass (GenRM) is the verdict alone.

Input: a problem, a solution, a role. Output: a `Trajectory`, whatever happened: every path ends in `finish`, which
builds it and releases the sandbox session. Nodes return partial updates; pure functions of an update say where it
leads, and a `Command` takes it there (a conditional edge with a plain function costs a thread a turn).
"""

import logging
import time
import uuid
from functools import cache
from typing import Literal, cast

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.protocol import format_observation, to_langchain
from agents.roles import Stage, render
from agents.templates import tool_schemas
from agents.types import Message, StopReason, Trajectory
from graphs.asking import Update, seconds_left, take_turn
from graphs.opened import chat_of, tools_of
from graphs.state import VerifierContext, VerifierInput, VerifierOutput, VerifierState
from graphs.turns import NO_CALLS_LEFT, REFUTED, calls_made, is_refuted, refutes, run_calls, wants_tools, within
from tools.base import Tool
from tools.errors import RolloutError

logger = logging.getLogger(__name__)

RECURSION_LIMIT = 10_000  # the context's own limits end a trajectory long before


async def enter(state: VerifierState, runtime: Runtime[VerifierContext]) -> Literal["plan", "validate", "verdict"]:
    """Begin with the first stage that the context has."""
    return cast(Literal["plan", "validate", "verdict"], context_of(runtime).mode.opening)


async def plan(state: VerifierState, runtime: Runtime[VerifierContext]) -> Command[Literal["validate", "finish"]]:
    """Ask what has to be checked."""
    update = await _ask(state, context_of(runtime), "plan")
    return Command(update=update, goto=after_plan(update))


async def validate(
    state: VerifierState, runtime: Runtime[VerifierContext]
) -> Command[Literal["tools", "verdict", "finish"]]:
    """Ask for a check or for the findings; after a tool call the observation is the prompt."""
    context = context_of(runtime)
    update = await _ask(state, context, "validate")
    refuted = context.early_stop and "turns" in update and is_refuted([*state["turns"], update["turns"]])
    return Command(update=update, goto=after_validate(update, refuted))


async def tools(state: VerifierState, runtime: Runtime[VerifierContext]) -> Command[Literal["validate", "finish"]]:
    """Run the calls of the last turn; say so when no calls are left, or a check has failed and that is enough."""
    context = context_of(runtime)
    turns, key = state["turns"], state.get("trajectory_id", "")
    budget = context.call_limit - calls_made(turns[:-1])

    async def call() -> Update:
        results = await run_calls(turns[-1], await tools_of(context), key, budget)
        observation = format_observation(results)
        if context.early_stop and any(refutes(result) for result in results):
            observation += f"\n{REFUTED}"
        elif budget <= len(turns[-1].tool_calls):
            observation += f"\n{NO_CALLS_LEFT}"
        return {"turns": results, "messages": [to_langchain(Message(role="tool", content=observation))]}

    update = await within(seconds_left(state, context), "tools", call())
    return Command(update=update, goto=after_tools(update))


async def verdict(state: VerifierState, runtime: Runtime[VerifierContext]) -> Update:
    """Ask for the verdict."""
    return await _ask(state, context_of(runtime), "verdict")


async def finish(state: VerifierState, runtime: Runtime[VerifierContext]) -> Update:
    """Build the trajectory, and free what the tools hold for it."""
    context = context_of(runtime)
    if context.has_tools and calls_made(state["turns"]):
        await _release(await tools_of(context), state.get("trajectory_id", ""))
    trajectory = Trajectory(
        role=state["role"],
        model=getattr(chat_of(context), "model_id", context.model),
        prompt_version=context.version_of(state["role"]),
        turns=tuple(state["turns"]),
        stop_reason=state.get("stop", StopReason.ERROR),
        verdict=state.get("outcome"),
        error=state.get("error"),
        seconds=time.monotonic() - state["started"],
    )
    return {"trajectory": trajectory}


def context_of(runtime: Runtime[VerifierContext]) -> VerifierContext:
    """Return the settings of the run, or the defaults where it was given none."""
    return runtime.context or VerifierContext()


async def _ask(state: VerifierState, context: VerifierContext, stage: Stage) -> Update:
    """Take a turn of a stage; the first turn opens the trajectory."""
    opened: Update = {}
    if "started" not in state:
        opened = {"trajectory_id": state.get("trajectory_id") or uuid.uuid4().hex, "started": time.monotonic()}
    now = cast(VerifierState, {**state, **opened})

    async def ask() -> Update:
        return await take_turn(now, context, stage, await _prompt(now, context, stage))

    return opened | await within(seconds_left(now, context), stage, ask())


async def _prompt(state: VerifierState, context: VerifierContext, stage: Stage) -> list[Message]:
    """Return the messages that open a stage; none where the stage goes on after an observation."""
    turns, mode, values = state["turns"], context.mode, {}
    if turns and turns[-1].stage == stage:
        return []
    if stage == mode.opening:
        schemas = tool_schemas((await tools_of(context)).values()) if context.has_tools else ""
        values = {"problem": state["problem"], "solution": state["solution"], "tools": schemas}
    return render(state["role"], stage, context.style, mode, **values)


async def _release(tools: dict[str, Tool], key: str) -> None:
    for tool in tools.values():
        try:
            await tool.release(key)
        except RolloutError as error:  # the trajectory is complete: a failed teardown does not undo it
            logger.warning("%s: session %s was not released: %s", tool.name, key, error)


def after_plan(update: Update) -> Literal["validate", "finish"]:
    """A plan that parses is carried out."""
    return "finish" if "stop" in update else "validate"


def after_validate(update: Update, refuted: bool = False) -> Literal["tools", "verdict", "finish"]:
    """A tool call, well-formed or not, is answered; a reply without one holds the findings and leads to the verdict.

    With `refuted` (early stop: `graphs.turns.is_refuted`) the verdict is next in any case, and a call is not run.
    """
    if "stop" in update:
        return "finish"
    return "tools" if wants_tools(update["turns"]) and not refuted else "verdict"


def after_tools(update: Update) -> Literal["validate", "finish"]:
    """What the tools said goes back to the review."""
    return "finish" if "stop" in update else "validate"


@cache
def build_verifier() -> CompiledStateGraph[VerifierState, VerifierContext, VerifierInput, VerifierOutput]:
    """Compile the verifier. No checkpointer: a harvest keeps finished trajectories only."""
    graph = StateGraph(
        VerifierState, context_schema=VerifierContext, input_schema=VerifierInput, output_schema=VerifierOutput
    )
    for node in (plan, validate, tools, verdict, finish):
        graph.add_node(node.__name__, node)
    graph.add_conditional_edges(START, enter)
    graph.add_edge("verdict", "finish")
    graph.add_edge("finish", END)
    return graph.compile(name="verifier").with_config(recursion_limit=RECURSION_LIMIT)
