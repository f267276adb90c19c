"""Running the agent on a benchmark's problems, into a journal: nothing is done twice.

Input: tasks, an `Agent`, a journal of trajectories. The graph is given the question alone. A trajectory that an outage
ended is a line of the journal too, with its typed error, and is tried again by the next run; many in a row stop the
work. An outage is never an answer.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from langchain_core.language_models import BaseChatModel

from agents.outages import Circuit, failure, raise_first
from agents.types import ErrorInfo, StopReason, Task, Trajectory
from eval.agent_settings import Agent, opened_agent
from eval.lines import Lines
from eval.verifier import reach
from graphs.react import build_react
from graphs.react_state import ReactContext, ReactInput
from tools.errors import RolloutError
from tools.progress import Progress
from tools.registry import open_with_sandbox
from tools.sandbox.settings import SandboxConfig

Place = tuple[str, int]  # a problem's id, and the number of the repeat


class Job(NamedTuple):
    """One trajectory to make."""

    task: Task
    index: int

    @property
    def place(self) -> Place:
        """Problem and number."""
        return self.task.id, self.index


def finished(lines: Lines[Trajectory]) -> dict[Place, Trajectory]:
    """Return the trajectories that the agent ended itself, by place; the first of a place counts."""
    found: dict[Place, Trajectory] = {}
    for made in lines.rows:
        if made.stop_reason is not StopReason.ERROR:
            found.setdefault((made.task_id, made.sample_index), made)
    return found


def outages(lines: Lines[Trajectory], places: Sequence[Place]) -> dict[str, int]:
    """Return how many of the places have no trajectory but an outage's, by the kind of the last one."""
    done, last = finished(lines), {(t.task_id, t.sample_index): t.error for t in lines.rows}
    kinds = [error.kind for place in places if place not in done and (error := last.get(place)) is not None]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def run_all(tasks: Sequence[Task], repeats: int, agent: Agent, lines: Lines[Trajectory]) -> RolloutError | None:
    """Bring every problem to so many trajectories.

    Args:
        tasks: problems.
        repeats: trajectories a problem.
        agent: who answers.
        lines: open; takes trajectories, and holds those from before.

    Returns:
        What to tell where some failed, None when all is done.

    Raises:
        ConfigError: the model or a tool cannot be opened.
        ModelError, SandboxError, ToolError: too many failures in a row. What is done is kept.
    """
    done = finished(lines)
    jobs = [job for task in tasks for i in range(repeats) if (job := Job(task, i)).place not in done]
    if not jobs:
        return None
    work = Work(lines.add, width=agent.width, max_outages=agent.max_outages)

    async def run(chat: BaseChatModel, progress: Progress) -> None:
        await reach(chat)
        async with open_with_sandbox(agent.tools, SandboxConfig()) as tools:
            live = {"chat": chat, "tools": tools}
            await work.run(jobs, agent.context.model_copy(update=live), progress.advance)

    try:
        with opened_agent(agent, len(done)) as chat, Progress("agent", len(jobs), "trajectories") as progress:
            asyncio.run(run(chat, progress))
    except BaseExceptionGroup as group:
        raise_first(group)
    return failure(work.failed, "trajectories", work.last) if work.last else None


class Work:
    """The agent at work. `failed` counts outages of this sitting, `last` is the latest one."""

    def __init__(self, record: Callable[[Trajectory], object], *, width: int, max_outages: int) -> None:
        """Set out with nothing failed.

        Args:
            record: keeps a trajectory; a failed one too.
            width: trajectories at once.
            max_outages: failures in a row after which none begins.
        """
        self.record, self.width = record, width
        self.failed = 0
        self._circuit = Circuit(max_outages)

    @property
    def last(self) -> ErrorInfo | None:
        """The latest outage; None: there was none."""
        return self._circuit.last

    async def run(self, jobs: Sequence[Job], context: ReactContext, advance: Callable[[bool], object]) -> None:
        """Make the trajectories; `advance` learns after each whether it failed.

        Raises:
            ModelError, SandboxError, ToolError: too many failures in a row (inside an exception group). What is
                recorded is kept.
        """
        left = iter(jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.width, len(jobs))):
                group.create_task(self._worker(left, context, advance))

    async def _worker(self, jobs: Iterator[Job], context: ReactContext, advance: Callable[[bool], object]) -> None:
        for job in jobs:
            self._circuit.check()
            made = await run_one(job, context)
            self.record(made)
            advance(made.error is not None)
            if made.error is not None:
                self.failed += 1
                self._circuit.failed(made.error)
            else:
                self._circuit.worked()


async def run_one(job: Job, context: ReactContext) -> Trajectory:
    """Run the agent once. It is shown the question alone."""
    given: ReactInput = {"problem": job.task.question, "trajectory_id": f"{job.task.id}:{job.index}"}
    out = await build_react().ainvoke(given, context=context)
    return out["trajectory"].model_copy(update={"task_id": job.task.id, "sample_index": job.index})
