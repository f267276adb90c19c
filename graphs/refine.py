"""Critique and revision: solve → review → refine ↺ (Reagent-C; AgentV-RL's sequential scaling).

Input: a problem, and a first solution unless the solver is to write one. Output: the last solution and every round. A
round is a review by the critic and, unless that accepts the solution, a revision by the refiner, who is shown the
problem, the solution and the critique. An accepted solution is left alone; so is one of which the critic came to no
verdict. The solution after the last revision is not reviewed: nothing would come of it.

A failure of the infrastructure is the `error` of the round in which it happened, and ends the refinement; it is never
a verdict. Given the rounds made before, the graph goes on where they end, and tries what failed again.
"""

import uuid
from functools import cache
from typing import Any, Literal, cast

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.redaction import withhold_answers
from agents.types import ErrorInfo, Round
from graphs import writers
from graphs.critics import bounded, critic_of
from graphs.refine_state import Attempt, RefineContext, RefineInput, RefineOutput, RefineState, Stop
from graphs.writers import turns_of
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
    """Have the first solution written; a limit leaves an empty one, which stands."""
    found = await writers.first(problem, name, context)
    outcome = "open" if found.made or found.error else "unrevised"
    return Round(index=0, solution=found.solution, made=found.made, outcome=outcome, error=found.error)


async def review(state: RefineState, runtime: Runtime[RefineContext]) -> Command[Literal["refine", "finish"]]:
    """Have the critic look at the last solution."""
    context, last = context_of(runtime), state["rounds"][-1]
    attempt = Attempt(state["problem"], last.solution, turns_of(last), f"{state.get('trajectory_id')}:{last.index}")
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
    shown = writers.seen_again(last, context)
    text = bounded(withhold_answers(said.text, attempt.problem, attempt.solution, shown), context.max_critique)
    outcome = "no_verdict" if said.accepted is None else "accepted" if said.accepted else "rejected"
    return last.model_copy(update={"outcome": outcome, "critique": text, "reviews": said.reviews})


async def refine(state: RefineState, runtime: Runtime[RefineContext]) -> Command[Literal["review", "finish"]]:
    """Have the solution written again."""
    context, last = context_of(runtime), state["rounds"][-1]
    found = await writers.again(state["problem"], last, f"{state.get('trajectory_id')}:refine:{last.index}", context)
    revised = last.model_copy(update={"error": found.error}) if found.error else revision(last, found)
    return Command(update={"rounds": [revised]}, goto=cast(Any, next_step([revised], context.rounds)))


def revision(last: Round, found: writers.Written) -> Round:
    """Return the round after `last`: the solution written, or `last`'s where there is none, or it was cut."""
    cut = any(turn.finish_reason == "length" for turn in found.made[-1:])
    kept = not found.solution or cut or found.solution == last.solution.strip()
    return Round(
        index=last.index + 1,
        solution=last.solution if kept else found.solution,
        made=found.made,
        outcome="unrevised" if kept else "open",
    )


async def finish(state: RefineState) -> Update:
    """Say what the refinement came to."""
    last = state["rounds"][-1]
    return {
        "solution": last.solution,
        "accepted": last.outcome == "accepted",
        "stop": stop_of(state["rounds"]),
        "error": last.error,
    }


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
