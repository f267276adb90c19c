"""Reagent-C for an agent on a benchmark: its trajectories are judged, and it answers anew with the critique.

Input: first trajectories, the agent, a judge, a journal. Output: the rounds of each trajectory, from graph `refine`;
the journal holds every one, an outage with its typed error, which the next run tries again. Judge and agent are shown
the question and what the agent did: no reference answer comes near.
"""

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel

from agents.final_answer import answer_of, as_solution
from agents.outages import failure, raise_first
from agents.types import Round, Trajectory
from eval.agent_runs import Place
from eval.agent_settings import OF_ROUNDS, Agent, opened_agent
from eval.journal import Journal
from eval.refining import Driver, Item, Refiners, is_done, limited
from eval.reviews import mark_folder
from eval.verifier import changed, opened_chat, reach, weights_of
from graphs.judge_state import transcript_for
from graphs.refine_state import RefineContext
from tools.errors import ConfigError, DataError, RolloutError
from tools.progress import Progress
from tools.registry import open_with_sandbox
from tools.sandbox.settings import SandboxConfig

JOURNAL, IDENTITY, CRITIC = "rounds.jsonl", "rounds-of.json", "judge"


class First(NamedTuple):
    """A first trajectory, and the question that it answers."""

    question: str
    made: Trajectory

    @property
    def round(self) -> Round:
        """The round that a course begins with; a trajectory without a step cannot be judged, and stands."""
        solution = as_solution(answer_of(self.made))
        outcome = "open" if self.made.turns else "unrevised"
        return Round(index=0, solution=solution, made=self.made.turns, outcome=outcome)


Firsts = Mapping[Place, First]


def refiners_of(args: argparse.Namespace, agent: Agent) -> Refiners | None:
    """Return who judges and answers anew, None where no rounds are wanted.

    Raises:
        ConfigError: options that lack each other, or a wrong setting.
    """
    if args.judge_url and not args.judge:
        raise ConfigError("--judge-url needs --judge, the name that the server serves")
    if args.rounds and not args.judge:
        raise ConfigError(f"--rounds {args.rounds} needs --judge, the model that judges (offline: scripted-judge)")
    if args.judge and not args.rounds:
        raise ConfigError("--judge needs --rounds, how often the agent may answer anew; add --rounds 1")
    if not args.rounds:
        return None
    room = agent.context.max_trajectory_tokens
    context = RefineContext(
        rounds=args.rounds,
        critic=CRITIC,
        agent=agent.context,
        judge_model=args.judge,
        judge_base_url=args.judge_url,
        judge_accepts=args.judge_accepts,
        style=agent.context.style,
        max_trajectory_tokens=room,
        max_transcript=transcript_for(room),
    )
    given = [text for text in args.set if text.partition("=")[0] in OF_ROUNDS]
    return Refiners(changed(context, given, "judge"), (CRITIC,), agent.width, agent.max_outages)


def identity(context: RefineContext) -> dict[str, Any]:
    """Return what rounds depend on beside the agent, of whom its folder says it."""
    judging = context.judging
    return judging.model_dump(mode="json", exclude={"base_url"}) | {
        "accepts": context.judge_accepts,
        "max_critique": context.max_critique,
        "prompts": judging.version,
        "weights": weights_of(judging.model, judging.base_url),
    }


@contextmanager
def opened_journal(folder: Path, who: Refiners | None) -> Iterator[Journal | None]:
    """Open the journal of rounds in a folder and mark it as this judge's; None where no rounds are wanted.

    Raises:
        ConfigError: the folder holds rounds with another judge.
        DataError: it cannot be written, or is damaged.
    """
    if who is None:
        yield None
        return
    with Journal(folder / JOURNAL) as journal:
        if all(r.outcome == "open" for rounds in journal.rounds.values() for r in rounds):
            (folder / IDENTITY).unlink(missing_ok=True)  # a judge who has judged nothing: a wrong name can be mended
        mark_folder(folder, IDENTITY, identity(who.context), "rounds with another judge")
        yield journal


class Begun:
    """The journal for `Driver`, in which a course that holds nothing yet begins with its first trajectory."""

    def __init__(self, journal: Journal, firsts: Firsts) -> None:
        """Take journal and first trajectories.

        Raises:
            DataError: a course began with another trajectory.
        """
        self.journal = journal
        self._firsts = {name_of(place): first.round for place, first in firsts.items()}
        for name, first in self._firsts.items():
            held = journal.of(CRITIC, name)
            if held and held[0].made != first.made:
                raise DataError(f"{journal.path}: {name} began with another trajectory; choose another --out")

    def of(self, critic: str, candidate: str) -> list[Round]:
        """Return the rounds of a course, at least the first."""
        return self.journal.of(critic, candidate) or [self._firsts[candidate]]

    def first(self, candidate: str) -> Mapping[str, Round]:
        """Return the first rounds under other critics: there are none."""
        return {}

    def add(self, critic: str, candidate: str, made: Round) -> None:
        """Keep a round."""
        self.journal.add(critic, candidate, made)


def name_of(place: Place) -> str:
    """Return the name of a trajectory's course."""
    return f"{place[0]}:{place[1]}"


def refine_all(
    firsts: Firsts, agent: Agent, who: Refiners, journal: Journal
) -> tuple[dict[Place, list[Round]], RolloutError | None]:
    """Bring the course of every first trajectory to its end.

    Returns:
        The rounds by place, and what to tell where some failed; their last round has the error.

    Raises:
        ConfigError: judge, agent or a tool cannot be opened.
        DataError: the journal is of other trajectories.
        ModelError, SandboxError, ToolError: too many failures in a row. What is done is kept.
    """
    begun, limit = Begun(journal, firsts), who.context.rounds

    def course(place: Place) -> list[Round]:
        return limited(begun.of(CRITIC, name_of(place)), limit)

    left = [
        Item(name_of(place), first.question, first.round.solution)
        for place, first in firsts.items()
        if not is_done(course(place), limit)
    ]
    told = _drive(left, agent, who, begun) if left else None
    return {place: course(place) for place in firsts}, told


def _drive(items: list[Item], agent: Agent, who: Refiners, begun: Begun) -> RolloutError | None:
    """Open judge, agent and tools, and go on with these courses."""
    held = sum(map(len, begun.journal.rounds.values()))

    async def work(chat: BaseChatModel, judge: BaseChatModel, progress: Progress) -> Driver:
        for model in {id(c): c for c in (chat, judge)}.values():
            await reach(model)
        async with open_with_sandbox(agent.tools, SandboxConfig()) as tools:
            live = {"judge": judge, "agent": agent.context.model_copy(update={"chat": chat, "tools": tools})}
            driver = Driver(who._replace(context=who.context.model_copy(update=live)), begun, progress.advance)
            await driver.drive(items)
        return driver

    with (
        opened_agent(agent, len(items) + held) as chat,  # not the seed of the first trajectories
        _opened_judge(who, agent, chat) as judge,
        Progress("rounds", len(items), "trajectories") as progress,
    ):
        try:
            driver = asyncio.run(work(chat, judge, progress))
        except BaseExceptionGroup as group:
            raise_first(group)
    return failure(driver.failed, "trajectories' rounds", driver.last) if driver.last else None


@contextmanager
def _opened_judge(who: Refiners, agent: Agent, chat: BaseChatModel) -> Iterator[BaseChatModel]:
    """Open the judge's chat model; it is the agent's where they are one model."""
    context = who.context
    if (context.judge_model, context.judge_base_url) == (agent.context.model, agent.context.base_url):
        yield chat
        return
    room = context.max_trajectory_tokens
    with opened_chat(context.judge_model, context.judge_base_url, who.width, room, option="--judge") as judge:
        yield judge
