"""Critique and revision: solve → review → refine ↺ (Reagent-C; AgentV-RL's sequential scaling).

Input: a problem, and a first solution unless the solver is to write one. Output: the last solution and every round. A
round is a review by the critic and, unless that accepts the solution, a revision by the refiner, who is shown the
problem, the solution and the critique. An accepted solution is left alone; so is one of which the critic came to no
verdict. The solution after the last revision is not reviewed: nothing would come of it.

A failure of the infrastructure is the `error` of the round in which it happened, and ends the refinement; it is never
a verdict. Given the rounds made before, the graph goes on where they end, and tries what failed again.
"""

import time
import uuid
from functools import cache
from typing import Any, Literal, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.plain_roles import render_refiner, render_solver
from agents.protocol import strip_thoughts, to_langchain
from agents.redaction import withhold_answers
from agents.types import ErrorInfo, Message, Round, Turn
from graphs.critics import bounded, critic_of
from graphs.opened import open_model
from graphs.refine_state import Attempt, RefineContext, RefineInput, RefineOutput, RefineState, Stop
from graphs.turns import make_turn, within
from tools.errors import RolloutError

Update = dict[str, Any]
Step = Literal["review", "refine", "finish"]
ENDS: dict[str, Stop] = {"accepted": "accepted", "no_verdict": "no_verdict", "unrevised": "unrevised"}


def next_step(rounds: list[Round], limit: int) -> Step:
    """Return what follows on these rounds (at least one) where `limit` revisions are allowed."""
    last = rounds[-1]
    if last.error is not None or last.outcome in ENDS or last.index >= limit:
        return "finish"
    return "refine" if last.outcome == "rejected" else "review"


def stop_of(rounds: list[Round]) -> Stop:
    """Return why a refinement has ended."""
    last = rounds[-1]
    return "error" if last.error is not None else ENDS.get(last.outcome, "rounds")


def resumed(rounds: list[Round]) -> list[Round]:
    """Return rounds made before without the failure that ended them, so that it is tried again.

    A first round without a solution (the solver failed) is made anew: it is left out.
    """
    cleared = [r.model_copy(update={"error": None}) if r.error else r for r in rounds]
    return [r for r in cleared if r.solution or r.made or r.outcome != "open"]


async def solve(state: RefineState, runtime: Runtime[RefineContext]) -> Command[Step]:
    """Take up the rounds made before or the given solution; without either the solver writes the first one."""
    context, name = context_of(runtime), state.get("trajectory_id") or uuid.uuid4().hex
    rounds = resumed(state["rounds"])
    if not rounds and "solution" in state:
        rounds = [Round(index=0, solution=state["solution"])]
    if not rounds:
        rounds = [await _first(state["problem"], name, context)]
    return Command(update={"rounds": rounds, "trajectory_id": name}, goto=next_step(rounds, context.rounds))


async def _first(problem: str, name: str, context: RefineContext) -> Round:
    """Have the solver write a solution; a limit leaves an empty one, which stands."""
    solver = context.solver or open_model(context.solver_model, context.solver_base_url)
    settings = {"max_tokens": context.solver_max_tokens, "temperature": context.solver_temperature}
    update = await _ask(solver, render_solver(problem), "solve", name, context.max_seconds, **settings)
    if isinstance(update, ErrorInfo):
        return Round(index=0, solution="", error=update)
    if update is None:
        return Round(index=0, solution="", outcome="unrevised")
    return Round(index=0, solution=written(update), made=update)


async def review(state: RefineState, runtime: Runtime[RefineContext]) -> Command[Literal["refine", "finish"]]:
    """Have the critic look at the last solution."""
    context, last = context_of(runtime), state["rounds"][-1]
    attempt = Attempt(state["problem"], last.solution, last.made, f"{state.get('trajectory_id')}:{last.index}")
    reviewed = await _reviewed(attempt, last, context)
    return Command(update={"rounds": [reviewed]}, goto=cast(Any, next_step([reviewed], context.rounds)))


async def _reviewed(attempt: Attempt, last: Round, context: RefineContext) -> Round:
    """Return a round with what its critic said; of the text the refiner gets to see no answer of the critic's own."""
    try:
        said = await critic_of(context)(attempt, context)
    except RolloutError as error:
        return last.model_copy(update={"error": _info(error, "review")})
    if said.error is not None:
        return last.model_copy(update={"error": said.error, "reviews": said.reviews})
    text = bounded(withhold_answers(said.text, attempt.problem, attempt.solution), context.max_critique)
    outcome = "no_verdict" if said.accepted is None else "accepted" if said.accepted else "rejected"
    return last.model_copy(update={"outcome": outcome, "critique": text, "reviews": said.reviews})


async def refine(state: RefineState, runtime: Runtime[RefineContext]) -> Command[Literal["review", "finish"]]:
    """Have the refiner write the solution again."""
    context, last = context_of(runtime), state["rounds"][-1]
    refiner = context.refiner or open_model(context.refiner_model, context.refiner_base_url)
    style = context.refiner_style or context.style
    prompt = render_refiner(style, state["problem"], last.solution, last.critique or None)
    settings = {"max_tokens": context.refiner_max_tokens, "temperature": context.refiner_temperature}
    name = f"{state.get('trajectory_id')}:refine:{last.index}"
    update = await _ask(refiner, prompt, "refine", name, context.max_seconds, **settings)
    failed = isinstance(update, ErrorInfo)
    revised = last.model_copy(update={"error": update}) if failed else revision(last, update)
    return Command(update={"rounds": [revised]}, goto=cast(Any, next_step([revised], context.rounds)))


def revision(last: Round, turn: Turn | None) -> Round:
    """Return the round after `last`: the refiner's solution, or `last`'s where the reply is none (None: timed out)."""
    text = written(turn) if turn else ""
    kept = not text or turn is None or turn.finish_reason == "length" or text == last.solution.strip()
    return Round(
        index=last.index + 1,
        solution=last.solution if kept else text,
        made=turn,
        outcome="unrevised" if kept else "open",
    )


def written(turn: Turn) -> str:
    """Return the solution that a reply is: its text without thoughts."""
    return strip_thoughts(turn.content).strip()


async def finish(state: RefineState) -> Update:
    """Say what the refinement came to."""
    last = state["rounds"][-1]
    return {
        "solution": last.solution,
        "accepted": last.outcome == "accepted",
        "stop": stop_of(state["rounds"]),
        "error": last.error,
    }


async def _ask(
    chat: BaseChatModel, prompt: list[Message], stage: str, name: str, seconds: float, **settings: Any
) -> Turn | ErrorInfo | None:
    """Ask a model for a solution: its turn, the failure as data, or None where it is out of time."""
    messages = [to_langchain(message) for message in prompt]
    began = time.monotonic()

    async def ask() -> Update:
        reply = await chat.ainvoke(messages, session=name, stage=stage, top_logprobs=None, **settings)
        return {"turn": make_turn(stage, messages, reply, time.monotonic() - began)}

    update = await within(seconds, stage, ask())
    return update.get("error") or update.get("turn")


def _info(error: RolloutError, where: str) -> ErrorInfo:
    return ErrorInfo(kind=type(error).__name__, message=str(error), where=where)


def context_of(runtime: Runtime[RefineContext]) -> RefineContext:
    """Return the settings of the run, or the defaults where it was given none."""
    return runtime.context or RefineContext()


@cache
def build_refine() -> CompiledStateGraph[RefineState, RefineContext, RefineInput, RefineOutput]:
    """Compile the refinement."""
    graph = StateGraph(RefineState, context_schema=RefineContext, input_schema=RefineInput, output_schema=RefineOutput)
    for node in (solve, review, refine, finish):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "solve")
    graph.add_edge("finish", END)
    return graph.compile(name="refine").with_config(recursion_limit=10_000)
