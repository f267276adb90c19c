"""The data engine for one task: sample k → label → drop trivial → fan out verifiers x n → record.

Input: a task (candidates that it already holds are used as they are). Output: the labelled candidates and, unless the
problem is trivial, one trajectory for each candidate, role and sample index, ids filled. Ground truth (the answer, the
metadata, the labels) stays in this graph's own state: a verifier is sent the question and a candidate's text.
"""

import asyncio
import operator
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from agents.plain_roles import render_solver
from agents.protocol import to_langchain
from agents.transcript import final_text
from agents.types import ROLES, Candidate, ErrorInfo, Task, Trajectory, VerifierRole, content_id
from graphs.opened import solver_of
from graphs.state import TeacherContext
from graphs.verifier import build_verifier
from tools.errors import ContextLengthError, ModelError

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class TeacherInput(TypedDict):
    """One task; candidates that it holds are used as they are."""

    task: Task


class TeacherOutput(TypedDict):
    """Labelled candidates, the verifiers' trajectories (ids filled), why the task was dropped, solver failures."""

    candidates: list[Candidate]
    trajectories: list[Trajectory]
    dropped: Literal["", "trivial"]
    errors: list[ErrorInfo]


class TeacherState(TeacherInput):
    """The data engine at work. `rollouts` arrive as they finish; `trajectories` are the same in a fixed order."""

    candidates: NotRequired[list[Candidate]]
    errors: NotRequired[list[ErrorInfo]]
    rollouts: Annotated[list[Trajectory], operator.add]
    trajectories: NotRequired[list[Trajectory]]
    dropped: NotRequired[Literal["", "trivial"]]


class Rollout(TypedDict):
    """One verification that the data engine sends out. It holds no ground truth."""

    problem: str
    task_id: str
    candidate_id: str
    solution: str
    role: VerifierRole
    sample_index: int


async def sample(state: TeacherState, runtime: Runtime[TeacherContext]) -> dict[str, Any]:
    """Take the task's candidates, or sample k; a solver that fails leaves an error instead of a candidate.

    A question that does not fit its context leaves empty candidates, which answer nothing.
    """
    context = runtime.context or TeacherContext()
    task = Task.model_validate(state["task"])  # an API caller sends plain JSON
    if task.candidates:
        return {"task": task, "candidates": list(task.candidates), "errors": []}
    drawn = await asyncio.gather(*(_solve(task, index, context) for index in range(context.k)))
    return {
        "task": task,
        "candidates": [c for c in drawn if isinstance(c, Candidate)],
        "errors": [e for e in drawn if isinstance(e, ErrorInfo)],
    }


async def _solve(task: Task, index: int, context: TeacherContext) -> Candidate | ErrorInfo:
    try:
        reply = await ask_solver(task, index, context)
    except ModelError as error:
        return ErrorInfo(kind=type(error).__name__, message=str(error), where=f"sample {index}")
    model = getattr(solver_of(context), "model_id", context.solver_model)
    return Candidate(task_id=task.id, index=index, text=str(reply.text), model=model)


async def ask_solver(task: Task, index: int, context: TeacherContext) -> AIMessage:
    """Ask the solver for one solution. It is shown the question alone.

    Returns:
        Its reply; an empty one that was cut (`length`) where the question does not fit its context, since asking again
        would not help.

    Raises:
        ModelError: the chat model failed.
    """
    try:
        return await solver_of(context).ainvoke(
            [to_langchain(message) for message in render_solver(task.question, task.kind)],
            session=f"{task.id}:{index}",
            stage="solve",
            max_tokens=context.solver_max_tokens,
            temperature=context.solver_temperature,
            top_logprobs=None,
        )
    except ContextLengthError:
        return AIMessage("", response_metadata={"finish_reason": "length"})


async def label(state: TeacherState, runtime: Runtime[TeacherContext]) -> Command[Literal["verify", "record"]]:
    """Compare each unlabelled candidate with the ground truth; then send every verification out, or drop the task."""
    context = runtime.context or TeacherContext()
    task, judge = state["task"], context.label or same_last_number
    candidates = await asyncio.to_thread(labelled, task, state.get("candidates", []), judge)
    dropped = "trivial" if is_trivial(candidates) else ""
    update = {"candidates": candidates, "dropped": dropped}
    return Command(update=update, goto=drop_or_fan_out(task, candidates, dropped, context.n))


def labelled(task: Task, candidates: Sequence[Candidate], judge: Callable[[Task, str], bool | None]) -> list[Candidate]:
    """Return the candidates with their labels; those that have one keep it, an agent is judged by its last turn."""

    def label(c: Candidate) -> bool | None:
        return c.correct if c.correct is not None else judge(task, final_text(c.turns) if c.turns else c.text)

    return [c.model_copy(update={"correct": label(c)}) for c in candidates]


def same_last_number(task: Task, text: str) -> bool | None:
    """Label a solution by its last number; None where the task's answer holds no number."""
    wanted, given = (_NUMBER.findall(t or "") for t in (task.answer, text))
    if not wanted:
        return None
    return bool(given) and float(given[-1].replace(",", "")) == float(wanted[-1].replace(",", ""))


def is_trivial(candidates: Sequence[Candidate]) -> bool:
    """Return whether all labels agree (all right or all wrong), so that the problem teaches nothing.

    One label alone cannot disagree, and no label says nothing: neither makes a problem trivial.
    """
    labels = [c.correct for c in candidates if c.correct is not None]
    return len(labels) > 1 and len(set(labels)) == 1


def rollouts_of(task: Task, candidates: Sequence[Candidate], n: int) -> list[Rollout]:
    """Return the verifications of a task: each candidate, each role, n samples, without any ground truth."""
    return [
        Rollout(
            problem=task.question,
            task_id=task.id,
            candidate_id=candidate.id,
            solution=candidate.text,
            role=role,
            sample_index=index,
        )
        for candidate in candidates
        for role in ROLES
        for index in range(n)
    ]


def drop_or_fan_out(
    task: Task, candidates: Sequence[Candidate], dropped: str, n: int
) -> Sequence[Send] | Literal["record"]:
    """Return every verification, to be run at once; none when the problem is dropped or has no candidates."""
    if dropped or not candidates:
        return "record"
    return [Send("verify", rollout) for rollout in rollouts_of(task, candidates, n)]


async def verify(state: Rollout, runtime: Runtime[TeacherContext]) -> dict[str, Any]:
    """Run one verifier on one candidate. The session's name is the rollout's own, the same in every run."""
    ids = {"task_id": state["task_id"], "candidate_id": state["candidate_id"], "sample_index": state["sample_index"]}
    out = await build_verifier().ainvoke(
        {
            "problem": state["problem"],
            "solution": state["solution"],
            "role": state["role"],
            "trajectory_id": content_id(*ids.values(), state["role"]),
        },
        context=runtime.context or TeacherContext(),
    )
    return {"rollouts": [out["trajectory"].model_copy(update=ids)]}


async def record(state: TeacherState) -> dict[str, Any]:
    """Set the trajectories in the order of candidate, role and sample index."""
    order = {candidate.id: i for i, candidate in enumerate(state.get("candidates", []))}

    def place(trajectory: Trajectory) -> tuple[int, int, int]:
        return order[trajectory.candidate_id], ROLES.index(trajectory.role), trajectory.sample_index

    return {"trajectories": sorted(state["rollouts"], key=place)}


@cache
def build_teacher() -> CompiledStateGraph[TeacherState, TeacherContext, TeacherInput, TeacherOutput]:
    """Compile the data engine."""
    graph = StateGraph(
        TeacherState, context_schema=TeacherContext, input_schema=TeacherInput, output_schema=TeacherOutput
    )
    graph.add_node("sample", sample)
    graph.add_node("label", label)
    graph.add_node("verify", verify)
    graph.add_node("record", record)
    graph.add_edge(START, "sample")
    graph.add_edge("sample", "label")
    graph.add_edge("verify", "record")
    graph.add_edge("record", END)
    return graph.compile(name="teacher")
