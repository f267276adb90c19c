"""Who writes solutions in a refinement: solver and refiner in one reply each, or the agent with its tools, twice.

Input: a problem and, for a revision, the round before it. Output: `Written`; a failure of the infrastructure is data.
An agent that writes anew is shown the question, what it did before as a judge reads it, and the critique.
"""

import time
from typing import Any, NamedTuple

from langchain_core.language_models.chat_models import BaseChatModel

from agents.final_answer import as_solution
from agents.plain_roles import Earlier, render_refiner, render_solver
from agents.protocol import strip_thoughts, to_langchain
from agents.transcript import parts_of, transcript
from agents.types import ErrorInfo, Message, Round, Trajectory, Turn
from graphs.opened import open_model
from graphs.react import build_react
from graphs.react_state import ReactContext, ReactInput
from graphs.refine_state import RefineContext
from graphs.turns import make_turn, within


class Written(NamedTuple):
    """A solution ("": none, or the reply was cut), the model calls that it took, and the failure that prevented it."""

    solution: str = ""
    made: tuple[Turn, ...] = ()
    error: ErrorInfo | None = None


async def first(problem: str, name: str, context: RefineContext) -> Written:
    """Write a first solution; `name` is the chat session's."""
    if context.agent is not None:
        return await _act(context.agent, ReactInput(problem=problem, trajectory_id=name))
    solver = context.solver or open_model(context.solver_model, context.solver_base_url)
    settings = {"max_tokens": context.solver_max_tokens, "temperature": context.solver_temperature}
    return await _ask(solver, render_solver(problem), "solve", name, context.max_seconds, **settings)


async def again(problem: str, last: Round, name: str, context: RefineContext) -> Written:
    """Write the solution of a round again, on its critique."""
    if context.agent is not None:
        attempt = transcript(turns_of(last), context.max_transcript)
        earlier = Earlier(attempt, last.critique)
        return await _act(context.agent, ReactInput(problem=problem, trajectory_id=name, earlier=earlier))
    refiner = context.refiner or open_model(context.refiner_model, context.refiner_base_url)
    prompt = render_refiner(context.refiner_style or context.style, problem, last.solution, last.critique or None)
    settings = {"max_tokens": context.refiner_max_tokens, "temperature": context.refiner_temperature}
    return await _ask(refiner, prompt, "refine", name, context.max_seconds, **settings)


def seen_again(last: Round, context: RefineContext) -> str:
    """Return what whoever writes anew is shown of a round beside its solution: an agent sees all that it did."""
    return "\n".join(part.text for part in parts_of(turns_of(last))) if context.agent is not None else ""


def turns_of(found: Round) -> tuple[Turn, ...]:
    """Return the turns that led to a round's solution; one that was given is a turn of its own."""
    return found.made or (Turn(stage="solve", prompt=(), content=found.solution),)


async def _act(context: ReactContext, given: ReactInput) -> Written:
    out = await build_react().ainvoke(given, context=context)
    made: Trajectory = out["trajectory"]
    if made.error is not None:
        return Written(error=made.error)
    return Written(as_solution(out["answer"]), made.turns)


async def _ask(
    chat: BaseChatModel, prompt: list[Message], stage: str, name: str, seconds: float, **settings: Any
) -> Written:
    """Ask a model for a solution in one reply; it is empty where the model is out of time or context."""
    messages = [to_langchain(message) for message in prompt]
    began = time.monotonic()

    async def ask() -> dict[str, Any]:
        reply = await chat.ainvoke(messages, session=name, stage=stage, top_logprobs=None, **settings)
        return {"turn": make_turn(stage, messages, reply, time.monotonic() - began)}

    update = await within(seconds, stage, ask())
    turn: Turn | None = update.get("turn")
    if turn is None:
        return Written(error=update.get("error"))
    return Written(strip_thoughts(turn.content).strip(), (turn,))
