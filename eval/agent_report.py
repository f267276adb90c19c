"""The result of `python -m eval.agent`: pass@1 and pass@k with intervals, what it cost, how trajectories ended.

Input: problems with their trajectories and grades. Output: `AgentReport` and its tables. pass@k is the unbiased
estimator of `eval.solve_report`; intervals are bootstrapped over problems. A problem of which a trajectory is missing
(an outage) is left out, and counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from agents.final_answer import answer_of
from agents.types import Frozen, Kind, Task, Trajectory
from eval.agent_round_report import RoundsReport
from eval.agent_round_report import sections as round_sections
from eval.bootstrap import Interval, percentile_interval, resampled_rows
from eval.checkers import Grade
from eval.report import Section, with_interval
from eval.results import Machine, package_versions, this_machine
from eval.solve_report import pass_at

ALL = "all"
AUDITED = 100  # disagreements that are listed


class Answered(NamedTuple):
    """A problem with its trajectories in order, their grades by the rule, and by a grader (None: it failed)."""

    task: Task
    trajectories: tuple[Trajectory, ...]
    grades: tuple[Grade, ...]
    verdicts: tuple[bool | None, ...] = ()


class Costs(Frozen):
    """Means over trajectories. `seconds` is a trajectory's own time: many run at once."""

    tokens: float
    prompt_tokens: float
    turns: float
    tool_calls: float
    seconds: float


class Rate(Frozen):
    """pass@k of some problems under one way of grading, with intervals."""

    problems: int
    pass_at: dict[int, float]
    ci: dict[int, Interval | None]


class Group(Frozen):
    """Figures of some problems. `graded` is by the language model, over the problems that it graded whole."""

    rule: Rate
    graded: Rate | None = None
    answered: float
    costs: Costs
    ended: dict[str, int]


class ToolUse(Frozen):
    """How often a tool was called, and how often that gave no result (refused, failed, repeated)."""

    calls: int
    failed: int


class Doubt(Frozen):
    """A grade for someone to look at, and why."""

    problem: str
    index: int
    answer: str | None
    reference: str | None
    rule: bool
    why: str


class AgentReport(Frozen):
    """All that the command found out. `asked` problems were to be answered; `groups` are of those that are, whole."""

    benchmark: str
    kind: Kind
    read_from: str
    agent: dict[str, Any]
    repeats: int
    asked: int
    groups: dict[str, Group]
    tools: dict[str, ToolUse] = Field(default_factory=dict)
    rounds: RoundsReport | None = None
    outages: dict[str, int] = Field(default_factory=dict)
    grader: str | None = None
    grader_failures: dict[str, int] = Field(default_factory=dict)
    agreement: float | None = None
    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)


def groups(answered: Sequence[Answered], repeats: int, resamples: int, seed: int) -> dict[str, Group]:
    """Return the figures of all problems, and by level where there are several."""
    out = {ALL: group(answered, repeats, resamples, seed)}
    levels = sorted({a.task.level for a in answered} - {""})
    if len(levels) > 1:
        for level in levels:
            out[f"level {level}"] = group([a for a in answered if a.task.level == level], repeats, resamples, seed)
    return out


def group(answered: Sequence[Answered], repeats: int, resamples: int, seed: int) -> Group:
    """Return the figures of some problems."""
    made = [t for a in answered for t in a.trajectories]

    def mean(value: Callable[[Trajectory], float]) -> float:
        return fmean(map(value, made)) if made else 0.0

    counts = [(a.task.id, sum(bool(grade.correct) for grade in a.grades)) for a in answered]
    whole = [(a.task.id, sum(map(bool, a.verdicts))) for a in answered if a.verdicts and None not in a.verdicts]
    ended = Counter(t.stop_reason.value for t in made)
    return Group(
        rule=rate(counts, repeats, resamples, seed),
        graded=rate(whole, repeats, resamples, seed) if any(a.verdicts for a in answered) else None,
        answered=mean(lambda t: answer_of(t) is not None),
        costs=Costs(
            tokens=mean(lambda t: t.completion_tokens),
            prompt_tokens=mean(lambda t: sum(turn.prompt_tokens for turn in t.turns)),
            turns=mean(lambda t: len(t.turns)),
            tool_calls=mean(lambda t: t.tool_calls),
            seconds=mean(lambda t: t.seconds),
        ),
        ended=dict(sorted(ended.items())),
    )


def rate(counts: Sequence[tuple[str, int]], repeats: int, resamples: int, seed: int) -> Rate:
    """Return pass@1 to pass@k with intervals.

    Args:
        counts: the id of each problem, and how many of its trajectories are right.
        repeats: trajectories a problem: k.
        resamples: bootstrap draws over problems.
        seed: of the draws.
    """
    ks = sorted({2**i for i in range(repeats.bit_length()) if 2**i <= repeats} | {repeats})
    draws = list(resampled_rows([problem for problem, _ in counts], resamples, seed))
    values, intervals = {}, {}
    for k in ks if counts else []:
        of_problem = np.array([pass_at(right, repeats, k) for _, right in counts])
        values[k] = float(of_problem.mean())
        intervals[k] = percentile_interval([float(of_problem[rows].mean()) for rows in draws])
    return Rate(problems=len(counts), pass_at=values, ci=intervals)


def tool_use(answered: Sequence[Answered]) -> dict[str, ToolUse]:
    """Return how often each tool was called; calls that were not run (the last step's) are left out."""
    calls, failed = Counter[str](), Counter[str]()
    for a in answered:
        for turn in (turn for t in a.trajectories for turn in t.turns):
            for call, result in zip(turn.tool_calls, turn.results, strict=False):
                calls[call.name] += 1
                failed[call.name] += not result.ok
    return {name: ToolUse(calls=calls[name], failed=failed[name]) for name in sorted(calls)}


def agreement(answered: Sequence[Answered]) -> float | None:
    """Return the share of the graded trajectories on which rule and grader agree, None where none was graded."""
    pairs = [
        (bool(g.correct), v) for a in answered for g, v in zip(a.grades, a.verdicts, strict=False) if v is not None
    ]
    return fmean(rule == verdict for rule, verdict in pairs) if pairs else None


def doubts(answered: Sequence[Answered]) -> list[Doubt]:
    """Return the grades to look at: two rules disagree, or the rule and the grader; at most `AUDITED`."""
    found = []
    for a in answered:
        verdicts = a.verdicts or (None,) * len(a.grades)
        for i, (grade, verdict) in enumerate(zip(a.grades, verdicts, strict=True)):
            differs = verdict is not None and verdict != bool(grade.correct)
            why = f"the grader says {'right' if verdict else 'wrong'}" if differs else grade.doubt
            if why:
                found.append(
                    Doubt(
                        problem=a.task.question,
                        index=i,
                        answer=grade.answer,
                        reference=a.task.answer,
                        rule=bool(grade.correct),
                        why=why,
                    )
                )
    return found[:AUDITED]


def sections(found: AgentReport) -> list[Section]:
    """Return the tables: all problems, by level where there are several, rounds, tools, how trajectories ended."""
    whole = found.groups[ALL]
    title = f"{found.benchmark}, {found.agent['model']}, {found.repeats} trajectories a problem, 95 % intervals"
    missing = found.asked - whole.rule.problems
    rows = [("problems", str(whole.rule.problems)), *_rates("", whole.rule)]
    if whole.graded is not None:
        rows += [("problems graded", str(whole.graded.problems)), *_rates(", graded", whole.graded)]
    costs = whole.costs
    rows += [
        ("with an answer", f"{whole.answered:.3f}"),
        ("tokens/trajectory", f"{costs.tokens:,.1f}"),
        ("prompt tokens/trajectory", f"{costs.prompt_tokens:,.1f}"),
        ("turns/trajectory", f"{costs.turns:.2f}"),
        ("tool calls/trajectory", f"{costs.tool_calls:.2f}"),
        ("seconds/trajectory", f"{costs.seconds:.2f}"),
        ("grades to look at", str(len(found.doubts))),
    ]
    out = [Section(title + (f"; {missing} problems missing" if missing else ""), ("", ALL), tuple(rows))]
    if levels := [(name, g) for name, g in found.groups.items() if name != ALL]:
        columns = ("", "problems", "pass@1", *((f"pass@{found.repeats}",) if found.repeats > 1 else ()))
        columns += ("tokens", "turns", "tool calls", "seconds")
        out.append(
            Section("By level, costs of a trajectory", columns, tuple(_level(n, g, found.repeats) for n, g in levels))
        )
    if found.rounds is not None:
        out += round_sections(found.rounds)
    if found.tools:
        used = tuple((name, str(use.calls), str(use.failed)) for name, use in found.tools.items())
        out.append(Section("Tools", ("tool", "calls", "without a result"), used))
    ends = [*whole.ended.items(), *((f"outage: {kind}", n) for kind, n in found.outages.items())]
    ends += [(f"grader: {reason}", n) for reason, n in found.grader_failures.items()]
    out.append(Section("How trajectories ended", ("", "count"), tuple((name, str(n)) for name, n in ends)))
    return out


def _rates(suffix: str, of: Rate) -> list[tuple[str, str]]:
    return [(f"pass@{k}{suffix}", with_interval(value, of.ci.get(k))) for k, value in of.pass_at.items()]


def _level(name: str, of: Group, repeats: int) -> tuple[str, ...]:
    passed = [with_interval(of.rule.pass_at[k], of.rule.ci.get(k)) for k in sorted({1, repeats})]
    costs = of.costs
    cells = (f"{costs.tokens:,.1f}", f"{costs.turns:.2f}", f"{costs.tool_calls:.2f}", f"{costs.seconds:.2f}")
    return name, str(of.rule.problems), *passed, *cells
