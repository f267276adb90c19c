"""A language model as grader: does an answer say the same as the reference answer? Optional, beside the rule.

Input: questions with reference answers and final answers. Output: a verdict for each, kept in a journal, so that none
is asked for twice. A grader that cannot be reached or cannot be read has given no verdict: that is counted, never
guessed. A comparison that does not fit the grader's context has no verdict either; it is no outage. Where there is no
answer there is nothing to compare, and the grader is not asked.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from agents.outages import raise_first
from agents.plain_roles import grader_version, render_grader
from agents.protocol import ParseFailure, parse_verdict, to_langchain
from agents.types import Frozen, Task, content_id
from eval.lines import Lines
from eval.verifier import opened_chat, reach
from tools.errors import ContextLengthError, RolloutError
from tools.progress import Progress

UNREADABLE = "unreadable"  # a reply without a verdict
TOO_LONG = "over the context"  # question and answers do not fit the grader's context
MAX_TOKENS, ROOM = 1024, 4096


class Compared(Frozen):
    """A line of the journal: a verdict on an answer, by the key of what was compared, and what it cost."""

    key: str
    same: bool
    tokens: int = 0


class Grader(NamedTuple):
    """Who grades: a model and its endpoint, how many answers at once, failures in a row."""

    model: str
    base_url: str | None = None
    width: int = 16
    max_outages: int = 16

    def key(self, task: Task, answer: str) -> str:
        """Return what a verdict depends on: the same answer twice is one comparison."""
        return content_id(task.id, task.answer, answer, self.model, grader_version())


class Graded(NamedTuple):
    """Verdicts by key, and how many comparisons failed, by reason."""

    verdicts: Mapping[str, bool]
    failures: Mapping[str, int]

    def of(self, grader: Grader, task: Task, answer: str | None) -> bool | None:
        """Return whether an answer is right: False for none at all, None where the grader failed."""
        return False if answer is None else self.verdicts.get(grader.key(task, answer))


Answer = tuple[Task, str]


def grade_all(answers: Sequence[Answer], grader: Grader, lines: Lines[Compared]) -> Graded:
    """Have every distinct answer compared with its reference.

    Args:
        answers: tasks with their final answers.
        grader: who compares.
        lines: open; takes verdicts, and holds those from before.

    Returns:
        The verdicts, and the failures of this run.

    Raises:
        ConfigError: the grader cannot be opened or reached.
    """
    held = {line.key: line.same for line in lines.rows}
    jobs = {grader.key(task, answer): (task, answer) for task, answer in answers}
    left = {key: job for key, job in jobs.items() if key not in held}
    failures: Counter[str] = Counter()
    if left:
        failures = _ask_all(left, grader, lines)
    made = {line.key: line.same for line in lines.rows}
    return Graded({key: made[key] for key in jobs if key in made}, dict(sorted(failures.items())))


def _ask_all(left: Mapping[str, Answer], grader: Grader, lines: Lines[Compared]) -> Counter[str]:
    asking = Asking(grader, lines)
    with _opened(grader) as chat, Progress("grade", len(left), "answers") as progress:
        try:
            asyncio.run(asking.run(left, chat, progress))
        except BaseExceptionGroup as group:
            raise_first(group)
    return asking.failures


@contextmanager
def _opened(grader: Grader) -> Iterator[BaseChatModel]:
    with opened_chat(grader.model, grader.base_url, grader.width, MAX_TOKENS + ROOM, option="--grader") as chat:
        yield chat


class Asking:
    """The grader at work: what failed, and how often in a row."""

    def __init__(self, grader: Grader, lines: Lines[Compared]) -> None:
        """Set out with nothing failed."""
        self.grader, self.lines = grader, lines
        self.failures: Counter[str] = Counter()
        self.in_a_row, self.last = 0, ""  # outages, and the kind of the last one

    async def run(self, left: Mapping[str, Answer], chat: BaseChatModel, progress: Progress) -> None:
        """Compare what is left; after too many failures in a row the rest counts as failed, unasked."""
        await reach(chat)
        jobs = iter(left.items())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.grader.width, len(left))):
                group.create_task(self._worker(jobs, chat, progress))

    async def _worker(self, jobs: Iterator[tuple[str, Answer]], chat: BaseChatModel, progress: Progress) -> None:
        for key, (task, answer) in jobs:
            reason = await self._one(key, task, answer, chat)
            if reason:
                self.failures[reason] += 1
            progress.advance(failed=bool(reason))

    async def _one(self, key: str, task: Task, answer: str, chat: BaseChatModel) -> str:
        """Compare one answer; returns why there is no verdict, "" where there is one."""
        if self.in_a_row >= self.grader.max_outages:
            return self.last
        try:
            reply = await ask(task, answer, key, chat)
        except ContextLengthError:
            self.in_a_row = 0  # the grader is there
            return TOO_LONG
        except RolloutError as error:
            self.in_a_row, self.last = self.in_a_row + 1, type(error).__name__
            return self.last
        self.in_a_row = 0
        same = parse_verdict(str(reply.text))
        if isinstance(same, ParseFailure):
            return UNREADABLE
        tokens = reply.usage_metadata["output_tokens"] if reply.usage_metadata else 0
        self.lines.add(Compared(key=key, same=same, tokens=tokens))
        return ""


async def ask(task: Task, answer: str, session: str, chat: BaseChatModel) -> AIMessage:
    """Ask whether an answer says the same as the reference.

    Raises:
        ModelError: the chat model failed.
    """
    prompt = render_grader(task.question, task.answer or "", answer)
    return await chat.ainvoke(
        [to_langchain(message) for message in prompt],
        session=session,
        stage="grade",
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        top_logprobs=None,
    )
