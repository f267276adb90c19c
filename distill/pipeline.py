"""The stages of a run: harvest → select → SFT → GRPO → evaluation. Each resumes where it was killed.

Input: a `RunConfig`; output: everything in the run's folder. What a finished stage measured stands in `stages.json`;
trajectories (the teacher's and those of the evaluation) are in the store; training keeps checkpoints.
"""

import asyncio
import json
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from agents.models import open_chat
from agents.outages import raise_first
from agents.plain_roles import AGENT
from agents.scripted_solver import ScriptedSolver
from agents.store import Row, Store
from agents.types import ROLES, Task
from distill.contexts import verifier_context
from distill.harvest import HarvestReport, harvest, teacher_context
from distill.mixture import Apart, answer_row, is_verifiers_alone, select_mixture
from distill.prompts import prompts_of
from distill.role_harvest import harvest_roles, open_teachers, sampling_agent
from distill.sampling import by_agent, by_solver, label_task, sample_all
from distill.sections import RunConfig
from distill.select import Selected, select, to_examples
from tools import registry
from tools.base import Tool
from tools.errors import DataError, NothingAcceptedError
from tools.progress import Progress
from tools.whole import write_whole

NOTE_SECONDS = 10.0  # between two notes of a running stage's time: as much as a kill can lose


def open_tools(cfg: RunConfig) -> AbstractAsyncContextManager[dict[str, Tool]]:
    """Open the verifiers' tools for the running event loop, and close them. Raises as `tools.registry.open_tools`."""
    return registry.open_with_sandbox(cfg.tools, cfg.sandbox)


async def try_tools(cfg: RunConfig) -> None:
    """Open the tools and close them again: what they lack is told before a run begins. Raises as `open_tools`."""
    async with open_tools(cfg):
        pass


def run_async(work: Any) -> Any:
    """Run a coroutine; of a group of errors the first that has a line for the user is raised."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        raise_first(group)


class Run:
    """One run: its settings, its folder, its problems, and what its stages measured."""

    def __init__(
        self,
        cfg: RunConfig,
        parts: dict[str, list[Task]],
        store: Store,
        benchmarks: dict[str, list[str]] | None = None,
    ) -> None:
        """Set out from what the folder holds; see `load_parts` and `load_benchmarks` for the problems."""
        self.cfg, self.parts, self.store, self.benchmarks = cfg, parts, store, benchmarks or {}
        self.dir = cfg.run_dir
        self._stages_file = self.dir / "stages.json"
        self.stages: dict[str, dict[str, Any]] = (
            json.loads(self._stages_file.read_text()) if self._stages_file.exists() else {}
        )

    # --- bookkeeping --------------------------------------------------------------------------------------------------

    def _keep(self, name: str, entry: dict[str, Any]) -> None:
        self.stages[name] = entry
        write_whole(self._stages_file, json.dumps(self.stages, indent=1))

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Time a stage: the seconds of all sittings are added up, also of those that ended in an error or a kill."""
        entry = dict(self.stages.get(name, {}))
        before, started, ended = entry.get("wall_s", 0.0), time.monotonic(), threading.Event()

        def note() -> None:
            entry["wall_s"] = before + time.monotonic() - started
            entry["peak_memory_mb"] = max(entry.get("peak_memory_mb", 0.0), peak_memory_mb())
            self._keep(name, dict(entry))

        def note_often() -> None:
            while not ended.wait(NOTE_SECONDS):
                with suppress(OSError):  # the stage itself will say that the disk is full
                    note()

        clock = threading.Thread(target=note_often, name="retort-stage-clock", daemon=True)
        clock.start()
        try:
            yield entry
            entry["done"] = True
        finally:
            ended.set()
            clock.join()
            note()

    def done(self, name: str) -> bool:
        """Whether a stage has been finished, in this sitting or before; one with failures to try again has not."""
        entry = self.stages.get(name, {})
        return bool(entry.get("done")) and not entry.get("retry")

    @property
    def wall_s(self) -> dict[str, float]:
        """Seconds by phase, the three evaluations together, and in all."""
        out: dict[str, float] = dict.fromkeys(("harvest", "select", "sft", "grpo", "eval"), 0.0)
        for name, entry in self.stages.items():
            out[name.partition("/")[0]] += entry.get("wall_s", 0.0)
        return out | {"total": sum(out.values())}

    @property
    def peak_memory_mb(self) -> float:
        """The highest resident memory of this process in any sitting, MiB."""
        return max((e.get("peak_memory_mb", 0.0) for e in self.stages.values()), default=0.0)

    # --- problems -----------------------------------------------------------------------------------------------------

    def _solver(self) -> Any:
        cfg = self.cfg.solver
        solver = open_chat(cfg.model, cfg.base_url, error_rate=cfg.error_rate, seed=self.cfg.seed)
        if isinstance(solver, ScriptedSolver):
            solver.learn(task for part in self.parts.values() for task in part)
        return solver

    def _teacher(self) -> Any:
        cfg = self.cfg.teacher
        return open_chat(cfg.model, cfg.base_url, error_rate=cfg.error_rate, seed=self.cfg.seed)

    # --- stages -------------------------------------------------------------------------------------------------------

    def harvest(self) -> None:
        """Sample candidates and let the teacher verify those of the harvest problems, and GRPO's for its verifiers."""
        self.store.hold_out(t.id for t in self.parts["eval"])
        if self.done("harvest"):
            return
        with self.stage("harvest") as entry, Progress("harvest", 0, "trajectories") as progress:
            report = run_async(self._harvest(progress))
            entry["report"] = report.model_dump()
            entry["retry"] = bool(report.failed or report.unsampled)

    async def _harvest(self, progress: Progress) -> HarvestReport:
        cfg, roles, recipes = self.cfg, self.cfg.mixture.roles, self.cfg.grpo.recipes
        async with open_tools(cfg) as tools:
            kinds = {"solver": self._solver(), "teacher": self._teacher(), "tools": tools, "label": label_task}
            await self._sample("eval", cfg.eval.k, **kinds)
            needed = {"harvest": bool(set(ROLES) & set(roles)), "grpo": "agentv" in recipes}
            reviewed = [task for part, needs in needed.items() if needs for task in self.parts[part]]
            if cfg.mixture.answerer == AGENT:
                for part in (part for part, needs in needed.items() if needs):
                    await self._sample(part, cfg.solver.k, **kinds)
            report = await harvest(reviewed, self.store, cfg, progress=progress, **kinds)
            if set(roles) - set(ROLES):
                await self._sample("harvest", cfg.solver.k, **kinds)
                failed = await harvest_roles(
                    self.parts["harvest"], self.store, cfg, open_teachers(cfg), tools, progress
                )
                report = report.model_copy(update={"failed": report.failed + failed})
            if "rrm" in recipes:
                await self._sample("grpo", cfg.solver.k, **kinds)
            return report

    async def _sample(self, part: str, k: int, **kinds: Any) -> None:
        """Bring the candidates of a part into the store: its solver's, or the agent's."""
        cfg = self.cfg
        if cfg.mixture.answerer == AGENT:
            draw = by_agent(sampling_agent(cfg, kinds["tools"]), k)
        else:
            draw = by_solver(teacher_context(cfg, **kinds).model_copy(update={"k": k}))
        width = max(1, cfg.teacher.concurrency // k)
        told = {"eval": "held-out"}.get(part, part), f"the {cfg.mixture.answerer}"
        await sample_all(self.parts[part], self.store, draw, width, told)

    @cached_property
    def teacher_rows(self) -> list[Row]:
        """The teacher's reviews in the store's order."""
        model, parts = self.cfg.teacher.model, {t.id for p in ("harvest", "grpo") for t in self.parts[p]}
        reviews = (row for row in self.store if row.trajectory.role in ROLES and row.task.id in parts)
        return [row for row in reviews if row.trajectory.model == model]

    @property
    def benchmark_questions(self) -> list[str]:
        """The questions of all named evaluation sets."""
        return [question for found in self.benchmarks.values() for question in found]

    def select(self) -> Selected:
        """Send the harvest through the rejection filter.

        Raises:
            NothingAcceptedError: nothing is left.
        """
        with self.stage("select") as entry:
            selected = self.choose()
            entry["funnel"] = selected.funnel.counts
        if not selected.rows:
            raise NothingAcceptedError(
                f"nothing of {selected.funnel.stages[0].total} trajectories was accepted: most fell at "
                f"{selected.funnel.worst or 'the harvest itself'}; use a stronger teacher (teacher.model, "
                "teacher.base_url), teacher.style=full, or more problems (tasks.n_harvest)"
            )
        return selected

    def choose(self) -> Selected:
        """Return what the rejection filter leaves of the harvest; nothing is written.

        Raises:
            NothingAcceptedError: one of the roles of a mixture has nothing left.
        """
        cfg, ids = self.cfg, {t.id for t in self.parts["harvest"]}
        held_out = [t.question for t in self.parts["eval"]]
        if is_verifiers_alone(cfg.mixture):
            own = [row for row in self.teacher_rows if row.task.id in ids]
            return select(own, cfg.select, seed=cfg.seed, held_out=held_out, benchmarks=self.benchmarks)
        return select_mixture(
            [row for row in self.store if row.task.id in ids],
            [answer_row(t, c) for t in self.parts["harvest"] for c in self.store.candidates(t.id) or []],
            cfg.mixture,
            cfg.select,
            Apart(held_out, self.benchmarks),
            cfg.seed,
        )

    def sft(self, selected: Selected) -> Path:
        """Fine-tune the student on the selected rows; returns the model's folder."""
        from train.sft import train_sft

        out = self.dir / "sft"
        if not self.done("sft") and not is_trained(out):
            with self.stage("sft") as entry, Progress("sft", 0, "steps") as progress:
                out.mkdir(exist_ok=True)
                entry["report"] = train_sft(
                    to_examples(selected.rows),
                    student=self.cfg.student,
                    settings=self.cfg.sft,
                    out=out,
                    seed=self.cfg.seed,
                    on_step=progress.at,
                )
            self._clean_up(out)
        return out / "model"

    def check_prompts(self) -> None:
        """Make sure that GRPO has its prompts: lacking ones are told before the student is fine-tuned for hours.

        Raises:
            DataError: one of the recipes has none, or there are too few.
        """
        if self.cfg.grpo.steps == 0 or self.done("grpo") or is_trained(self.dir / "grpo"):
            return
        from train.grpo import need_prompts
        from train.recipes import recipe_of

        ordered = recipe_of(self.cfg.grpo).order(prompts_of(self), self.cfg.grpo, self.cfg.seed)
        need_prompts(len(ordered), self.cfg.grpo)

    def grpo(self, start: Path) -> Path:
        """Train the fine-tuned model on the graph itself; returns the model's folder."""
        if self.cfg.grpo.steps == 0:
            return start
        from train.grpo import train_grpo
        from train.recipes import Around, Job

        out = self.dir / "grpo"
        if not self.done("grpo") and not is_trained(out):
            prompts = prompts_of(self)
            context = verifier_context(self.cfg, self.cfg.grpo)
            with self.stage("grpo") as entry, Progress("grpo", 0, "steps") as progress:
                out.mkdir(exist_ok=True)
                job = Job(start, self.cfg.student, self.cfg.grpo, out, self.cfg.seed, progress.at)
                mixture = self.cfg.mixture
                around = Around(
                    context, lambda: open_tools(self.cfg), self.cfg.judge, mixture.answerer, mixture.agent_turns
                )
                entry["report"] = train_grpo(prompts, around, job)
            self._clean_up(out)
        return out / "model"

    def _clean_up(self, out: Path) -> None:
        """Remove the checkpoints of a finished training, and give its memory back."""
        from train.trainers import return_freed_memory

        return_freed_memory()
        for folder in out.glob("checkpoint-*"):
            shutil.rmtree(folder)


def is_trained(out: Path) -> bool:
    """Whether `python -m train.sft` or `train.grpo` has made the model of a stage."""
    from train.launch import REPORT

    return (out / REPORT).is_file()


def peak_memory_mb() -> float:
    """Return this process's highest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def publish(run: Run, final: Path) -> Path:
    """Put the final model at `model/`.

    Raises:
        DataError: it cannot be written.
    """
    target, part = run.dir / "model", run.dir / "model.part"
    if not target.exists():
        shutil.rmtree(part, ignore_errors=True)
        try:
            shutil.copytree(final, part)
            part.rename(target)
        except (OSError, shutil.Error) as error:
            raise DataError(
                f"{target}: cannot be written ({error}); free space and run the same command again"
            ) from error
    return target
