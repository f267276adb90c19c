"""A judge's metrics against numbers worked out by hand."""

import numpy as np
import pytest

from agents.types import Judgement, StopReason, Trajectory
from eval.costs import Cost
from eval.judge_metrics import Judged, judge_metrics, judged_of, ranks, spearman, useful_critics, usefulness
from eval.refinement_metrics import Course


def rows(*found: tuple[str, bool, float | None]) -> list[Judged]:
    return [Judged(problem=problem, outcome=outcome, score=score, tokens=10) for problem, outcome, score in found]


def test_ranks_share_the_mean_of_ties():
    assert ranks(np.array([0.5, 0.1, 0.5, 0.9])).tolist() == [2.5, 1.0, 2.5, 4.0]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3], [30, 20, 10], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24)
        ([0.1, 0.2, 0.3, 1000], [1, 2, 3, 4], 1.0),  # ranks, not values
        # ranks 1 2 3 4 against 1.5 1.5 3.5 3.5: 4 / sqrt(5 * 4)
        ([0.1, 0.3, 0.6, 0.9], [0, 0, 1, 1], 0.894427),
        # ranks 1 2.5 2.5 4 against 1.5 3.5 1.5 3.5: deviations -1.5 0 0 1.5 and -1 1 -1 1: 3 / sqrt(4.5 * 4)
        ([0.1, 0.5, 0.5, 0.9], [0, 1, 0, 1], 0.707107),
    ],
)
def test_rank_correlation(x: list[float], y: list[float], expected: float):
    assert spearman(x, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [1]), ([1, 1], [0, 1]), ([0, 1], [1, 1])])
def test_no_rank_correlation(x: list[float], y: list[float]):
    assert spearman(x, y) is None


def test_lengths_differ():
    with pytest.raises(ValueError, match="2, 1"):
        spearman([1, 2], [1])
    with pytest.raises(ValueError, match="lengths differ"):
        usefulness(["p"], [True], [True, False])


def test_metrics_by_hand():
    """Right: 0.9 and 0.4, wrong: 0.6 and 0.1.

    AUROC: of four pairs 0.9 > 0.6, 0.9 > 0.1, 0.4 < 0.6, 0.4 > 0.1: 3/4. ECE: every score alone in its bin: gaps 0.1,
    0.6, 0.6, 0.1: mean 0.35. Brier: (0.01 + 0.36 + 0.36 + 0.01) / 4. Accuracy 2/4. Ranks 4 2 3 1 against 3.5 3.5 1.5
    1.5: deviations 1.5 -0.5 0.5 -1.5 and 1 1 -1 -1: 2 / sqrt(5 * 4).
    """
    found = judge_metrics(rows(("p", True, 0.9), ("p", False, 0.6), ("q", True, 0.4), ("q", False, 0.1)), resamples=50)
    v = found.verdicts
    assert (v.auroc, v.ece, v.brier, v.accuracy) == pytest.approx((0.75, 0.35, 0.185, 0.5))
    assert found.spearman == pytest.approx(2 / np.sqrt(20))
    assert (v.format_rate, v.coverage, v.tie_rate, found.tokens) == (1.0, 1.0, 0.0, 10.0)
    low, high = found.spearman_ci or (0, 0)
    assert low <= (found.spearman or 0.0) <= high and v.ci["auroc"] is not None


def test_a_judge_that_failed_is_no_score():
    """It counts as a wrong verdict with confidence 1/2; it is not ranked, and never a score of 0."""
    found = judge_metrics(rows(("p", True, 0.9), ("p", False, 0.1), ("q", True, None)), resamples=0)
    assert found.spearman == pytest.approx(1.0) and found.spearman_ci is None
    v = found.verdicts
    assert (v.accuracy, v.format_rate, v.coverage) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert v.brier == pytest.approx((0.01 + 0.01 + 0.25) / 3)


def test_what_is_undefined_is_none():
    one_sided = judge_metrics(rows(("p", True, 0.9), ("q", True, 0.1)), resamples=0)
    assert (one_sided.spearman, one_sided.verdicts.auroc) == (None, None)
    nothing = judge_metrics([], resamples=10)
    assert (nothing.spearman, nothing.spearman_ci, nothing.tokens, nothing.verdicts.n) == (None, None, None, 0)


def test_rows_of_trajectories():
    verdict = Judgement(critique="c", score=0.25).verdict
    done = Trajectory(role="judge", stop_reason=StopReason.COMPLETED, verdict=verdict)
    failed = Trajectory(role="judge", stop_reason=StopReason.UNPARSED)
    assert judged_of("p", True, done) == Judged(problem="p", outcome=True, score=0.25)
    assert judged_of("p", True, failed).score is None


def test_usefulness_by_hand():
    """Of four solutions three are right with the critique, one without: +0.5. All of it is problem p's gain.

    p alone: +1; q alone: 0. Resampled over two problems: 0, 0.5 or 1.
    """
    found = usefulness(["p", "p", "q", "q"], [True, True, True, False], [False, False, True, False], resamples=200)
    assert found is not None
    assert (found.n, found.with_critique, found.without, found.gain) == (4, 0.75, 0.25, 0.5)
    assert found.gain_ci == (0.0, 1.0)


def test_a_critique_may_do_harm():
    found = usefulness(["p", "q"], [False, False], [True, False], resamples=0)
    assert found is not None and (found.gain, found.gain_ci) == (-0.5, None)
    assert usefulness([], [], []) is None


def course(problem: str, *right: bool) -> Course:
    k = len(right) - 1
    return Course(problem, right, (False,) * k, (False,) * k, (True,) * k, Cost(), (Cost(),) * k)


def test_critics_are_compared_with_none_after_the_last_round():
    """Judge: right, wrong; none: wrong, wrong, although it was right after the first round: +0.5."""
    courses = {
        "judge": [course("p", False, False, True), course("q", False, True, False)],
        "none": [course("p", False, True, False), course("q", False, False, False)],
    }
    found = useful_critics(courses, 0, 0)
    assert list(found) == ["judge"] and found["judge"].gain == 0.5
    assert useful_critics({"judge": courses["judge"]}, 0, 0) == {}
