"""The result of `python -m eval.best_of_n` and `eval.simulate`: JSON, tables for a terminal, a picture.

Input: `Curve`s and `Saving`s. Output: `Report`, saved as JSON; sections; a PNG of accuracy by N and by verification
tokens.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from agents.types import Frozen
from eval.curves import Curve, Point, Saving, at_budget
from eval.methods import FULL
from eval.report import NONE, Section, number, with_interval
from eval.results import Machine, package_versions, this_machine
from eval.selective import Rule
from tools.whole import write_whole

BUDGETS = (0.1, 0.25, 0.5, 1.0)  # of full verification at the largest N


class Report(Frozen):
    """All that a Best-of-N command found out. `kind` says whether pools were subsampled or simulated."""

    kind: str
    candidates: str
    verifier: dict[str, Any]
    probe: dict[str, Any] | None = None
    problems: int
    ns: tuple[int, ...]
    draws: int
    seed: int
    rule: Rule
    curves: dict[str, Curve]
    savings: tuple[Saving, ...] = ()
    notes: tuple[str, ...] = ()
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)

    def save(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(path, self.model_dump_json(indent=1) + "\n")


def sections(report: Report) -> list[Section]:
    """Return the tables of a report that have rows."""
    made = (_accuracy(report), _cost(report), _equal(report), _saving(report))
    return [section for section in made if section.rows]


def _accuracy(report: Report) -> Section:
    """One row a selector, one column an N, the interval at the largest N last."""
    last = report.ns[-1]
    rows = []
    for curve in report.curves.values():
        by_n = {point.n: point for point in curve.points}
        cells = [number(by_n[n].accuracy) if n in by_n else "" for n in report.ns]
        rows.append((curve.title, *cells, _interval(by_n.get(last))))
    columns = ("selector", *(f"N={n}" for n in report.ns), f"95 % at N={last}")
    return Section(f"Accuracy, {report.problems} problems ({report.kind})", columns, tuple(rows))


def _interval(point: Point | None) -> str:
    return f"{point.ci[0]:.3f}-{point.ci[1]:.3f}" if point and point.ci else NONE


def _cost(report: Report) -> Section:
    """One row a selector: what it spends on verification at the largest N."""
    lasts = [(curve.title, curve.points[-1]) for curve in report.curves.values()]
    rows = [(title, *(f"{value:,.1f}" for value in (p.tokens, p.turns, p.tool_calls, p.seconds))) for title, p in lasts]
    columns = ("selector", "tokens", "turns", "tool calls", "seconds")
    return Section(f"Verification a problem at N={report.ns[-1]}", columns, tuple(rows))


def _equal(report: Report) -> Section:
    """One column a budget of tokens: accuracy at the largest N that a selector affords."""
    whole = report.curves[FULL].points[-1].tokens if FULL in report.curves else 0.0
    if not whole:
        return Section("", (), ())
    rows = []
    for curve in report.curves.values():
        found = [at_budget(curve, share * whole) for share in BUDGETS]
        rows.append((curve.title, *(f"{p.accuracy:.3f} @{p.n}" if p else NONE for p in found)))
    columns = ("selector", *(f"{share * whole:,.0f}" for share in BUDGETS))
    return Section("At equal verification tokens a problem: accuracy @ the largest N within", columns, tuple(rows))


def _saving(report: Report) -> Section:
    """One row an N: selective against full verification."""
    rows = []
    for s in report.savings:
        share = with_interval(s.share, s.share_ci)
        interval = f" ({s.difference_ci[0]:+.3f} to {s.difference_ci[1]:+.3f})" if s.difference_ci else ""
        change = f"{s.difference:+.3f}{interval}"
        rows.append((f"N={s.n}", share, change, number(s.changed)))
    rule = f"risk {report.rule.risk:g}, margin {report.rule.margin:g}"
    columns = ("", "share of tokens", "accuracy, less full", "other winner")
    return Section(f"Selective against full verification ({rule})", columns, tuple(rows))


def write(report: Report, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.png`.

    Raises:
        OSError: a file cannot be written.
    """
    from eval.plots import draw_curves

    report.save(folder / f"{name}.json")
    draw_curves(list(report.curves.values()), folder / f"{name}.png")
