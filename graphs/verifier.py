"""The verifier: plan → validate ⇄ tools → verdict → finish. One machine, two roles (AgentV-RL, section Method).

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
from agents.roles import prompt_version, render, tool_schemas
from agents.types import Message, StopReason, Trajectory
from graphs.asking import Update, seconds_left, take_turn
from graphs.state import VerifierContext, VerifierInput, VerifierOutput, VerifierState, chat_of, tools_of
from graphs.turns import NO_CALLS_LEFT, calls_made, run_calls, wants_tools, within
from tools.base import Tool
from tools.errors import RolloutError

logger = logging.getLogger(__name__)

RECURSION_LIMIT = 10_000  # the context's own limits end a trajectory long before


async def plan(state: VerifierState, runtime: Runtime[VerifierContext]) -> Command[Literal["validate", "finish"]]:
    """Open the trajectory and ask what has to be checked."""
    context = runtime.context or VerifierContext()
    opened: Update = {"trajectory_id": state.get("trajectory_id") or uuid.uuid4().hex, "started": time.monotonic()}

    async def ask() -> Update:
        prompt = render(
            state["role"],
            "plan",
            context.style,
            problem=state["problem"],
            solution=state["solution"],
            tools=tool_schemas((await tools_of(context)).values()),
        )
        return await take_turn(cast(VerifierState, {**state, **opened}), context, "plan", prompt)

    update = await within(context.max_seconds, "plan", ask())
    return Command(update=opened | update, goto=after_plan(update))


async def validate(
    state: VerifierState, runtime: Runtime[VerifierContext]
) -> Command[Literal["tools", "verdict", "finish"]]:
    """Ask for a check or for the findings; after a tool call the observation is the prompt."""
    context = runtime.context or VerifierContext()
    prompt = []
    if state["turns"][-1].stage != "validate":
        prompt = render(state["role"], "validate", context.style)
    update = await within(seconds_left(state, context), "validate", take_turn(state, context, "validate", prompt))
    return Command(update=update, goto=after_validate(update))


async def tools(state: VerifierState, runtime: Runtime[VerifierContext]) -> Command[Literal["validate", "finish"]]:
    """Run the calls of the last turn; say so when no calls are left."""
    context = runtime.context or VerifierContext()
    turns, key = state["turns"], state.get("trajectory_id", "")
    budget = context.max_tool_calls - calls_made(turns[:-1])

    async def call() -> Update:
        results = await run_calls(turns[-1], await tools_of(context), key, budget)
        observation = format_observation(results)
        if budget <= len(turns[-1].tool_calls):
            observation += f"\n{NO_CALLS_LEFT}"
        return {"turns": results, "messages": [to_langchain(Message(role="tool", content=observation))]}

    update = await within(seconds_left(state, context), "tools", call())
    return Command(update=update, goto=after_tools(update))


async def verdict(state: VerifierState, runtime: Runtime[VerifierContext]) -> Update:
    """Ask for the verdict."""
    context = runtime.context or VerifierContext()
    prompt = render(state["role"], "verdict", context.style)
    return await within(seconds_left(state, context), "verdict", take_turn(state, context, "verdict", prompt))


async def finish(state: VerifierState, runtime: Runtime[VerifierContext]) -> Update:
    """Build the trajectory, and free what the tools hold for it."""
    context = runtime.context or VerifierContext()
    if calls_made(state["turns"]):
        await _release(await tools_of(context), state.get("trajectory_id", ""))
    trajectory = Trajectory(
        role=state["role"],
        model=getattr(chat_of(context), "model_id", context.model),
        prompt_version=prompt_version(state["role"], context.style),
        turns=tuple(state["turns"]),
        stop_reason=state.get("stop", StopReason.ERROR),
        verdict=state.get("outcome"),
        error=state.get("error"),
        seconds=time.monotonic() - state["started"],
    )
    return {"trajectory": trajectory}


async def _release(tools: dict[str, Tool], key: str) -> None:
    for tool in tools.values():
        try:
            await tool.release(key)
        except RolloutError as error:  # the trajectory is complete: a failed teardown does not undo it
            logger.warning("%s: session %s was not released: %s", tool.name, key, error)


def after_plan(update: Update) -> Literal["validate", "finish"]:
    """A plan that parses is carried out."""
    return "finish" if "stop" in update else "validate"


def after_validate(update: Update) -> Literal["tools", "verdict", "finish"]:
    """A tool call, well-formed or not, is answered; a reply without one holds the findings and leads to the verdict."""
    if "stop" in update:
        return "finish"
    return "tools" if wants_tools(update["turns"]) else "verdict"


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
    graph.add_edge(START, "plan")
    graph.add_edge("verdict", "finish")
    graph.add_edge("finish", END)
    return graph.compile(name="verifier").with_config(recursion_limit=RECURSION_LIMIT)
