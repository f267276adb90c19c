"""The result of `python -m eval.solve`: the file of candidates, pass@k with intervals, what is listed for audit.

pass@k is the unbiased estimator of Chen et al. (2021): with c of n samples right, 1 - C(n - c, k) / C(n, k), averaged
over problems; intervals are bootstrapped over problems.
"""

import json
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from agents.types import Frozen, Kind, Task
from eval.benchmarks import Chosen
from eval.bootstrap import Interval, percentile_interval, resampled_rows
from eval.checkers import Grade
from eval.report import Section, with_interval
from eval.results import Machine, package_versions, this_machine
from eval.solve_journal import Journal, Sample
from eval.solving import Solver, identity, reference_of
from tools.whole import write_whole

ALL = "all"


class Solved(NamedTuple):
    """A problem with its samples, in order, and their grades."""

    task: Task
    samples: tuple[Sample, ...]
    grades: tuple[Grade, ...]

    @property
    def right(self) -> int:
        """How many samples are right."""
        return sum(bool(grade.correct) for grade in self.grades)


class Doubt(Frozen):
    """A label for someone to look at: two ways of comparing disagree on it."""

    problem: str
    index: int
    answer: str | None
    reference: str | None
    label: bool
    why: str


class Group(Frozen):
    """Figures of some problems; `f1` is for short texts only, `tokens` and `seconds` are those of a solution.

    `cut` is the share that a limit cut; `too_long`, a part of it, the share whose problem does not fit the context.
    """

    problems: int
    pass_at: dict[int, float]
    ci: dict[int, Interval | None] = Field(default_factory=dict)
    f1: float | None = None
    f1_ci: Interval | None = None
    answered: float
    cut: float
    too_long: float
    tokens: float
    seconds: float
    doubts: int


class SolveReport(Frozen):
    """All that the command found out. `asked` problems were to be solved; `groups` are of those that are."""

    benchmark: str
    kind: Kind
    read_from: str
    solver: dict[str, Any]
    k: int
    asked: int
    groups: dict[str, Group]
    doubts: tuple[Doubt, ...] = ()
    failures: dict[str, int] = Field(default_factory=dict)
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)


def complete(tasks: Sequence[Task], k: int, journal: Journal, seconds: float) -> list[Solved]:
    """Return the problems whose first k samples are all there and graded."""
    out = []
    for task in tasks:
        places = [(task.id, index) for index in range(k)]
        reference = reference_of(task, seconds)
        samples = [journal.samples[place] for place in places if place in journal.samples]
        grades = [g for place in places if (g := journal.grade_of(place, reference)) is not None]
        if len(samples) == len(grades) == k:
            out.append(Solved(task, tuple(samples), tuple(grades)))
    return out


def pass_at(right: int, n: int, k: int) -> float:
    """Return the chance that one of k samples, drawn from n of which some are right, is right."""
    return 1.0 - comb(n - right, k) / comb(n, k)


def report(
    chosen: Chosen, solver: Solver, solved: Sequence[Solved], k: int, asked: int, resamples: int, seed: int
) -> SolveReport:
    """Work everything out: over all problems, and by level where there are several."""
    groups = {ALL: group(solved, k, resamples, seed)}
    levels = sorted({s.task.level for s in solved} - {""})
    if len(levels) > 1:
        groups |= {f"level {v}": group([s for s in solved if s.task.level == v], k, resamples, seed) for v in levels}
    reasons = [grade.reason.rpartition(": ")[2] for s in solved for grade in s.grades if grade.reason]
    return SolveReport(
        benchmark=chosen.name,
        kind=chosen.benchmark.kind,
        read_from=str(chosen.file or chosen.benchmark.hub.source),
        solver=identity(solver, chosen),
        k=k,
        asked=asked,
        groups=groups,
        doubts=tuple(doubt for s in solved for doubt in doubts(s)),
        failures={reason: reasons.count(reason) for reason in sorted(set(reasons))},
    )


def group(solved: Sequence[Solved], k: int, resamples: int, seed: int) -> Group:
    """Return the figures of some problems."""
    ks = sorted({2**i for i in range(k.bit_length()) if 2**i <= k} | {k})
    of_problem = {n: [pass_at(s.right, k, n) for s in solved] for n in ks}
    near = [fmean(g.f1 or 0.0 for g in s.grades) for s in solved if s.task.kind == "qa"]
    draws = list(resampled_rows([s.task.id for s in solved], resamples, seed))

    def interval(values: Sequence[float]) -> Interval | None:
        return percentile_interval([float(np.asarray(values)[rows].mean()) for rows in draws])

    def mean(value: Callable[[Sample, Grade], float]) -> float:
        return fmean(value(x, g) for s in solved for x, g in zip(s.samples, s.grades, strict=True))

    return Group(
        problems=len(solved),
        pass_at={n: fmean(values) for n, values in of_problem.items()},
        ci={n: interval(values) for n, values in of_problem.items()},
        f1=fmean(near) if near else None,
        f1_ci=interval(near) if near else None,
        answered=mean(lambda _, grade: grade.answer is not None),
        cut=mean(lambda sample, _: sample.finish == "length"),
        too_long=mean(lambda sample, _: sample.too_long),
        tokens=mean(lambda sample, _: sample.tokens),
        seconds=mean(lambda sample, _: sample.seconds),
        doubts=sum(bool(grade.doubt) for s in solved for grade in s.grades),
    )


def doubts(solved: Solved) -> list[Doubt]:
    """Return the labels of a problem that are listed for audit."""
    return [
        Doubt(
            problem=solved.task.question,
            index=sample.index,
            answer=grade.answer,
            reference=solved.task.answer,
            label=bool(grade.correct),
            why=grade.doubt,
        )
        for sample, grade in zip(solved.samples, solved.grades, strict=True)
        if grade.doubt
    ]


def sections(found: SolveReport) -> list[Section]:
    """Return the tables: all problems, by level where there are several, and why programs failed."""
    whole = found.groups[ALL]
    rows: list[tuple[str, str]] = [("problems", str(whole.problems))]
    rows += [(f"pass@{k}", with_interval(value, whole.ci.get(k))) for k, value in whole.pass_at.items()]
    if found.kind == "qa":
        rows.append(("F1", with_interval(whole.f1, whole.f1_ci)))
    rows += [
        ("with an answer", f"{whole.answered:.3f}"),
        ("cut at the limit", f"{whole.cut:.3f}"),
        ("over the context", f"{whole.too_long:.3f}"),
        ("tokens/solution", f"{whole.tokens:,.1f}"),
        ("seconds/solution", f"{whole.seconds:.2f}"),
        ("labels to look at", str(whole.doubts)),
    ]
    missing = found.asked - whole.problems
    title = f"{found.benchmark}, {found.solver['model']}, {found.k} solutions a problem, 95 % intervals over problems"
    out = [Section(title + (f"; {missing} problems missing" if missing else ""), ("", ALL), tuple(rows))]
    if levels := [(name, group) for name, group in found.groups.items() if name != ALL]:
        columns = ("", "problems", "pass@1", *((f"pass@{found.k}",) if found.k > 1 else ()), "tokens/solution")
        out.append(Section("By level", columns, tuple(_level(name, group, found.k) for name, group in levels)))
    if found.failures:
        counted = tuple((reason, str(n)) for reason, n in found.failures.items())
        out.append(Section("Why programs failed", ("", "solutions"), counted))
    return out


def _level(name: str, of: Group, k: int) -> tuple[str, ...]:
    passed = [with_interval(of.pass_at[n], of.ci.get(n)) for n in sorted({1, k})]
    return name, str(of.problems), *passed, f"{of.tokens:,.1f}"


def report_path(out: Path) -> Path:
    """Return where the figures of an output file are."""
    return out.with_name(f"{out.stem}.report.json")


def write(found: SolveReport, solved: Sequence[Solved], chosen: Chosen, out: Path) -> None:
    """Write the candidates and the figures, each whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    lines = [json.dumps(record(i, s, chosen.name), ensure_ascii=False) + "\n" for i, s in enumerate(solved)]
    for path, text in ((out, "".join(lines)), (report_path(out), found.model_dump_json(indent=1) + "\n")):
        write_whole(path, text)


def record(idx: int, solved: Solved, benchmark: str) -> dict[str, Any]:
    """Return a problem in AgentV-RL's form, with what else is known of it."""
    task = solved.task
    return {
        "idx": idx,
        "question": task.question,
        "ground_truth": task.answer,
        **({"aliases": list(task.aliases)} if task.aliases else {}),
        "benchmark": benchmark,
        "level": task.level,
        "task_type": task.kind,
        "samples": [sample.text for sample in solved.samples],
        "evaluations": [_evaluation(grade) for grade in solved.grades],
        "sources": [sample.model for sample in solved.samples],
        "tokens": [sample.tokens for sample in solved.samples],
    }


def _evaluation(grade: Grade) -> dict[str, Any]:
    """Return a grade: the label, the answer as taken out, and what there is of F1, doubt and reason."""
    more = {"f1": grade.f1, "doubt": grade.doubt, "reason": grade.reason}
    return {
        "correct": grade.correct,
        "parsed_pred": grade.answer,
        **{k: v for k, v in more.items() if v not in (None, "")},
    }
