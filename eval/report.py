"""The report of a run: the same tables on the terminal (rich) and in `report.md`, from `Results` alone.

Input: `Results`, and the metrics JSONL of GRPO for the reward curve. Output: rich tables; `results.json`, `report.md`,
`reliability.png` and `reward_curve.png` in a folder.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from eval.best_of_n import SELECTORS
from eval.bootstrap import Interval
from eval.plots import draw_reliability, draw_reward_curve, read_metrics
from eval.results import STAGES, Results, Stage
from eval.role_metrics import measures

NONE = "n/a"
WIDE = 240  # columns of a table in a file or a pipe
MIXTURE = "mixture"  # the funnel's count of what all roles are given together; before it counts are `role/filter`
QUALITY = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "tpr": "TPR right accepted",
    "tnr": "TNR wrong rejected",
    "auroc": "AUROC, confidence",
    "ece": "ECE, confidence",
    "brier": "Brier score",
    "tie_rate": "confidence ties",
    "base_rate": "true verdicts",
    "label_rate": "true labels",
    "format_rate": "format",
    "coverage": "with confidence",
}
COSTS = {"tool_calls": "tool calls/verdict", "tokens": "tokens/verdict", "seconds": "seconds/verdict"}
SELECTOR_NAMES = {
    "pass_at_1": "pass@1",
    "majority": "majority",
    "verifier": "verifier",
    "weighted": "verifier-weighted majority",
    "accepted": "majority of the accepted",
    "oracle": "oracle",
}


@dataclass(frozen=True)
class Section:
    """One table: title, header, and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def table(self) -> Table:
        """Return the section for a terminal."""
        table = Table(title=self.title, title_justify="left", show_edge=False)  # three stages fit 80 columns
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the section in GitHub's Markdown."""
        head = [self.columns, ("---",) + ("---:",) * (len(self.columns) - 1)]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in [*head, *self.rows]]
        return f"## {self.title}\n\n" + "\n".join(lines) + "\n"


def show(tables: Sequence[Section], notes: Sequence[str]) -> None:
    """Write tables and notes to stdout."""
    from rich.console import Console

    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)  # a file or pipe has no width
    for section in tables:
        console.print(section.table())
        console.print()
    for note in notes:
        console.print(note)


def results_tables(results: Results) -> list[Table]:
    """Return the tables of a run for a terminal; what was not measured is left out."""
    return [section.table() for section in sections(results)]


def write_report(results: Results, directory: Path, metrics: Path | None = None) -> Path:
    """Write `results.json`, `report.md` and its pictures.

    Args:
        results: what the run measured.
        directory: an existing folder.
        metrics: GRPO's metrics JSONL; no reward curve when None or absent.

    Returns:
        The path of `report.md`.

    Raises:
        DataError: a line of `metrics` is not a JSON object.
        OSError: a file cannot be written.
    """
    results.save(directory / "results.json")
    pictures: list[tuple[str, str]] = []
    steps = read_metrics(metrics) if metrics is not None and metrics.exists() else []
    if steps:
        draw_reward_curve(steps, directory / "reward_curve.png")
        pictures.append(("GRPO by step", "reward_curve.png"))
    if results.held_out:
        bins = {STAGES[stage]: results.held_out[stage].bins for stage in _stages(results)}
        draw_reliability(bins, directory / "reliability.png")
        pictures.append(("Reliability of the confidence, held out", "reliability.png"))
    path = directory / "report.md"
    path.write_text(_markdown(results, pictures), encoding="utf-8")
    return path


def sections(results: Results) -> list[Section]:
    """Return the report's tables that have rows: held out, by family, Best-of-N, other roles, funnel, wall time."""
    makers = (_held_out, _by_family, _best_of_n, _roles, _funnel, _wall)
    return [section for section in (make(results) for make in makers) if section.rows]


def teacher_line(results: Results) -> str:
    """Return who taught, a program named as what it is."""
    kind = "scripted auditor, not a language model" if results.scripted else "language model"
    return f"{results.teacher} ({kind})"


def _stages(results: Results) -> list[Stage]:
    """Return the stages that were evaluated, in order of training."""
    return [s for s in STAGES if s in results.held_out]


def _held_out(results: Results) -> Section:
    """One row a metric, one column a stage, with intervals."""
    stages = _stages(results)
    held = [results.held_out[s] for s in stages]
    rows: list[tuple[str, ...]] = [
        ("verdicts", *(str(h.n) for h in held)),
        ("problems", *(str(h.n_problems) for h in held)),
    ]
    rows += [(name, *(with_interval(getattr(h, key), h.ci.get(key)) for h in held)) for key, name in QUALITY.items()]
    rows += [(name, *(number(getattr(h, key)) for h in held)) for key, name in COSTS.items()]
    columns = ("", *(STAGES[s] for s in stages))
    return Section("Held out, 95 % intervals over problems", columns, tuple(rows) if held else ())


def _by_family(results: Results) -> Section:
    """Balanced accuracy of each family of problems, by stage."""
    stages = _stages(results)
    families = sorted({f for s in stages for f in results.held_out[s].by_family})
    rows = []
    for family in families:
        found = [results.held_out[s].by_family.get(family) for s in stages]
        counts = [f.n for f in found if f]
        rows.append((family, str(max(counts)), *(number(f.balanced_accuracy if f else None) for f in found)))
    return Section("Balanced accuracy by family", ("family", "n", *(STAGES[s] for s in stages)), tuple(rows))


def _best_of_n(results: Results) -> Section:
    """One row a selector."""
    best = results.best_of_n
    if best is None:
        return Section("Best-of-N", (), ())
    rows = [(SELECTOR_NAMES[key], with_interval(getattr(best, key), best.ci.get(key))) for key in SELECTORS]
    rows.append(("ties for the highest confidence", number(best.tie_rate)))
    title = f"Best-of-{best.n}: {best.problems} held-out problems, 95 % intervals"
    return Section(title, ("selector", "accuracy"), tuple(rows))


def _roles(results: Results) -> Section:
    """One row a metric of the roles that are learned beside the verifiers', one column a stage."""
    stages: list[Stage] = [s for s in STAGES if s in results.roles]
    found = [measures(results.roles[s]) for s in stages]
    rows: list[tuple[str, ...]] = []
    for name in found[0] if found else ():
        measured = [of[name] for of in found]
        if any(interval is not None and interval[0] < 0 for _, interval in measured):  # too wide beside it
            rows.append((name, *(number(value) for value, _ in measured)))
            rows.append(("its 95 % interval", *(_between(interval) for _, interval in measured)))
        elif any(value is not None for value, _ in measured):
            rows.append((name, *(_cell(*of) for of in measured)))
    acts = any(results.roles[s].answerer == "agent" for s in stages)
    title = f"Other roles, held out,{' the agent answers,' if acts else ''} 95 % intervals over problems"
    return Section(title, ("", *(STAGES[s] for s in stages)), tuple(rows))


def _funnel(results: Results) -> Section:
    """One row a count; nested counts are indented by their parent's name. Of a mixture one column a role."""
    if MIXTURE in results.funnel:
        return _mixed_funnel(results.funnel)
    rows: list[tuple[str, str]] = []
    for name, value in results.funnel.items():
        if isinstance(value, dict):
            rows += [(f"{name}: {inner}", _count(count)) for inner, count in value.items()]
        else:
            rows.append((name, _count(value)))
    return Section("Selection funnel", ("step", "count"), tuple(rows))


def _mixed_funnel(funnel: Mapping[str, Any]) -> Section:
    """One row a filter, in an order that is every role's own, one column a role; what a role goes without is empty."""
    by_role: dict[str, dict[str, int]] = {}
    for key, count in funnel.items():
        role, slash, step = key.partition("/")
        if slash:
            by_role.setdefault(role, {})[step] = count
    steps: list[str] = []
    for own in by_role.values():
        place = 0
        for step in own:
            if step not in steps:
                steps.insert(place, step)
            place = steps.index(step) + 1
    rows = [(step, *(_count(own[step]) if step in own else "" for own in by_role.values())) for step in steps]
    title = f"Selection funnel: {funnel[MIXTURE]:,} examples in the mixture"
    return Section(title, ("step", *by_role), tuple(rows))


def _wall(results: Results) -> Section:
    """Wall time by phase, and peak memory."""
    rows = [(phase, f"{seconds:.1f} s") for phase, seconds in results.wall_s.items()]
    if results.peak_memory_mb is not None:
        rows.append(("peak memory", f"{results.peak_memory_mb:.0f} MB"))
    return Section("Time and memory", ("phase", "wall"), tuple(rows))


def _markdown(results: Results, pictures: Sequence[tuple[str, str]]) -> str:
    """Return the text of report.md."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    head = [
        f"# Retort: {results.name}\n",
        f"- Student: {results.student}",
        f"- Teacher: {teacher_line(results)}",
        f"- Measured on: {results.measured_on}",
        f"- Seed: {results.seed}",
        f"- Versions: Python {results.measured_on.python}, {versions}\n",
    ]
    body = [section.markdown() for section in sections(results)]
    body += [f"## {title}\n\n![{title}]({file})\n" for title, file in pictures]
    return "\n".join([*head, *body])


def number(value: float | None) -> str:
    """Format a metric or a cost."""
    if value is None:
        return NONE
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def with_interval(value: float | None, interval: Interval | None) -> str:
    """Format a metric with its interval."""
    if value is None or interval is None:
        return number(value)
    return f"{number(value)} ({_between(interval)})"


def _between(interval: Interval | None) -> str:
    """Format an interval."""
    if interval is None:
        return NONE
    to = "-" if interval[0] >= 0 else " to "
    return f"{interval[0]:.2f}{to}{interval[1]:.2f}"


def _cell(value: float | int | None, interval: Interval | None) -> str:
    """Format a count, or a metric with its interval."""
    return _count(value) if isinstance(value, int) else with_interval(value, interval)


def _count(value: int | float) -> str:
    """Format a count, or a share."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
