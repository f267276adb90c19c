"""Refining a file's solutions: the refinement graph on each, every round kept, resumed after a kill.

Input: problems with first solutions (or none: the solver writes one), who verifies, revises and solves, the critics to
compare. Output: the rounds of each solution under each critic. All critics begin with the same first solution. A
failure is an entry with a typed reason, tried again by the next run. Reference answers do not come near it.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel

from agents.outages import Circuit, failure, raise_first
from agents.plain_roles import refiner_version
from agents.types import ErrorInfo, Round, content_id
from eval.candidates import Problem
from eval.held_out import Pool, representatives
from eval.journal import Journal
from eval.reviews import mark_folder
from eval.verifier import Verifier, identity, open_model, reach, weights_of
from graphs.refine import build_refine, next_step, resumed
from graphs.refine_state import RefineContext, RefineInput
from graphs.state import BidirectionalContext
from tools.progress import Progress

JOURNAL, IDENTITY = "rounds.jsonl", "refinement-of.json"
JUDGE_SETTINGS = {name for name in RefineContext.model_fields if name.startswith("judge_")} | {"max_transcript"}


class Item(NamedTuple):
    """One solution to refine: its name in the journal, the problem as text, the solution (None: to be written)."""

    name: str
    problem: str
    solution: str | None


class Rounds(Protocol):
    """Where the rounds of refinements are kept, by critic and item's name: `eval.journal.Journal`, or another."""

    def of(self, critic: str, candidate: str) -> list[Round]:
        """Return the rounds held, in order."""
        ...

    def first(self, candidate: str) -> Mapping[str, Round]:
        """Return the first rounds held, by critic."""
        ...

    def add(self, critic: str, candidate: str, made: Round) -> None:
        """Keep a round; a later one of its index takes its place."""
        ...


class Refiners(NamedTuple):
    """Who refines: the settings (verifier, refiner, solver), the critics to compare, how many items at once."""

    context: RefineContext
    critics: tuple[str, ...] = ("verifier",)
    width: int = 32
    max_outages: int = 16

    def under(self, critic: str) -> RefineContext:
        """Return the settings with one of the critics."""
        return self.context.model_copy(update={"critic": critic})


def items_of(problems: Sequence[Problem], solver: bool) -> list[Item]:
    """Return what is to be refined: the distinct solutions of each problem, or one that the solver is to write."""
    if solver:
        return [Item(content_id(p.task.id, "first"), p.task.question, None) for p in problems]
    wanted = set(representatives([Pool(p.task, p.candidates) for p in problems]).values())
    return [Item(c.id, p.task.question, c.text) for p in problems for c in p.candidates if c.id in wanted]


def refine_items(items: Sequence[Item], who: Refiners, folder: Path) -> dict[str, dict[str, list[Round]]]:
    """Refine every item under every critic; what the folder holds is not asked again, and then no model is opened.

    Returns:
        By critic and item's name, the rounds.

    Raises:
        ConfigError: a model cannot be opened, or the folder holds refinements by others.
        DataError: the folder cannot be written.
        ModelError, SandboxError, ToolError: something failed: an outage is no verdict. What is done is kept.
    """
    solver = any(i.solution is None for i in items)
    mark_folder(folder, IDENTITY, whole_identity(who.context, solver, judge="judge" in who.critics))
    with Journal(folder / JOURNAL) as journal:
        left = [i for i in items if not all(is_done(journal.of(c, i.name), who.context.rounds) for c in who.critics)]
        if left:
            _drive(left, who, journal)
        return {c: {i.name: limited(journal.of(c, i.name), who.context.rounds) for i in items} for c in who.critics}


def whole_identity(context: RefineContext, solver: bool, judge: bool = False) -> dict[str, Any]:
    """Return what rounds depend on; how many there are, and under which critic, they say themselves.

    Args:
        context: The settings.
        solver: Whether the solver writes the first solutions.
        judge: Whether the judge is one of the critics.
    """
    refiner = BidirectionalContext(model=context.refiner_model, base_url=context.refiner_base_url)
    left_out = {"rounds", "critic", "refiner_base_url", "solver_base_url", "judge_base_url"}
    ours = {name: value for name, value in identity(Verifier(context)).items() if name not in left_out}
    if not solver:
        ours = {name: value for name, value in ours.items() if not name.startswith("solver_")}
    if judge:
        judging = context.judging
        ours |= {"judge_weights": weights_of(judging.model, judging.base_url), "judge_prompts": judging.version}
    else:
        ours = {name: value for name, value in ours.items() if name not in JUDGE_SETTINGS}
    return ours | {
        "refiner_weights": identity(Verifier(refiner))["weights"],
        "refiner_prompts": refiner_version(context.refiner_style or context.style),
        "first_solutions": "solver" if solver else "file",
    }


def is_done(rounds: list[Round], limit: int) -> bool:
    """Whether a refinement has come to its end, and not by a failure."""
    return bool(rounds) and rounds[-1].error is None and next_step(rounds, limit) == "finish"


def limited(rounds: list[Round], limit: int) -> list[Round]:
    """Return the rounds that a run of `limit` revisions has: a folder may hold more, from a longer one."""
    kept = [r for r in rounds if r.index <= limit]
    if kept and kept[-1].index == limit and kept[-1].outcome != "unrevised":
        bare = {"outcome": "open", "critique": "", "reviews": (), "error": None}  # a run's last solution: not reviewed
        kept[-1] = kept[-1].model_copy(update=bare)
    return kept


def _drive(items: Sequence[Item], who: Refiners, journal: Journal) -> None:
    """Open the models and refine what is left."""
    with opened(who, any(i.solution is None for i in items)) as context, Progress("refine", 0, "solutions") as progress:

        async def work() -> None:
            live = (context.chat, context.judge, context.refiner, context.solver)
            for chat in {id(c): c for c in live if c}.values():
                await reach(chat)
            driver = Driver(who._replace(context=context), journal, progress.advance)
            progress.expect(len(items))
            await driver.drive(items)
            if driver.last is not None:
                raise failure(driver.failed, "refinements", driver.last)

        try:
            asyncio.run(work())
        except BaseExceptionGroup as group:
            raise_first(group)


@contextmanager
def opened(who: Refiners, solver: bool) -> Iterator[RefineContext]:
    """Open the chat models that are needed, each once; yield the settings with them."""
    from contextlib import ExitStack

    context = who.context
    wanted = {"refiner": (context.refiner_model, context.refiner_base_url)}
    if "verifier" in who.critics:
        wanted["chat"] = context.model, context.base_url
    if "judge" in who.critics:
        wanted["judge"] = context.judge_model, context.judge_base_url
    if solver:
        wanted["solver"] = context.solver_model, context.solver_base_url
    with ExitStack() as stack:
        chats: dict[tuple[str, str | None], BaseChatModel] = {}
        for role in sorted(wanted):  # chat, judge, refiner, solver
            place = wanted[role]
            if place not in chats:
                plain = context if role == "chat" else BidirectionalContext(model=place[0], base_url=place[1])
                option = "--model" if role == "chat" else f"--{role}"
                chats[place] = stack.enter_context(open_model(Verifier(plain, who.width), option))
        yield context.model_copy(update={role: chats[place] for role, place in wanted.items()})


class Driver:
    """Refines items side by side, each under one critic after the other, and keeps every round.

    `failed` counts items that an outage of this sitting ended, `last` is the latest outage.
    """

    def __init__(self, who: Refiners, journal: Rounds, advance: Callable[[bool], object]) -> None:
        """Set out; `who.context` holds the live models. `advance` learns which item failed."""
        self.who, self.journal, self.advance = who, journal, advance
        self.failed = 0
        self.last: ErrorInfo | None = None
        self._graph, self._slots = build_refine(), asyncio.Semaphore(who.width)
        self._circuit = Circuit(who.max_outages)

    async def drive(self, items: Sequence[Item]) -> None:
        """Refine all items.

        Raises:
            ModelError, SandboxError, ToolError: too many failures in a row (inside an exception group). What is
                recorded is kept.
        """
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(self._item(item))

    async def _item(self, item: Item) -> None:
        async with self._slots:
            errors = [await self._refine(item, critic) for critic in self.who.critics]
        error = next((e for e in errors if e is not None), None)
        self.advance(error is not None)
        if error is None:
            self._circuit.worked()
            return
        self.failed, self.last = self.failed + 1, error
        self._circuit.failed(error)

    async def _refine(self, item: Item, critic: str) -> ErrorInfo | None:
        """Go on with an item under a critic; return what made it fail."""
        self._circuit.check()
        held = resumed(self.journal.of(critic, item.name)) or self._shared(item)
        if is_done(held, self.who.context.rounds) and self.journal.of(critic, item.name) == held:
            return None
        given = RefineInput(problem=item.problem, trajectory_id=f"{item.name}:{critic}:0", rounds=held)
        if item.solution is not None:
            given["solution"] = item.solution
        last: Round | None = None
        async for update in self._graph.astream(given, context=self.who.under(critic), stream_mode="updates"):
            for made in [r for node in update.values() for r in (node or {}).get("rounds", [])]:
                if made not in self.journal.of(critic, item.name):
                    self.journal.add(critic, item.name, made)
                last = made
        return last.error if last else None

    def _shared(self, item: Item) -> list[Round]:
        """Return the first solution that another critic's refinement began with, not reviewed yet."""
        firsts = [r for r in self.journal.first(item.name).values() if r.error is None or r.solution]
        bare = {"outcome": "open", "critique": "", "reviews": (), "error": None}
        return [firsts[0].model_copy(update=bare)] if firsts else []
