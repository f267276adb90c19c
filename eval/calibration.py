"""How good verdicts and their confidences are: one pure function a metric, in a registry, with bootstrap intervals.

Input: labels, verdicts and confidences of N (candidate, verdict) rows with their problem. Output: `VerdictMetrics`.
A row without a verdict is a wrong one; without a confidence it counts as 0.5 and lowers the coverage. A metric that
the data leave undefined (no true label, say) is None, never 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from eval.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_rows

BINS = 10
NO_CONFIDENCE = 0.5


@dataclass(frozen=True)
class Verdicts:
    """N rows as arrays: labels, accepted and rejected (bool; both False without a verdict), confidence in [0, 1]."""

    labels_N: np.ndarray
    accepted_N: np.ndarray
    rejected_N: np.ndarray
    confidence_N: np.ndarray
    has_confidence_N: np.ndarray

    @classmethod
    def of(
        cls, labels_N: Sequence[bool], passed_N: Sequence[bool | None], confidence_N: Sequence[float | None]
    ) -> "Verdicts":
        """Build the arrays.

        Raises:
            ValueError: the lengths differ, or a confidence is outside [0, 1].
        """
        if not len(labels_N) == len(passed_N) == len(confidence_N):
            raise ValueError(f"lengths differ: {len(labels_N)}, {len(passed_N)}, {len(confidence_N)}")
        filled = np.array([NO_CONFIDENCE if c is None else c for c in confidence_N], dtype=float)
        if not np.all((filled >= 0) & (filled <= 1)):
            raise ValueError("a confidence lies outside [0, 1]")
        return cls(
            labels_N=np.array(labels_N, dtype=bool),
            accepted_N=np.array([p is True for p in passed_N], dtype=bool),
            rejected_N=np.array([p is False for p in passed_N], dtype=bool),
            confidence_N=filled,
            has_confidence_N=np.array([c is not None for c in confidence_N], dtype=bool),
        )

    def take(self, rows: np.ndarray) -> "Verdicts":
        """Return the rows with the given numbers, repeats included."""
        return Verdicts(
            self.labels_N[rows],
            self.accepted_N[rows],
            self.rejected_N[rows],
            self.confidence_N[rows],
            self.has_confidence_N[rows],
        )


class Bin(BaseModel):
    """One bar of a reliability diagram: rows with confidence in [low, high), their mean and share of true labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    n: int
    confidence: float | None
    true_share: float | None


class VerdictMetrics(BaseModel):
    """Metrics of N verdicts over `n_problems` problems; None where undefined.

    `base_rate` is the share of true verdicts, `label_rate` of true labels, `format_rate` of rows with a verdict,
    `coverage` of rows with a confidence, `tie_rate` of (right, wrong) pairs with equal confidence. `ci` holds 95 %
    intervals by metric.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int
    n_problems: int
    accuracy: float | None
    balanced_accuracy: float | None
    tpr: float | None
    tnr: float | None
    auroc: float | None
    ece: float | None
    brier: float | None
    tie_rate: float | None
    base_rate: float | None
    label_rate: float | None
    format_rate: float | None
    coverage: float | None
    ci: dict[str, Interval | None] = {}
    bins: tuple[Bin, ...] = ()


def verdict_metrics(
    labels_N: Sequence[bool],
    passed_N: Sequence[bool | None],
    confidence_N: Sequence[float | None],
    groups_N: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> VerdictMetrics:
    """Compute every metric of the registry, with bootstrap intervals over problems.

    Args:
        labels_N: whether each candidate is right.
        passed_N: the verdicts; None where none was given or parsed.
        confidence_N: p(true) in [0, 1]; None where none could be had.
        groups_N: the problem of each row.
        resamples: bootstrap draws; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        The metrics; all None for no rows.

    Raises:
        ValueError: lengths differ, or a confidence is outside [0, 1].
    """
    rows = Verdicts.of(labels_N, passed_N, confidence_N)
    if len(groups_N) != len(labels_N):
        raise ValueError(f"lengths differ: {len(labels_N)} labels, {len(groups_N)} groups")
    drawn: dict[str, list[float | None]] = {name: [] for name in METRICS}
    for picked in resampled_rows(groups_N, resamples, seed):
        sample = rows.take(picked)
        for name, metric in METRICS.items():
            drawn[name].append(metric(sample))
    return VerdictMetrics(
        n=len(labels_N),
        n_problems=len(set(groups_N)),
        ci={name: percentile_interval(values) for name, values in drawn.items()} if resamples else {},
        bins=reliability_bins(rows),
        **{name: metric(rows) for name, metric in METRICS.items()},
    )


def accuracy(v: Verdicts) -> float | None:
    """Share of rows whose verdict is the label."""
    return _mean(np.where(v.labels_N, v.accepted_N, v.rejected_N))


def tpr(v: Verdicts) -> float | None:
    """Share of right candidates that were accepted (sensitivity)."""
    return _mean(v.accepted_N[v.labels_N])


def tnr(v: Verdicts) -> float | None:
    """Share of wrong candidates that were rejected (specificity)."""
    return _mean(v.rejected_N[~v.labels_N])


def balanced_accuracy(v: Verdicts) -> float | None:
    """Mean of TPR and TNR: 0.5 for a policy that always says the same."""
    true, false = tpr(v), tnr(v)
    return None if true is None or false is None else (true + false) / 2


def auroc(v: Verdicts) -> float | None:
    """Probability that a right candidate has a higher confidence than a wrong one, ties half (Mann-Whitney)."""
    pairs = _pairs(v)
    if pairs is None:
        return None
    above, tied, total = pairs
    return (above + tied / 2) / total


def tie_rate(v: Verdicts) -> float | None:
    """Share of (right, wrong) pairs with equal confidence."""
    pairs = _pairs(v)
    return None if pairs is None else pairs[1] / pairs[2]


def ece(v: Verdicts) -> float | None:
    """Expected calibration error of p(true): |mean confidence - share of true labels| a bin, weighted by its rows."""
    if not len(v.labels_N):
        return None
    index = _bin_index(v)
    gaps = np.bincount(index, weights=v.confidence_N - v.labels_N, minlength=BINS)
    return float(np.abs(gaps).sum() / len(v.labels_N))


def brier(v: Verdicts) -> float | None:
    """Mean squared difference of confidence and label."""
    return _mean((v.confidence_N - v.labels_N) ** 2)


def base_rate(v: Verdicts) -> float | None:
    """Share of rows with a true verdict."""
    return _mean(v.accepted_N)


def label_rate(v: Verdicts) -> float | None:
    """Share of rows with a true label."""
    return _mean(v.labels_N)


def format_rate(v: Verdicts) -> float | None:
    """Share of rows with a verdict."""
    return _mean(v.accepted_N | v.rejected_N)


def coverage(v: Verdicts) -> float | None:
    """Share of rows with a confidence."""
    return _mean(v.has_confidence_N)


METRICS: dict[str, Callable[[Verdicts], float | None]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "tpr": tpr,
    "tnr": tnr,
    "auroc": auroc,
    "ece": ece,
    "brier": brier,
    "tie_rate": tie_rate,
    "base_rate": base_rate,
    "label_rate": label_rate,
    "format_rate": format_rate,
    "coverage": coverage,
}


def reliability_bins(v: Verdicts) -> tuple[Bin, ...]:
    """Return the bars of a reliability diagram, of the rows that have a confidence."""
    index = np.where(v.has_confidence_N, _bin_index(v), -1)
    picks = [index == b for b in range(BINS)]
    return tuple(
        Bin(
            low=b / BINS,
            high=(b + 1) / BINS,
            n=int(pick.sum()),
            confidence=_mean(v.confidence_N[pick]),
            true_share=_mean(v.labels_N[pick]),
        )
        for b, pick in enumerate(picks)
    )


def _bin_index(v: Verdicts) -> np.ndarray:
    """Return each row's bin; 1.0 belongs to the last."""
    return np.minimum((v.confidence_N * BINS).astype(int), BINS - 1)


def _pairs(v: Verdicts) -> tuple[float, float, float] | None:
    """Count the (right, wrong) pairs: right above, tied, all; None when there are none."""
    right, wrong = v.confidence_N[v.labels_N], np.sort(v.confidence_N[~v.labels_N])
    total = len(right) * len(wrong)
    if not total:
        return None
    below = np.searchsorted(wrong, right, side="left").sum()
    up_to = np.searchsorted(wrong, right, side="right").sum()
    return float(below), float(up_to - below), float(total)


def _mean(values: np.ndarray) -> float | None:
    """Return the mean, None of an empty array."""
    return float(values.mean()) if len(values) else None
