"""Pictures of a run: the reward curve of GRPO and the reliability of confidences.

Input: GRPO's metrics JSONL (one object a step, namespaced keys) and reliability bins. Output: PNG files. Drawn with
matplotlib's object interface on the Agg canvas: no display, no global state. It is imported when a picture is drawn.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.calibration import Bin
from tools.errors import DataError

if TYPE_CHECKING:
    from eval.curves import Curve

REWARD = "mean reward"
PANELS: dict[str, dict[str, str]] = {
    REWARD: {"reward/mean": "reward"},
    "verdicts on training rollouts": {
        "verdict/tpr": "TPR",
        "verdict/tnr": "TNR",
        "verdict/balanced_accuracy": "balanced accuracy",
    },
    "groups at zero variance": {"groups/zero_variance": "share"},
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics JSONL, one row a step: the last one where a resumed run wrote a step again.

    Args:
        path: the file. A last line without its end (the process was killed while it wrote) is left out.

    Returns:
        The rows in order of `step`; rows without a `step` are numbered as they come.

    Raises:
        DataError: a line is not a JSON object.
    """
    rows: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        if line.strip():
            row = _object(line, f"{path}:{number}")
            rows[int(row.get("step", len(rows)))] = row
    return [{**rows[step], "step": step} for step in sorted(rows)]


def draw_reward_curve(steps: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw reward, verdict rates and the share of dead groups by step.

    Args:
        steps: rows of `read_metrics`; a metric that a row lacks is left out of its line.
        path: the PNG to write.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = {title: lines_of(keys, steps) for title, keys in PANELS.items()}
    drawn = {title: lines for title, lines in panels.items() if lines}
    for i, (title, lines) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(1, len(drawn), i, title=title, xlabel="GRPO step")
        for name, points in lines.items():
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=name)
        axes.grid(alpha=0.3)
        if title != REWARD:
            axes.set_ylim(-0.03, 1.03)
        if len(lines) > 1:
            axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def lines_of(keys: Mapping[str, str], steps: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Return the points (step, value) of a panel's lines by name, those without any left out.

    Where several recipes are mixed each logs under its name (`rrm/reward/mean`): then each has lines of its own, and
    there is none over all of them, whose rewards are of different kinds.
    """
    logged = dict.fromkeys(key for row in steps for key in row)
    out: dict[str, list[tuple[int, float]]] = {}
    for key, name in keys.items():
        own = {f"{name}, {found.removesuffix(f'/{key}')}": found for found in logged if found.endswith(f"/{key}")}
        for told, found in (own or {name: key}).items():
            points = [(row["step"], row[found]) for row in steps if row.get(found) is not None]
            if points:
                out[told] = points
    return out


def draw_reliability(bins_by_stage: Mapping[str, Sequence[Bin]], path: Path) -> None:
    """Draw the share of true labels against confidence, one line a stage, dots as large as their bins are full.

    Args:
        bins_by_stage: reliability bins by the stage's name; empty bins are left out.
        path: the PNG to write.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="confidence p(true)", ylabel="share of right candidates", xlim=(-0.03, 1.03))
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    for stage, bins in bins_by_stage.items():
        full = [b for b in bins if b.n]
        total = sum(b.n for b in full)
        x, y = [b.confidence or 0.0 for b in full], [b.true_share or 0.0 for b in full]
        (line,) = axes.plot(x, y, label=stage)
        axes.scatter(x, y, s=[20 + 200 * b.n / total for b in full], color=line.get_color(), alpha=0.6)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)


def draw_curves(curves: "Sequence[Curve]", path: Path) -> None:
    """Draw accuracy by N, and accuracy by verification tokens a problem, one line a selector.

    What reviews nothing stands at 0 tokens in the second panel and is drawn across it, dashed, at its largest N.

    Args:
        curves: selectors by N.
        path: the PNG to write.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    by_n = figure.add_subplot(1, 2, 1, xlabel="N candidates", ylabel="accuracy", xscale="log")
    by_tokens = figure.add_subplot(1, 2, 2, xlabel="verification tokens a problem", ylabel="accuracy")
    for i, curve in enumerate(curves):
        colour = f"C{i % 10}"
        ns, accuracies = [p.n for p in curve.points], [p.accuracy for p in curve.points]
        by_n.plot(ns, accuracies, marker="o" if i < 10 else "s", color=colour, label=curve.title)
        if any(p.tokens for p in curve.points):
            by_tokens.plot([p.tokens for p in curve.points], accuracies, marker="o" if i < 10 else "s", color=colour)
        else:
            by_tokens.axhline(accuracies[-1], color=colour, linestyle="--", alpha=0.6)
    ticks = sorted({p.n for curve in curves for p in curve.points})
    by_n.set_xticks(ticks, [str(n) for n in ticks])
    by_n.minorticks_off()
    for axes in (by_n, by_tokens):
        axes.grid(alpha=0.3)
    by_n.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(path)


def draw_variants(points: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Draw balanced accuracy by tokens a verdict, one named point a variant.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.add_subplot(xlabel="tokens a verdict", ylabel="balanced accuracy", ylim=(-0.03, 1.03))
    for i, (name, (tokens, accuracy)) in enumerate(points.items()):
        axes.plot([tokens], [accuracy], marker="o", color=f"C{i % 10}", linestyle="", label=name.replace("_", " "))
    axes.axhline(0.5, color="grey", linestyle=":", alpha=0.6)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    FigureCanvasAgg(figure).print_png(path)


def _object(line: str, where: str) -> dict[str, Any]:
    """Parse one line."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object")
    return row
