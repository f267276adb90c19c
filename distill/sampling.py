"""Candidate solutions: by a solver in one reply each, or by the agent with all that it did.

Input: problems, and who answers. Output: labelled candidates in the store, those of a problem in one transaction; what
is there is not made again. Whoever answers is shown the question alone; labels come from the reference answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from langgraph.runtime import Runtime

from agents.final_answer import answer_of
from agents.store import Store
from agents.transcript import transcript
from agents.types import Candidate, ErrorInfo, Task, Trajectory
from eval.agent_grades import grade_trajectory
from eval.checkers import grade
from graphs import teacher as engine
from graphs.judge_state import MAX_TRANSCRIPT
from graphs.react import build_react
from graphs.react_state import ReactContext, ReactInput
from graphs.state import TeacherContext
from tools.errors import ModelError


class Drawn(NamedTuple):
    """The labelled candidates of a problem, or the failure that left some of them out."""

    candidates: Sequence[Candidate]
    error: ErrorInfo | None = None


Draw = Callable[[Task], Awaitable[Drawn]]


def label_task(task: Task, text: str) -> bool | None:
    """Label a solution by its task's answer."""
    return grade(task, text).correct


def by_solver(context: TeacherContext) -> Draw:
    """Return what asks the solver of a context for `k` solutions."""
    runtime = Runtime(context=context)

    async def draw(task: Task) -> Drawn:
        found = await engine.sample({"task": task, "rollouts": []}, runtime)
        if found["errors"]:
            return Drawn((), found["errors"][0])
        return Drawn(await asyncio.to_thread(engine.labelled, task, found["candidates"], label_task))

    return draw


def by_agent(context: ReactContext, k: int) -> Draw:
    """Return what has the agent answer `k` times; candidates that a problem brings are taken as they are."""

    async def act(task: Task, index: int) -> Trajectory:
        given = ReactInput(problem=task.question, trajectory_id=f"{task.id}:{index}")
        return (await build_react().ainvoke(given, context=context))["trajectory"]

    async def draw(task: Task) -> Drawn:
        if task.candidates:
            return Drawn(await asyncio.to_thread(engine.labelled, task, task.candidates, label_task))
        made = await asyncio.gather(*(act(task, index) for index in range(k)))
        if failed := next((one.error for one in made if one.error is not None), None):
            return Drawn((), failed)
        return Drawn(await asyncio.to_thread(lambda: [candidate_of(task, i, one) for i, one in enumerate(made)]))

    return draw


def candidate_of(task: Task, index: int, made: Trajectory) -> Candidate:
    """Return an agent's trajectory as a labelled candidate; may take seconds."""
    graded = grade_trajectory(task, made)
    return Candidate(
        task_id=task.id,
        index=index,
        text=transcript(made.turns, MAX_TRANSCRIPT),
        turns=made.turns,
        answer=answer_of(made),
        correct=graded.correct if graded else None,
        model=made.model,
    )


async def sample_all(tasks: Sequence[Task], store: Store, draw: Draw, width: int, told: tuple[str, str]) -> None:
    """Bring candidates of the problems that have none into the store, `width` problems at once.

    Raises:
        ModelError: whoever answers failed (inside an exception group); `told` says whose problem it was, and who.
    """
    slots, (whose, who) = asyncio.Semaphore(width), told
    store.add_tasks(tasks)

    async def one(task: Task) -> None:
        async with slots:
            drawn = await draw(task)
        if drawn.error is not None:
            raise ModelError(f"{whose} problem: {who} failed ({drawn.error.message}); run again to resume")
        store.add_candidates(task.id, drawn.candidates)

    async with asyncio.TaskGroup() as group:
        for task in tasks:
            if store.candidates(task.id) is None:
                group.create_task(one(task))
