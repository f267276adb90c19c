"""Group-relative advantages: one baseline for all rows of a pool."""

from collections.abc import Sequence
from statistics import fmean, stdev

EPSILON = 1e-4  # TRL's: keeps the quotient finite where rewards hardly differ


def pooled_advantages(rewards_N: Sequence[float | None], epsilon: float = EPSILON) -> list[float | None]:
    """Return A = (R - mean(pool)) / (std(pool) + epsilon), over all rows at once.

    Reagent-U's joint advantage (section "Three Integration Variants"): the pool holds the first answers to a problem
    and the refined ones, so that where refined answers are better the first ones get negative advantages. It is what
    TRL computes for a group of `num_generations` = N consecutive rows. The paper does not say which standard deviation
    it takes: this is the sample's (n - 1), as TRL's.

    Args:
        rewards_N: (N,); in Reagent-U N = 2G, G first answers and then G refined ones. None: dropped from the pool (an
            outage), so that it counts neither in the mean nor in the deviation.
        epsilon: added to the deviation.

    Returns:
        (N,), None where dropped.

    Raises:
        ValueError: fewer than two rewards are left: there is no deviation.
    """
    kept = [r for r in rewards_N if r is not None]
    if len(kept) < 2:
        raise ValueError(f"a pool needs two rewards, {len(kept)} of {len(rewards_N)} are left")
    mean, deviation = fmean(kept), stdev(kept)
    return [None if r is None else (r - mean) / (deviation + epsilon) for r in rewards_N]
