"""What a run is judged by: the types of `results.json`, and how rows of verdicts become them.

Input: one `VerdictRow` for each held-out verdict, and what other steps measured. Output: `Results`, saved as JSON.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from eval.best_of_n import BestOfN
from eval.bootstrap import RESAMPLES
from eval.calibration import VerdictMetrics, verdict_metrics
from eval.role_metrics import RoleMetrics
from tools.whole import write_whole

Stage = Literal["base", "sft", "grpo"]
STAGES: dict[Stage, str] = {"base": "base", "sft": "SFT", "grpo": "SFT+GRPO"}
PACKAGES = ("torch", "transformers", "trl", "peft", "langgraph", "math-verify", "reasoning-gym")


class VerdictRow(BaseModel):
    """One held-out verdict: its problem, family, label, what the verifier said, and what that cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str
    label: bool
    passed: bool | None
    confidence: float | None = None
    family: str = ""
    tool_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


class HeldOut(VerdictMetrics):
    """Metrics of one stage on held-out problems, with the mean cost of a verdict and the metrics by problem family."""

    tool_calls: float | None
    tokens: float | None
    seconds: float | None
    by_family: dict[str, VerdictMetrics] = Field(default_factory=dict)


class Machine(BaseModel):
    """Where and when the figures were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    cores: int
    date: str
    python: str = Field(default_factory=platform.python_version)

    def __str__(self) -> str:
        """One line for a report."""
        return f"{self.cpu}, {self.cores} cores, {self.date}"


class Results(BaseModel):
    """All of `results.json`. `funnel` counts rows by step of the selection; times are seconds of wall clock.

    `held_out` and `best_of_n` are empty where the student learns no verifier, `roles` where it learns nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    student: str
    teacher: str
    seed: int
    held_out: dict[Stage, HeldOut] = {}
    best_of_n: BestOfN | None = None
    roles: dict[Stage, RoleMetrics] = {}
    funnel: dict[str, int | float | dict[str, int | float]] = {}
    wall_s: dict[str, float] = {}
    peak_memory_mb: float | None = None
    measured_on: Machine = Field(default_factory=lambda: this_machine())
    versions: dict[str, str] = Field(default_factory=lambda: package_versions())
    config: dict[str, Any] = {}

    @property
    def scripted(self) -> bool:
        """Whether the teacher is a program rather than a language model."""
        return self.teacher.startswith("scripted")

    def save(self, path: Path) -> None:
        """Write the results as JSON; a file that stands there is replaced whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
        write_whole(path, self.model_dump_json(indent=2) + "\n")


def held_out(rows: Sequence[VerdictRow], *, resamples: int = RESAMPLES, seed: int = 0) -> HeldOut:
    """Compute the metrics of one stage.

    Args:
        rows: its held-out verdicts.
        resamples: bootstrap draws over problems (families go without intervals).
        seed: of the bootstrap.

    Returns:
        The metrics, costs and metrics by family.

    Raises:
        ValueError: a confidence is outside [0, 1].
    """
    families = sorted({r.family for r in rows if r.family})
    return HeldOut(
        **dict(_metrics(rows, resamples, seed)),
        tool_calls=fmean(r.tool_calls for r in rows) if rows else None,
        tokens=fmean(r.tokens for r in rows) if rows else None,
        seconds=fmean(r.seconds for r in rows) if rows else None,
        by_family={f: _metrics([r for r in rows if r.family == f], 0, seed) for f in families},
    )


def this_machine() -> Machine:
    """Return the processor's name, the cores that this process may use, and today's date."""
    return Machine(cpu=_cpu_name(), cores=len(os.sched_getaffinity(0)), date=date.today().isoformat())


def package_versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the installed versions of packages, leaving out those that are not installed."""
    found: dict[str, str] = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _metrics(rows: Sequence[VerdictRow], resamples: int, seed: int) -> VerdictMetrics:
    """Compute the verdict metrics of rows."""
    return verdict_metrics(
        [r.label for r in rows],
        [r.passed for r in rows],
        [r.confidence for r in rows],
        [r.task_id for r in rows],
        resamples=resamples,
        seed=seed,
    )


def _cpu_name() -> str:
    """Return the processor's model name, or its architecture where Linux does not tell."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
