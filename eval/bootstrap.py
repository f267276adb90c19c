"""Bootstrap over problems: candidates of one problem stand or fall together, so whole problems are resampled.

Efron's percentile interval. Inputs are arrays and a seed; equal seeds give equal intervals.
"""

from collections.abc import Iterator, Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
Interval = tuple[float, float]


def resampled_rows(groups_N: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw groups with replacement, as many as there are, and yield the row numbers of each draw.

    Args:
        groups_N: the group (problem) of each row.
        resamples: how many draws.
        seed: of the generator.

    Yields:
        Integer arrays; their length varies when groups differ in size.
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups_N):
        rows.setdefault(group, []).append(row)
    members = [np.asarray(r) for r in rows.values()]
    rng = np.random.default_rng(seed)
    for _ in range(resamples if members else 0):
        yield np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])


def percentile_interval(values: Sequence[float | None], level: float = LEVEL) -> Interval | None:
    """Return the central interval of resampled values.

    Args:
        values: one a resample; None where the metric was undefined.
        level: share of the values inside.

    Returns:
        (low, high), or None when more than half of the resamples leave the metric undefined.
    """
    defined = [v for v in values if v is not None]
    if not defined or 2 * len(defined) < len(values):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
