"""Many trajectories, each judged: every judgement is recorded, resumed after a kill, outages are counted.

Input: what is to be judged (a problem with a candidate solution, or with an agent's turns) and a judge's settings.
Output: trajectories of role `judge`, ids filled, handed to `record` as they end. Labels are not sent.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.outages import Circuit, failure, raise_first
from agents.store import Row, Store
from agents.types import Candidate, ErrorInfo, StopReason, Task, Trajectory, Turn, content_id
from eval.candidates import Problem
from eval.held_out import Pool, representatives
from eval.reviews import STORE, add_problems, mark_folder
from eval.verifier import opened_chat, reach, weights_of
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext, JudgeInput
from tools.progress import Progress

IDENTITY = "judgements-of.json"


class Item(NamedTuple):
    """One trajectory to judge: `turns` are an agent's; without any it is the candidate's text."""

    task: Task
    candidate: Candidate
    turns: tuple[Turn, ...] = ()


class Judges(NamedTuple):
    """Who judges: model and settings, how often, how much at once, how many failures in a row."""

    context: JudgeContext
    samples: int = 1
    width: int = 32
    max_outages: int = 16

    @property
    def identity(self) -> dict[str, Any]:
        """What judgements depend on: model (a folder's weights by size and time), settings, prompts."""
        return self.context.model_dump(mode="json", exclude={"base_url"}) | {
            "weights": weights_of(self.context.model, self.context.base_url),
            "prompts": self.context.version,
        }


def judge_problems(problems: Sequence[Problem], who: Judges, folder: Path) -> list[Row]:
    """Judge every distinct candidate; what the folder holds is not judged again, and then no model is opened.

    Args:
        problems: with their candidates.
        who: judges.
        folder: where the judgements are kept.

    Returns:
        A row a candidate and sample, in the store's order.

    Raises:
        ConfigError: the model cannot be opened, or the folder holds other judgements.
        DataError: the folder cannot be written, or holds other candidates of a problem.
        ModelError: judgements failed: an outage is no score. What is done is kept.
    """
    mark_folder(folder, IDENTITY, who.identity)
    items = items_of(problems)
    wanted = {key_of(item, sample, who.context) for item in items for sample in range(who.samples)}
    with Store(folder / STORE) as store:
        add_problems(store, problems)
        if not wanted <= store.done_keys():
            _drive(items, who, store)
        return [row for row in store if row.trajectory.key in wanted]


def _drive(items: Sequence[Item], who: Judges, store: Store) -> None:
    context = who.context
    opened = opened_chat(context.model, context.base_url, who.width, context.max_trajectory_tokens)
    with opened as chat, Progress("judge", 0, "trajectories") as progress:
        work = Judging(
            context.model_copy(update={"chat": chat}),
            store.add_trajectory,
            samples=who.samples,
            width=who.width,
            max_outages=who.max_outages,
        )

        async def judge() -> None:
            await reach(chat)
            missing = work.missing(items, store.done_keys())
            progress.expect(len(missing))
            await work.judge_all(missing, progress.advance)

        try:
            asyncio.run(judge())
        except BaseExceptionGroup as group:
            raise_first(group)
    if work.last is not None:
        raise failure(work.failed, "judgements", work.last)


def items_of(problems: Iterable[Problem]) -> list[Item]:
    """Return the distinct candidates of each problem."""
    pools = [Pool(problem.task, problem.candidates) for problem in problems]
    wanted = set(representatives(pools).values())
    return [Item(pool.task, c, c.turns) for pool in pools for c in pool.candidates if c.id in wanted]


def key_of(item: Item, sample: int, context: JudgeContext) -> str:
    """Return the key that the judge's trajectory will have."""
    return _with_ids(
        Trajectory(
            role="judge",
            model=getattr(context.chat, "model_id", context.model),
            prompt_version=context.version,
            stop_reason=StopReason.ERROR,
        ),
        item,
        sample,
    ).key


def _with_ids(trajectory: Trajectory, item: Item, sample: int) -> Trajectory:
    ids = {"task_id": item.task.id, "candidate_id": item.candidate.id, "sample_index": sample}
    return trajectory.model_copy(update=ids)


class Judging:
    """Judges trajectories side by side. `failed` counts outages of this sitting, `last` is the latest one."""

    def __init__(
        self,
        context: JudgeContext,
        record: Callable[[Trajectory], object],
        *,
        samples: int = 1,
        width: int = 32,
        max_outages: int = 16,
    ) -> None:
        """Set out.

        Args:
            context: of the judge, its chat filled in.
            record: keeps a trajectory; a failed one too.
            samples: judgements a trajectory.
            width: judgements at once.
            max_outages: failures in a row after which no judgement begins.
        """
        self.context, self.record, self.samples = context, record, samples
        self.failed = 0
        self.last: ErrorInfo | None = None
        self._slots, self._circuit = asyncio.Semaphore(width), Circuit(max_outages)

    def missing(self, items: Sequence[Item], done: Collection[str]) -> list[tuple[Item, int]]:
        """Return which samples of which items are not among the keys that are done."""
        wanted = [(item, sample) for item in items for sample in range(self.samples)]
        return [(item, sample) for item, sample in wanted if key_of(item, sample, self.context) not in done]

    async def judge_all(self, wanted: Sequence[tuple[Item, int]], advance: Callable[[bool], object]) -> None:
        """Judge them; `advance` learns after each whether it failed.

        Raises:
            ModelError: too many failures in a row (inside an exception group). What is recorded is kept.
        """
        async with asyncio.TaskGroup() as group:
            for item, sample in wanted:
                group.create_task(self._one(item, sample, advance))

    async def _one(self, item: Item, sample: int, advance: Callable[[bool], object]) -> None:
        given = JudgeInput(
            problem=item.task.question,
            solution=item.candidate.text,
            trajectory_id=content_id(item.candidate.id, "judge", sample),
        )
        if item.turns:
            given["turns"] = item.turns
        async with self._slots:
            self._circuit.check()
            out = await build_judge().ainvoke(given, context=self.context)
        judged = _with_ids(out["trajectory"], item, sample)
        self.record(judged)
        failed = judged.stop_reason is StopReason.ERROR
        advance(failed)
        if not failed:
            self._circuit.worked()
            return
        self.failed += 1
        self.last = judged.error or ErrorInfo(kind="RolloutError", message="no reason given")
        self._circuit.failed(self.last)
