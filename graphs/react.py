"""The agent: think ⇄ tools → finish. ReAct over the enabled tools (Reagent, section Method).

Input: a question and, where it is to be mended, an earlier attempt with what a critic says of it (Reagent). Output: a
`Trajectory` of role "agent" and its final answer, whatever happened: every path ends in
`finish`. A step is one model call: it holds tool calls, or the final answer in `<answer>` or a box. Tool failures and
repeated calls are observations; a failure of the infrastructure ends the trajectory with a typed error. Limits are
StopReasons, and the model is told when a step is its last.
"""

import logging
import time
import uuid
from functools import cache
from typing import Literal, cast

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.final_answer import final_answer
from agents.plain_roles import ACT, AGENT, Earlier, agent_tools, agent_version, render_agent
from agents.protocol import format_observation, to_langchain
from agents.types import Message, StopReason, Trajectory
from graphs.opened import chat_of, tools_of
from graphs.react_state import ReactContext, ReactInput, ReactOutput, ReactState, Update
from graphs.react_turns import NOTHING_DONE, after_think, after_tools, notice, run_steps_calls, stop_after_act
from graphs.turns import calls_made, make_turn, stop_before, tokens_held, unanswered, within
from tools.base import Tool
from tools.errors import RolloutError

logger = logging.getLogger(__name__)


async def think(state: ReactState, runtime: Runtime[ReactContext]) -> Command[Literal["tools", "think", "finish"]]:
    """Take a step: the model calls tools, or gives its answer."""
    context = context_of(runtime)
    opened: Update = {}
    if "started" not in state:
        opened = {"trajectory_id": state.get("trajectory_id") or uuid.uuid4().hex, "started": time.monotonic()}
    now = cast(ReactState, {**state, **opened})
    update = opened | await within(_seconds_left(now, context), "think", _step(now, context))
    return Command(update=update, goto=after_think(update))


async def tools(state: ReactState, runtime: Runtime[ReactContext]) -> Command[Literal["think", "finish"]]:
    """Run the calls of the last step; say so when the next step is the last, or no calls are left."""
    context = context_of(runtime)
    turns, key = state["turns"], state.get("trajectory_id", "")

    async def call() -> Update:
        results = await run_steps_calls(turns, await tools_of(context), key, context)
        observation = "\n".join(part for part in (format_observation(results), notice(turns, context)) if part)
        return {"turns": results, "messages": [to_langchain(Message(role="tool", content=observation))]}

    update = await within(_seconds_left(state, context), "tools", call())
    return Command(update=update, goto=after_tools(update))


async def finish(state: ReactState, runtime: Runtime[ReactContext]) -> Update:
    """Build the trajectory, and free what the tools hold for it."""
    context, turns = context_of(runtime), state["turns"]
    held = await tools_of(context) if turns else {}
    if calls_made(turns):
        await _release(held, state.get("trajectory_id", ""))
    stop = state.get("stop", StopReason.ERROR)
    trajectory = Trajectory(
        role=AGENT,
        model=getattr(chat_of(context), "model_id", context.model),
        prompt_version=agent_version(context.style, agent_tools(context.style, held.values())),
        turns=tuple(turns),
        stop_reason=stop,
        error=state.get("error"),
        seconds=time.monotonic() - state["started"],
    )
    return {"trajectory": trajectory, "answer": final_answer(turns, stop)}


def context_of(runtime: Runtime[ReactContext]) -> ReactContext:
    """Return the settings of the run, or the defaults where it was given none."""
    return runtime.context or ReactContext()


async def _step(state: ReactState, context: ReactContext) -> Update:
    """Ask the chat model and read its reply.

    Raises:
        ModelError: the chat model failed.
        SandboxError: the tools cannot be opened.
    """
    turns, began = state["turns"], time.monotonic()
    if stop := stop_before(turns, began - state["started"], context):
        return {"stop": stop}
    opening = [to_langchain(message) for message in await _prompt(state, context)]
    messages = [*state["messages"], *opening]
    reply = await chat_of(context).ainvoke(
        messages,
        session=state.get("trajectory_id", ""),
        stage=ACT,
        max_tokens=min(context.max_tokens, context.max_trajectory_tokens - tokens_held(turns)),
        temperature=context.temperature,
        top_logprobs=None,
    )
    turn = make_turn(ACT, unanswered(messages), reply, time.monotonic() - began)
    update: Update = {"turns": turn, "messages": [*opening, AIMessage(turn.content)]}
    if stop := stop_after_act([*turns, turn], context):
        update["stop"] = stop
    return update


async def _prompt(state: ReactState, context: ReactContext) -> list[Message]:
    """Return the messages that come before a step: the question, or what is said to a reply that did nothing.

    None where an observation stands there already.
    """
    if not state["turns"]:
        told = agent_tools(context.style, (await tools_of(context)).values())
        earlier = state.get("earlier")
        return render_agent(context.style, state["problem"], told, Earlier(*earlier) if earlier else None)
    answered = not isinstance(state["messages"][-1], AIMessage)
    if answered:
        return []
    told = "\n".join(part for part in (NOTHING_DONE, notice(state["turns"], context)) if part)
    return [Message(role="user", content=told)]


def _seconds_left(state: ReactState, context: ReactContext) -> float:
    return context.max_seconds - (time.monotonic() - state["started"])


async def _release(held: dict[str, Tool], key: str) -> None:
    for tool in held.values():
        try:
            await tool.release(key)
        except RolloutError as error:  # the trajectory is complete: a failed teardown does not undo it
            logger.warning("%s: session %s was not released: %s", tool.name, key, error)


@cache
def build_react() -> CompiledStateGraph[ReactState, ReactContext, ReactInput, ReactOutput]:
    """Compile the agent. No checkpointer: a run keeps finished trajectories only."""
    graph = StateGraph(ReactState, context_schema=ReactContext, input_schema=ReactInput, output_schema=ReactOutput)
    for node in (think, tools, finish):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "think")
    graph.add_edge("finish", END)
    return graph.compile(name="react").with_config(recursion_limit=10_000)
