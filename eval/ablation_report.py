"""The result of `python -m eval.ablations`: JSON, a table, a picture."""

from pathlib import Path
from typing import Any

from pydantic import Field

from agents.types import Frozen
from eval.report import Section, number, with_interval
from eval.results import Machine, package_versions, this_machine
from eval.verdict_report import Group

SHOWN = ("tpr", "tnr", "auroc", "ece", "format_rate")


class AblationReport(Frozen):
    """All that the command found out. `variants` holds the metrics of each and the mean cost of a verdict."""

    candidates: str
    verifier: dict[str, Any]
    band: tuple[float, float]
    seed: int
    variants: dict[str, Group]
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)


def section(report: AblationReport) -> Section:
    """Return the table: one row a variant."""
    rows = []
    for name, found in report.variants.items():
        m = found.metrics
        rates = [number(getattr(m, key)) for key in SHOWN]
        cost = (
            f"{found.cost.tokens:,.0f}",
            f"{found.cost.turns:.1f}",
            f"{found.cost.tool_calls:.1f}",
            f"{found.cost.seconds:.1f}",
        )
        title = "cascade {:g}-{:g}".format(*report.band) if name == "cascade" else name.replace("_", " ")
        rows.append((title, with_interval(m.balanced_accuracy, m.ci.get("balanced_accuracy")), *rates, *cost))
    m = next(iter(report.variants.values())).metrics
    title = f"Variants, {m.n} candidates of {m.n_problems} problems, 95 % intervals over problems"
    columns = (
        "",
        "balanced accuracy",
        "TPR",
        "TNR",
        "AUROC",
        "ECE",
        "format",
        "tokens",
        "turns",
        "tool calls",
        "seconds",
    )
    return Section(title, columns, tuple(rows))


def write(report: AblationReport, folder: Path, name: str) -> None:
    """Write `<name>.json` and `<name>.png`.

    Raises:
        OSError: a file cannot be written.
    """
    from eval.plots import draw_variants

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    draft = path.with_name(path.name + ".part")
    draft.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    points = {n: (g.cost.tokens, g.metrics.balanced_accuracy or 0.0) for n, g in report.variants.items()}
    draw_variants(points, folder / f"{name}.png")
