"""The result of `python -m eval.judge`: metrics by group of rows, tables for a terminal, JSON, a picture."""

from pathlib import Path
from typing import Any

from pydantic import Field

from agents.types import Frozen
from eval.judge_metrics import JudgeMetrics
from eval.report import QUALITY, Section, number, with_interval
from eval.results import Machine, package_versions, this_machine
from tools.whole import write_whole

SHOWN = ("accuracy", "balanced_accuracy", "auroc", "ece", "brier", "tie_rate", "format_rate")


class JudgeReport(Frozen):
    """All that the command found out."""

    candidates: str
    judge: dict[str, Any]
    seed: int
    groups: dict[str, JudgeMetrics]
    measured_on: Machine = Field(default_factory=this_machine)
    versions: dict[str, str] = Field(default_factory=package_versions)


def sections(report: JudgeReport) -> list[Section]:
    """Return the tables: all rows with intervals, and groups where there are several."""
    whole = report.groups["all"]
    v = whole.verdicts
    rows: list[tuple[str, ...]] = [("judgements", str(v.n)), ("problems", str(v.n_problems))]
    rows += [(QUALITY[key], with_interval(getattr(v, key), v.ci.get(key))) for key in QUALITY]
    rows.append(("rank correlation", with_interval(whole.spearman, whole.spearman_ci)))
    rows.append(("tokens/judgement", number(whole.tokens)))
    out = [Section("Judgements, 95 % intervals over problems", ("", "all"), tuple(rows))]
    others = {name: g for name, g in report.groups.items() if name != "all"}
    if others:
        lines = [
            (name, str(g.verdicts.n), *(number(getattr(g.verdicts, key)) for key in SHOWN), number(g.spearman))
            for name, g in others.items()
        ]
        columns = ("", "n", *(key.replace("_rate", "s").replace("_", " ") for key in SHOWN), "rank correlation")
        out.append(Section("By group", columns, tuple(lines)))
    return out


def write(report: JudgeReport, folder: Path, name: str) -> None:
    """Write `<name>.json` and `reliability.png`.

    Raises:
        OSError: a file cannot be written.
    """
    from eval.plots import draw_reliability

    write_whole(folder / f"{name}.json", report.model_dump_json(indent=1) + "\n")
    draw_reliability({str(report.judge["model"]): report.groups["all"].verdicts.bins}, folder / "reliability.png")
