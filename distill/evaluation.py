"""The evaluation of a run: each model as the bidirectional verifier of the held-out candidates.

Input: a `Run` whose harvest is done; output: metrics and one row a candidate. Every review is in the run's store, so a
process that was killed goes on where it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel

from agents.types import ROLES
from distill.contexts import eval_context
from distill.pipeline import open_tools, run_async
from distill.sections import RunConfig
from eval.held_out import Pool, Reviews, complete, representatives, review_all, scored_pools, side_of, verdict_rows
from eval.results import HeldOut, Stage, VerdictRow, held_out
from graphs.state import BidirectionalContext
from tools.progress import Progress

if TYPE_CHECKING:
    from distill.pipeline import Run


@contextmanager
def opened_student(cfg: RunConfig, model: str, name: str) -> Iterator[BaseChatModel]:
    """Load a student and yield it as a chat model; its memory is given back.

    Args:
        cfg: Settings of the run.
        model: Folder of the model.
        name: Its name in records.
    """
    from agents.local import LocalPolicy
    from train.student import load_student
    from train.trainers import keep_freed_memory, return_freed_memory

    keep_freed_memory()
    student, tokenizer = load_student(model, cfg.student.dtype)
    with LocalPolicy(
        student,
        tokenizer,
        model_id=name,
        slots=cfg.eval.batch,
        max_context=cfg.student.max_length,
        seed=cfg.seed,
    ) as policy:
        yield policy.chat
    del student
    return_freed_memory()


class Evaluation:
    """The held-out candidates of a run, and what models make of them."""

    def __init__(self, run: "Run") -> None:
        """Take the run."""
        self.run, self.cfg, self.store = run, run.cfg, run.store

    @cached_property
    def pools(self) -> list[Pool]:
        """The held-out problems with their candidates."""
        return [Pool(t, self.store.candidates(t.id) or []) for t in self.run.parts["eval"]]

    def evaluate(self, stage: Stage, model: str) -> tuple[HeldOut, list[VerdictRow]]:
        """Measure a model as the bidirectional verifier of the held-out candidates."""
        name = f"{self.cfg.student.model}:{stage}"
        context = eval_context(self.cfg)
        if not self.run.done(f"eval/{stage}"):
            total = len(set(representatives(self.pools).values()))
            with self.run.stage(f"eval/{stage}"), Progress(f"eval {stage}", total, "candidates") as progress:
                self._review(name, model, context, progress)
        rows = verdict_rows(self.pools, self._reviews(name), context)
        return held_out(rows, resamples=self.cfg.eval.bootstrap, seed=self.cfg.seed), rows

    def _reviews(self, name: str) -> Reviews:
        out: Reviews = {}
        for row in self.store:
            if row.trajectory.model == name:
                out.setdefault(row.candidate.id, {})[side_of(row.trajectory)] = row.trajectory
        return out

    def _review(self, name: str, model: str, context: BidirectionalContext, progress: Progress) -> None:
        held = self._reviews(name)
        for _ in range(sum(complete(sides, context) for sides in held.values())):
            progress.advance()
        with opened_student(self.cfg, model, name) as chat:

            async def work() -> None:
                async with open_tools(self.cfg) as tools:
                    await review_all(
                        self.pools,
                        context.model_copy(update={"chat": chat, "tools": tools, "model": name}),
                        held=held,
                        record=self.store.add_trajectory,
                        width=max(1, self.cfg.eval.batch // (len(ROLES) * context.samples)),  # a candidate is that many
                        advance=progress.advance,
                    )

            run_async(work())

    def best_of_n_pools(self, rows: Sequence[VerdictRow]) -> Any:
        """Return the held-out candidates with the verdicts of `rows`, by problem."""
        return scored_pools(self.pools, rows)
