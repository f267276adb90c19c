"""Sampling solutions of a benchmark's problems and grading them, into a journal: nothing is done twice.

Input: tasks, a `Solver`, a `Journal`. The request is the data engine's own (`graphs.teacher.ask_solver`): the question
alone is shown. A sample is written down before it is graded. Failures of the model or the sandbox are counted, leave no
line, and are tried again by the next run; many in a row stop the work. A problem that does not fit the model's context
is no failure: its sample is empty and cut, hence wrong.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.outages import Circuit, failure, raise_first
from agents.plain_roles import solver_version
from agents.types import ErrorInfo, Task, content_id
from eval.benchmarks import Chosen
from eval.checkers import Grade, grade
from eval.solve_journal import Graded, Journal, Place, Sample
from eval.verifier import opened_chat, reach, weights_of
from graphs.state import TeacherContext
from graphs.teacher import ask_solver
from tools.errors import RolloutError
from tools.progress import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eval.programs import ProgramGrader

PROMPT_ROOM = 2048  # tokens of a problem, beside the solution's, where the model runs in this process


class Solver(NamedTuple):
    """Who solves, and how: model and sampling, how many at once, how many failures in a row, a test's seconds."""

    model: str
    base_url: str | None = None
    temperature: float = 1.0
    max_tokens: int = 2048
    test_seconds: float = 6.0
    width: int = 32
    max_outages: int = 16
    seed: int = 0


def identity(solver: Solver, chosen: Chosen) -> dict[str, Any]:
    """Return what samples depend on. How many there are, and where the problems were read from, may change."""
    return {
        "benchmark": chosen.name,
        "model": solver.model,
        "weights": weights_of(solver.model, solver.base_url),
        "temperature": solver.temperature,
        "max_tokens": solver.max_tokens,
        "prompt": solver_version(chosen.benchmark.kind),
    }


def reference_of(task: Task, seconds: float) -> str:
    """Return the hash of what a task's solutions are graded by; for programs, the limit of a test as well."""
    tests = (json.dumps(task.metadata, sort_keys=True), seconds) if task.kind == "program" else ()
    return content_id(task.kind, task.answer, *task.aliases, *tests)


def solve_all(tasks: Sequence[Task], k: int, solver: Solver, journal: Journal) -> RolloutError | None:
    """Bring every problem to k samples with grades.

    Args:
        tasks: problems.
        k: samples a problem.
        solver: who solves.
        journal: open; takes samples and grades, and holds those from before.

    Returns:
        What to tell where some failed, None when all is done.

    Raises:
        ConfigError: the model cannot be opened.
        ModelError, SandboxError: too many failures in a row. What is done is kept.
    """
    work = Work(solver, journal, {task.id: reference_of(task, solver.test_seconds) for task in tasks})
    missing = [(task, index) for task in tasks for index in range(k) if not work.done((task.id, index))]
    if not missing:
        return None
    unsampled = any((task.id, index) not in journal.samples for task, index in missing)
    try:
        with Progress("solve", len(missing), "solutions") as progress:
            asyncio.run(work.run(missing, unsampled, progress))
    except BaseExceptionGroup as group:
        raise_first(group)
    return work.failure()


class Work:
    """Solving at work: what is left, and what failed."""

    def __init__(self, solver: Solver, journal: Journal, references: dict[str, str]) -> None:
        """Set out from what the journal holds."""
        self.solver, self.journal, self.references = solver, journal, references
        self.circuit = Circuit(solver.max_outages)
        self.failed = 0
        self.context = TeacherContext()
        self.programs: ProgramGrader | None = None

    def done(self, place: Place) -> bool:
        """Whether a sample is there and graded."""
        return place in self.journal.samples and self.journal.grade_of(place, self.references[place[0]]) is not None

    async def run(self, missing: Sequence[tuple[Task, int]], unsampled: bool, progress: Progress) -> None:
        """Sample and grade what is missing; the model is opened only where something is to be sampled."""
        jobs = iter(missing)
        programs = any(task.kind == "program" for task, _ in missing)
        async with self._ready(unsampled, programs), asyncio.TaskGroup() as group:
            for _ in range(min(self.solver.width, len(missing))):
                group.create_task(self._worker(jobs, progress))

    def failure(self) -> RolloutError | None:
        """Return what to tell where something failed."""
        last = self.circuit.last
        return failure(self.failed, "solutions", last) if self.failed and last is not None else None

    @asynccontextmanager
    async def _ready(self, unsampled: bool, programs: bool) -> "AsyncIterator[None]":
        """Open the sandbox and the chat model that the work needs, and close them."""
        from eval.programs import LIMITS, ProgramGrader
        from tools.sandbox.local import LocalSandbox

        sandbox = (
            LocalSandbox(LIMITS.model_copy(update={"exec_seconds": self.solver.test_seconds})) if programs else None
        )
        if sandbox is not None:
            self.programs = ProgramGrader(sandbox, self.solver.test_seconds)
        try:
            if not unsampled:
                yield
                return
            # The engine's draws depend on its seed and on how often a prompt was asked in this process: another seed
            # for what is resumed, or the samples that are there would come again.
            seed = hash((self.solver.seed, len(self.journal.samples))) if self.journal.samples else self.solver.seed
            room = self.solver.max_tokens + PROMPT_ROOM
            with opened_chat(self.solver.model, self.solver.base_url, self.solver.width, room, seed=seed) as chat:
                await reach(chat)
                self.context = TeacherContext(
                    solver=chat,
                    solver_model=self.solver.model,
                    solver_temperature=self.solver.temperature,
                    solver_max_tokens=self.solver.max_tokens,
                )
                yield
        finally:
            if sandbox is not None:
                await sandbox.aclose()

    async def _worker(self, jobs: Iterator[tuple[Task, int]], progress: Progress) -> None:
        for task, index in jobs:
            self.circuit.check()
            try:
                await self._one(task, index)
            except RolloutError as error:
                self.failed += 1
                progress.advance(failed=True)
                self.circuit.failed(ErrorInfo(kind=type(error).__name__, message=str(error)))
            else:
                self.circuit.worked()
                progress.advance()

    async def _one(self, task: Task, index: int) -> None:
        """Sample, unless it is there; then grade."""
        sample = self.journal.samples.get((task.id, index)) or await self._sampled(task, index)
        graded = await self._graded(task, sample.text)
        reference = self.references[task.id]
        self.journal.add_grade(Graded(problem=task.id, index=index, reference=reference, grade=graded))

    async def _sampled(self, task: Task, index: int) -> Sample:
        began = time.monotonic()
        reply = await ask_solver(task, index, self.context)
        sample = Sample(
            problem=task.id,
            index=index,
            text=str(reply.text).encode("utf-8", "replace").decode(),  # half a character is in no file
            model=self.solver.model,
            tokens=reply.usage_metadata["output_tokens"] if reply.usage_metadata else 0,
            seconds=round(time.monotonic() - began, 3),
            finish=str(reply.response_metadata.get("finish_reason", "")),
        )
        self.journal.add_sample(sample)
        return sample

    async def _graded(self, task: Task, text: str) -> Grade:
        if task.kind == "program":
            assert self.programs is not None
            return await self.programs.grade(task, text)
        return await asyncio.to_thread(grade, task, text)
