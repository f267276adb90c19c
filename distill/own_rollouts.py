"""Rollouts of a graph of one's own by a named model, into a journal: nothing is done twice.

Input: tasks, a `Teacher` (graph, reward, model), a journal of rollouts. The graph is given the question alone; the
reward is the one that GRPO uses (`train.graph_runs.run_graph`). An outage is no reward: it is a line of the journal
with its typed error, and is tried again by the next run; many in a row stop the work. A limit (the model's context,
the graph's own steps) ends a rollout for good, without a reward.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langgraph.errors import GraphRecursionError

from agents.outages import Circuit, failure, raise_first
from agents.types import ErrorInfo, Frozen, Task, Turn
from eval.lines import Lines
from eval.solving import reference_of
from eval.verifier import opened_chat, reach
from tools.errors import ContextLengthError, RolloutError
from tools.progress import Progress
from train.graph_runs import GraphReward, run_graph
from train.recorder import Recorder

Place = tuple[str, int, str]  # a problem's id, the number of the sample, and what it is rewarded by
LIMITS = (ContextLengthError.__name__, GraphRecursionError.__name__)
IDS = ("prompt_ids", "completion_ids", "logprobs")  # of a turn; the student has a tokenizer of its own


class Rollout(Frozen):
    """One run of the graph: its conversations, and its reward (None: dropped, or `error` says why there is none)."""

    problem: str
    index: int
    reference: str
    reward: float | None = None
    conversations: tuple[tuple[Turn, ...], ...] = ()
    error: ErrorInfo | None = None
    seconds: float = 0.0

    @property
    def place(self) -> Place:
        """What it is a rollout of."""
        return self.problem, self.index, self.reference

    @property
    def is_outage(self) -> bool:
        """Whether it is to be tried again."""
        return self.error is not None and self.error.kind not in LIMITS


class Teacher(NamedTuple):
    """Who is harvested: graph and reward, the model and its sampling, how many at once, how many failures in a row.

    `room`: tokens of a conversation, where the model runs in this process.
    """

    graph: Any
    reward: GraphReward
    model: str
    base_url: str | None = None
    temperature: float = 1.0
    max_tokens: int = 2048
    room: int = 1024
    width: int = 16
    max_outages: int = 16
    seed: int = 0


def place_of(task: Task, index: int) -> Place:
    """Return the place of a task's sample. Another reference answer is another place: its reward is another one."""
    return task.id, index, reference_of(task, 0.0)


def finished(lines: Lines[Rollout]) -> dict[Place, Rollout]:
    """Return the rollouts that no outage ended, by place; the first of a place counts."""
    found: dict[Place, Rollout] = {}
    for made in lines.rows:
        if not made.is_outage:
            found.setdefault(made.place, made)
    return found


def roll_all(tasks: Sequence[Task], samples: int, teacher: Teacher, lines: Lines[Rollout]) -> RolloutError | None:
    """Bring every problem to so many rollouts.

    Args:
        tasks: problems.
        samples: rollouts a problem.
        teacher: who is harvested.
        lines: open; takes rollouts, and holds those from before.

    Returns:
        What to tell where some failed, None when all is done.

    Raises:
        ConfigError: the model cannot be opened, or the reward is no number.
        ModelError, SandboxError, ToolError: too many failures in a row. What is done is kept.
    """
    done = finished(lines)
    jobs = [(task, i) for task in tasks for i in range(samples) if place_of(task, i) not in done]
    if not jobs:
        return None
    work = Work(teacher, lines)
    # A model in this process draws by its seed and by what it was asked: another seed for what is resumed.
    seed = hash((teacher.seed, len(lines.rows))) if lines.rows else teacher.seed

    async def run(chat: BaseChatModel, progress: Progress) -> None:
        await reach(chat)
        await work.run(jobs, chat, progress)

    try:
        with (
            opened_chat(teacher.model, teacher.base_url, teacher.width, teacher.room, seed=seed) as chat,
            Progress("harvest", len(jobs), "rollouts") as progress,
        ):
            asyncio.run(run(chat, progress))
    except BaseExceptionGroup as group:
        raise_first(group)
    last = work.circuit.last
    return failure(work.failed, "rollouts", last) if last is not None else None


class Work:
    """The graph at work. `failed` counts the outages of this sitting."""

    def __init__(self, teacher: Teacher, lines: Lines[Rollout]) -> None:
        """Set out with nothing failed."""
        self.teacher, self.lines = teacher, lines
        self.circuit = Circuit(teacher.max_outages)
        self.failed = 0

    async def run(self, jobs: Sequence[tuple[Task, int]], chat: BaseChatModel, progress: Progress) -> None:
        """Make the rollouts, so many at once."""
        left = iter(jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.teacher.width, len(jobs))):
                group.create_task(self._worker(left, chat, progress))

    async def _worker(self, jobs: Iterator[tuple[Task, int]], chat: BaseChatModel, progress: Progress) -> None:
        for task, index in jobs:
            self.circuit.check()
            made = await roll(task, index, self.teacher, chat)
            self.lines.add(made)
            progress.advance(made.error is not None)
            if made.is_outage and made.error is not None:
                self.failed += 1
                self.circuit.failed(made.error)
            else:
                self.circuit.worked()


async def roll(task: Task, index: int, teacher: Teacher, model: BaseChatModel) -> Rollout:
    """Run the graph once; its nodes' chat model is a recorder around the named one."""
    began, place = time.monotonic(), place_of(task, index)
    chat = Recorder(
        chat=model, session=f"{task.id}:{index}", max_tokens=teacher.max_tokens, temperature=teacher.temperature
    )
    made = Rollout(problem=place[0], index=place[1], reference=place[2])
    try:
        reward = await run_graph(teacher.graph, teacher.reward, task, chat)
    except (RolloutError, GraphRecursionError) as error:
        told = ErrorInfo(kind=type(error).__name__, message=str(error).splitlines()[0])
        return made.model_copy(update={"error": told, "seconds": round(time.monotonic() - began, 3)})
    conversations = tuple(tuple(map(_kept, turns)) for turns in chat.conversations)
    ended = {"reward": reward, "conversations": conversations, "seconds": round(time.monotonic() - began, 3)}
    return made.model_copy(update=ended)


def _kept(turn: Turn) -> Turn:
    """Return a turn as it is kept: without token ids, and without half characters, which are in no file."""
    data = turn.model_dump(mode="json", exclude=set(IDS))
    return Turn.model_validate_json(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
