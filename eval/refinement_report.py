"""The result of `python -m eval.refinement`: JSON, a table for a terminal, a picture.

Input: the points of each critic. Output: `Report`, saved as JSON; one table; a PNG of accuracy by round and by tokens.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from agents.types import Frozen
from eval.refinement_metrics import Point
from eval.report import Section, number, with_interval
from eval.results import Machine, package_versions, this_machine

TITLES = {"verifier": "verifier's critique", "none": "no critique"}
FIRST = "first"
QUALITY = ("round", "accuracy", "Δ↑", "Δ↓")
DOING = ("round", "accepted", "no verdict", "revised", "tokens", "turns", "tools", "seconds")


class Report(Frozen):
    """All that the command found out: `curves` holds a point a round for each critic."""

    candidates: str
    first_solutions: str
    verifier: dict[str, Any]
    refiner: str
    problems: int
    solutions: int
    rounds: int
    seed: int
    curves: dict[str, tuple[Point, ...]]
    notes: tuple[str, ...] = ()
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)


def sections(report: Report) -> list[Section]:
    """Return two tables that fit 80 columns: accuracy with its changes; what each round did and cost."""
    first = next(iter(report.curves.values()))[0]
    quality: list[tuple[str, ...]] = [(FIRST, with_interval(first.accuracy, first.accuracy_ci), "", "")]
    doing: list[tuple[str, ...]] = [(FIRST, "", "", "", *_costs(first))]
    for name, point in _rounds(report):
        shares = (number(value) for value in (point.accepted, point.undecided, point.revised))
        quality.append((name, *_quality(point)))
        doing.append((name, *shares, *_costs(point)))
    title = f"Refinement of {report.solutions} solutions of {report.problems} problems, 95 % intervals over problems"
    spent = "By round: shares of all solutions (accepted and no verdict so far), cost a solution"
    return [Section(title, QUALITY, tuple(quality)), Section(spent, DOING, tuple(doing))]


def _rounds(report: Report) -> Iterator[tuple[str, Point]]:
    for critic, points in report.curves.items():
        yield from ((f"{critic} {point.round}", point) for point in points[1:])


def _quality(point: Point) -> tuple[str, ...]:
    shown = ((point.accuracy, point.accuracy_ci), (point.up, point.up_ci), (point.down, point.down_ci))
    return tuple(with_interval(value, ci) for value, ci in shown)


def _costs(point: Point) -> tuple[str, ...]:
    return tuple(f"{value:,.1f}" for value in (point.tokens, point.turns, point.tool_calls, point.seconds))


def gains(report: Report) -> list[str]:
    """Return a line a critic: accuracy after the last round less that of the first solutions, with its interval."""
    out = []
    for critic, points in report.curves.items():
        last = points[-1]
        if last.gain is not None:
            interval = f" ({last.gain_ci[0]:+.3f} to {last.gain_ci[1]:+.3f})" if last.gain_ci else ""
            out.append(f"{TITLES.get(critic, critic)}: {last.gain:+.3f}{interval} accuracy after {last.round} rounds.")
    return out


def write(report: Report, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.png`.

    Raises:
        OSError: a file cannot be written.
    """
    path = folder / f"{name}.json"
    draft = path.with_name(path.name + ".part")
    draft.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    draw(report, folder / f"{name}.png")


def draw(report: Report, path: Path) -> None:
    """Draw accuracy by round with its intervals, and by all tokens spent so far, one line a critic.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    by_round = figure.add_subplot(1, 2, 1, xlabel="rounds of refinement", ylabel="accuracy")
    by_tokens = figure.add_subplot(1, 2, 2, xlabel="tokens a solution, all rounds so far", ylabel="accuracy")
    for i, (critic, points) in enumerate(report.curves.items()):
        rounds, accuracies = [p.round for p in points], [p.accuracy for p in points]
        spent = [sum(p.tokens for p in points[: k + 1]) for k in range(len(points))]
        by_round.plot(rounds, accuracies, marker="o", color=f"C{i}", label=TITLES.get(critic, critic))
        known = [p for p in points if p.accuracy_ci]
        bounds = [[p.accuracy_ci[side] for p in known if p.accuracy_ci] for side in (0, 1)]
        by_round.fill_between([p.round for p in known], bounds[0], bounds[1], color=f"C{i}", alpha=0.12)
        by_tokens.plot(spent, accuracies, marker="o", color=f"C{i}")
    by_round.set_xticks(range(report.rounds + 1))
    for axes in (by_round, by_tokens):
        axes.grid(alpha=0.3)
    by_round.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(path)
