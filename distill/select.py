"""Selection: which trajectories of a harvest become training examples. Pure functions; a seed fixes rows and order.

Inputs: (task, candidate, trajectory) rows in the store's order. Outputs: the rows kept, in training order, a funnel
that counts what every filter left, and the examples. A filter is an entry of `FILTERS`: adding one edits no loop.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agents.store import Row
from agents.types import EVERY_ROLE, Frozen, Message, Role, StopReason, Task, TrainingExample, Trajectory, content_id
from distill.sections import SelectConfig

_WORD = re.compile(r"\w+(?:\.\w+)*")


@dataclass(frozen=True)
class Selection:
    """What the filters go by: settings, the seed, and the questions that training must not have seen.

    `benchmarks` are the questions of named evaluation sets.
    """

    cfg: SelectConfig
    seed: int = 0
    held_out: tuple[str, ...] = ()
    benchmarks: Mapping[str, Sequence[str]] = field(default_factory=dict)


Filter = Callable[[Sequence[Row], Selection], list[Row]]


def _each(keep: Callable[[Row, Selection], bool]) -> Filter:
    """Make a filter of a predicate on one row."""
    return lambda rows, by: [row for row in rows if keep(row, by)]


def is_labelled(row: Row, by: Selection) -> bool:
    """The candidate's correctness is known."""
    return row.candidate.correct is not None


def is_answered(row: Row, by: Selection) -> bool:
    """No outage ended it."""
    return row.trajectory.stop_reason is not StopReason.ERROR


def has_ended(row: Row, by: Selection) -> bool:
    """It ended by itself: no limit cut it."""
    return row.trajectory.stop_reason in (StopReason.COMPLETED, StopReason.UNPARSED)


def is_parsed(row: Row, by: Selection) -> bool:
    """A verdict was read."""
    return row.trajectory.stop_reason is StopReason.COMPLETED and row.trajectory.verdict is not None


def has_right_verdict(row: Row, by: Selection) -> bool:
    """The verdict equals the label (rejection sampling)."""
    return row.trajectory.verdict is not None and row.trajectory.verdict.passed is row.candidate.correct


def is_within_limits(row: Row, by: Selection) -> bool:
    """The model did not write too much."""
    return row.trajectory.completion_tokens <= by.cfg.max_completion_tokens


def drop_trivial(rows: Sequence[Row], by: Selection) -> list[Row]:
    """Drop problems whose labelled candidates are all right or all wrong; one candidate alone makes none trivial.

    Sees every labelled row, so it must come early.
    """
    if not by.cfg.drop_trivial:
        return list(rows)
    labels: dict[str, dict[str, bool | None]] = defaultdict(dict)
    for row in rows:
        labels[row.task.id][row.candidate.id] = row.candidate.correct
    trivial = {task for task, found in labels.items() if len(found) > 1 and len(set(found.values())) == 1}
    return [row for row in rows if row.task.id not in trivial]


def drop_repeats(rows: Sequence[Row], by: Selection) -> list[Row]:
    """Keep the first row of each conversation."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(content_id(*((m.role, m.content) for m in conversation(row.trajectory))), row)
    return list(first.values())


def decontaminate(rows: Sequence[Row], by: Selection) -> list[Row]:
    """Drop problems that stand in the held-out questions (see `without`)."""
    return without(rows, by.held_out, by.cfg)


def without(rows: Sequence[Row], questions: Iterable[str], cfg: SelectConfig) -> list[Row]:
    """Drop problems of which too large a share of n-grams of words stands in the questions.

    A share, not a single n-gram: problems of one template have their phrases in common without giving anything away.
    """
    clean = {t.id for t in uncontaminated({row.task.id: row.task for row in rows}.values(), questions, cfg)}
    return [row for row in rows if row.task.id in clean]


def uncontaminated(tasks: Iterable[Task], questions: Iterable[str], cfg: SelectConfig) -> list[Task]:
    """Return the tasks of which no such share stands in the questions."""
    n = cfg.decontaminate_ngram
    seen: set[tuple[str, ...]] = set().union(*(ngrams(question, n) for question in questions))
    grams = [(task, ngrams(task.question, n)) for task in tasks]
    return [task for task, own in grams if len(own & seen) < cfg.decontaminate_share * len(own)]


def filters_with(benchmarks: Mapping[str, Sequence[str]]) -> dict[str, Filter]:
    """Return the filters with one for each named evaluation set, after that for the held-out problems.

    Each is a stage of the funnel, such as `not_in/math500`.
    """

    def leave_out(name: str) -> Filter:
        return lambda rows, by: without(rows, by.benchmarks[name], by.cfg)

    out: dict[str, Filter] = {}
    for stage, keep in FILTERS.items():
        out[stage] = keep
        if stage == "decontaminated":
            out |= {f"not_in/{name}": leave_out(name) for name in benchmarks}
    return out


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """Return the n-grams of a text's words, in lower case; a shorter text is one n-gram."""
    words = tuple(_WORD.findall(text.lower()))
    return {words[i : i + n] for i in range(max(1, len(words) - n + 1))}


def balance(rows: Sequence[Row], by: Selection) -> list[Row]:
    """Keep as many true as false in each role, and as many of each role; cap at `max_examples`.

    Of each role and label, first rows of all problems come before second ones. Without `balance` this is the cap alone.
    """
    cap = by.cfg.max_examples
    if not by.cfg.balance:
        return list(rows)[:cap]
    piles = {(role, label): _in_rounds(rows, role, label, by.seed) for role in EVERY_ROLE for label in (True, False)}
    roles = [role for role in EVERY_ROLE if any(row.trajectory.role == role for row in rows)]
    share = min((len(piles[role, label]) for role in roles for label in (True, False)), default=0)
    if cap is not None and roles:
        share = min(share, cap // (2 * len(roles)))
    return [row for pile in piles.values() for row in pile[:share]]


def _in_rounds(rows: Sequence[Row], role: Role, label: bool, seed: int) -> list[Row]:
    """Return the rows of a role and label: the first one of every problem, then the second ones, and so on."""
    by_problem: dict[str, list[Row]] = defaultdict(list)
    for row in shuffled(rows, seed):
        if row.trajectory.role == role and row.candidate.correct is label:
            by_problem[row.task.id].append(row)
    return [row for level in itertools.zip_longest(*by_problem.values()) for row in level if row is not None]


def shuffled(rows: Iterable[Row], seed: int) -> list[Row]:
    """Return rows in an order that the seed and their keys fix, whatever order they came in."""
    return sorted(rows, key=lambda row: (content_id(seed, row.trajectory.key), row.trajectory.key))


FILTERS: dict[str, Filter] = {
    "labelled": _each(is_labelled),
    "non_trivial": drop_trivial,
    "answered": _each(is_answered),
    "completed": _each(has_ended),
    "parsed": _each(is_parsed),
    "right_verdict": _each(has_right_verdict),
    "within_limits": _each(is_within_limits),
    "unique": drop_repeats,
    "decontaminated": decontaminate,
    "selected": balance,
}


class Stage(Frozen):
    """Rows left after a filter. `groups` counts them by `role/label`, such as `forward_verifier/true`."""

    name: str
    total: int
    groups: dict[str, int]


class Funnel(Frozen):
    """What every filter left, in order; the first stage is `generated`."""

    stages: tuple[Stage, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Stage name to rows left."""
        return {stage.name: stage.total for stage in self.stages}

    @property
    def worst(self) -> str:
        """The filter that dropped most, such as `right_verdict (40 of 50)`; "" where none dropped any."""
        drops = [(a.total - b.total, b.name, a.total) for a, b in itertools.pairwise(self.stages)]
        dropped, name, before = max(drops, key=lambda drop: drop[0], default=(0, "", 0))
        return f"{name} ({dropped} of {before})" if dropped else ""

    def _firsts(self) -> list[int]:
        """Return of how many rows each stage's are a share: those that its role generated, of a mixture all roles'."""
        out, all_roles = [], sum(stage.total for stage in self.stages if stage.name.endswith("/generated"))
        for stage in self.stages:
            begins = not out or stage.name.endswith("/generated")
            out.append(max(1, all_roles if stage.name == "mixture" else stage.total if begins else out[-1]))
        return out

    def to_table(self) -> list[list[str]]:
        """Return the rows of a table, its header first: stage, rows, kept %, then each role and label."""
        columns = sorted({name for stage in self.stages for name in stage.groups}, key=_column)
        body = [
            [s.name, str(s.total), f"{100 * s.total / first:.0f} %", *(str(s.groups.get(c, 0)) for c in columns)]
            for s, first in zip(self.stages, self._firsts(), strict=True)
        ]
        return [["stage", "trajectories", "left", *columns], *body]


def _column(name: str) -> tuple[int, int]:
    role, _, label = name.partition("/")
    return [str(r) for r in EVERY_ROLE].index(role), ["true", "false", "unlabelled"].index(label)


def stage_of(name: str, rows: Sequence[Row]) -> Stage:
    """Count rows by role and label."""
    words: Mapping[bool | None, str] = {True: "true", False: "false", None: "unlabelled"}
    found = Counter(f"{row.trajectory.role}/{words[row.candidate.correct]}" for row in rows)
    return Stage(name=name, total=len(rows), groups=dict(sorted(found.items(), key=lambda item: _column(item[0]))))


class Selected(NamedTuple):
    """What selection gives: rows in training order, and how they came to be."""

    rows: list[Row]
    funnel: Funnel


def select(
    rows: Iterable[Row],
    cfg: SelectConfig,
    *,
    seed: int = 0,
    held_out: Sequence[str] = (),
    benchmarks: Mapping[str, Sequence[str]] | None = None,
    filters: Mapping[str, Filter] | None = None,
) -> Selected:
    """Send the rows of a harvest through the filters.

    Args:
        rows: all of them, with every candidate of a problem.
        cfg: which limits and which filters.
        seed: fixes which of equal rows are kept, and the order.
        held_out: questions of the evaluation problems.
        benchmarks: questions of evaluation sets by name; each set is a stage of its own.
        filters: name to filter, in order; None: all of them.

    Returns:
        The rows kept, shuffled by the seed, and the funnel.
    """
    left = shuffled(rows, seed)
    by = Selection(cfg, seed, tuple(held_out), benchmarks or {})
    stages = [stage_of("generated", left)]
    for name, keep in (filters_with(by.benchmarks) if filters is None else filters).items():
        left = keep(left, by)
        stages.append(stage_of(name, left))
    return Selected(shuffled(left, seed), Funnel(stages=tuple(stages)))


def conversation(trajectory: Trajectory) -> list[Message]:
    """Return the whole conversation with each turn's thoughts in front of its text, as the model wrote them."""
    out: list[Message] = []
    for turn in trajectory.turns:
        thought = f"<think>\n{turn.reasoning.strip()}\n</think>\n\n" if turn.reasoning.strip() else ""
        out += [*turn.prompt, Message(role="assistant", content=thought + turn.content)]
    return out


def to_example(row: Row) -> TrainingExample:
    """Turn one selected row into a training example; its label is the verdict it teaches."""
    return TrainingExample(
        messages=tuple(conversation(row.trajectory)),
        trajectory_key=row.trajectory.key,
        task_id=row.task.id,
        role=row.trajectory.role,
        label=bool(row.candidate.correct),
    )


def to_examples(rows: Iterable[Row]) -> list[TrainingExample]:
    """Turn selected rows into training examples, in the same order."""
    return [to_example(row) for row in rows]
