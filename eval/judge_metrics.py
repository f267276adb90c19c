"""How good a judge is: its scores against outcomes, and what its critiques are worth to a refiner. Pure functions.

Input: outcomes, scores and problems of N judged trajectories; refined solutions with and without critiques. Output:
AUROC, ECE, Brier and the like (`eval/calibration.py`), Spearman's rank correlation, and the gain in accuracy that the
critiques bring, each with 95 % bootstrap intervals over problems. What the data leave undefined is None, never 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from agents.types import Frozen, Trajectory
from eval.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_rows
from eval.calibration import VerdictMetrics, verdict_metrics
from eval.refinement_metrics import Course


class Judged(Frozen):
    """One judged trajectory: its problem, whether its outcome was right, and the score (None: the judge failed)."""

    problem: str
    outcome: bool
    score: float | None
    tokens: int = 0


class JudgeMetrics(Frozen):
    """Metrics of a judge. `verdicts` takes a score above 1/2 for a true verdict and the score for its confidence."""

    verdicts: VerdictMetrics
    spearman: float | None
    spearman_ci: Interval | None
    tokens: float | None


class Usefulness(Frozen):
    """Accuracy of refined solutions with the judge's critique, without one, and the difference, over `n` solutions."""

    n: int
    with_critique: float
    without: float
    gain: float
    gain_ci: Interval | None


def judged_of(problem: str, outcome: bool, judged: Trajectory) -> Judged:
    """Return the row of a judge's trajectory."""
    score = judged.verdict.score if judged.verdict else None
    return Judged(problem=problem, outcome=outcome, score=score, tokens=judged.completion_tokens)


def judge_metrics(rows: Sequence[Judged], *, resamples: int = RESAMPLES, seed: int = 0) -> JudgeMetrics:
    """Work out a judge's metrics.

    Args:
        rows: one a judged trajectory; without a score it is a wrong verdict with confidence 1/2, and not ranked.
        resamples: bootstrap draws over problems; 0 for no intervals.
        seed: of the draws.
    """
    scores = [row.score for row in rows]
    problems = [row.problem for row in rows]
    ranked = [row for row in rows if row.score is not None]
    drawn = [_correlation([ranked[i] for i in picked]) for picked in resampled_rows(_names(ranked), resamples, seed)]
    return JudgeMetrics(
        verdicts=verdict_metrics(
            [row.outcome for row in rows],
            [None if score is None else score > 0.5 for score in scores],
            scores,
            problems,
            resamples=resamples,
            seed=seed,
        ),
        spearman=_correlation(ranked),
        spearman_ci=percentile_interval(drawn),
        tokens=float(np.mean([row.tokens for row in rows])) if rows else None,
    )


def _names(rows: Sequence[Judged]) -> list[str]:
    return [row.problem for row in rows]


def _correlation(rows: Sequence[Judged]) -> float | None:
    return spearman([row.score or 0.0 for row in rows], [float(row.outcome) for row in rows])


def spearman(x_N: Sequence[float], y_N: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation: Pearson's of the ranks, ties at their mean rank.

    None for fewer than two values, or where one side is all ties.

    Raises:
        ValueError: the lengths differ.
    """
    if len(x_N) != len(y_N):
        raise ValueError(f"lengths differ: {len(x_N)}, {len(y_N)}")
    if len(x_N) < 2:
        return None
    x, y = (ranks(np.asarray(values, dtype=float)) for values in (x_N, y_N))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / scale) if scale else None


def ranks(values_N: np.ndarray) -> np.ndarray:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def usefulness(
    problem_N: Sequence[str],
    with_N: Sequence[bool],
    without_N: Sequence[bool],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Usefulness | None:
    """Work out what critiques are worth: accuracy of the refinements made with them less that of those without.

    Args:
        problem_N: the problem of each solution.
        with_N: whether the solution is right after a refinement with the judge's critique.
        without_N: likewise without a critique: the same first solution, refiner and number of rounds.
        resamples: bootstrap draws over problems; 0 for no interval.
        seed: of the draws.

    Returns:
        None where there is no solution.

    Raises:
        ValueError: the lengths differ.
    """
    if not len(problem_N) == len(with_N) == len(without_N):
        raise ValueError(f"lengths differ: {len(problem_N)}, {len(with_N)}, {len(without_N)}")
    if not problem_N:
        return None
    first, second = np.asarray(with_N, dtype=float), np.asarray(without_N, dtype=float)
    gains = first - second
    drawn = [float(gains[picked].mean()) for picked in resampled_rows(problem_N, resamples, seed)]
    return Usefulness(
        n=len(gains),
        with_critique=float(first.mean()),
        without=float(second.mean()),
        gain=float(gains.mean()),
        gain_ci=percentile_interval(drawn),
    )


def useful_critics(courses: Mapping[str, Sequence[Course]], resamples: int, seed: int) -> dict[str, Usefulness]:
    """Return what each critic's critiques are worth after the last round, where `none` was run as well.

    Args:
        courses: by critic; all of the same solutions in the same order.
        resamples: bootstrap draws over problems.
        seed: of the draws.
    """
    bare = courses.get("none")
    if bare is None:
        return {}
    found = {
        critic: usefulness(
            [c.problem for c in of],
            [c.right[-1] for c in of],
            [c.right[-1] for c in bare],
            resamples=resamples,
            seed=seed,
        )
        for critic, of in courses.items()
        if critic != "none"
    }
    return {critic: worth for critic, worth in found.items() if worth is not None}
