"""Verdict metrics against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.bootstrap import percentile_interval, resampled_rows
from eval.calibration import METRICS, Verdicts, verdict_metrics

LABELS = [True, True, True, False, False]
PASSED = [True, None, False, False, True]
CONFIDENCE = [0.9, None, 0.4, 0.4, 0.8]
GROUPS = ["a", "a", "b", "b", "b"]


def test_worked_example() -> None:
    m = verdict_metrics(LABELS, PASSED, CONFIDENCE, GROUPS, resamples=0)
    assert (m.n, m.n_problems) == (5, 2)
    assert m.accuracy == pytest.approx(2 / 5)  # the missing verdict is wrong
    assert m.tpr == pytest.approx(1 / 3)
    assert m.tnr == pytest.approx(1 / 2)
    assert m.balanced_accuracy == pytest.approx(5 / 12)
    assert m.base_rate == pytest.approx(2 / 5)
    assert m.label_rate == pytest.approx(3 / 5)
    assert m.format_rate == pytest.approx(4 / 5)
    assert m.coverage == pytest.approx(4 / 5)
    # right: 0.9, 0.5 (none given), 0.4; wrong: 0.4, 0.8. Right above: 2 + 1 + 0; tied: 1; pairs: 6
    assert m.auroc == pytest.approx(3.5 / 6)
    assert m.tie_rate == pytest.approx(1 / 6)
    assert m.brier == pytest.approx((0.01 + 0.25 + 0.36 + 0.16 + 0.64) / 5)
    # bins: {0.4, 0.4} mean 0.4, share 0.5; {0.5} share 1; {0.8} share 0; {0.9} share 1
    assert m.ece == pytest.approx((2 * 0.1 + 0.5 + 0.8 + 0.1) / 5)
    assert m.ci == {}


@pytest.mark.parametrize("label", [True, False])
def test_no_verdict_is_wrong_whatever_the_label(label: bool) -> None:
    m = verdict_metrics([label], [None], [None], ["a"], resamples=0)
    assert m.accuracy == 0.0
    assert (m.tpr, m.tnr) == ((0.0, None) if label else (None, 0.0))
    assert m.format_rate == 0.0
    assert m.brier == 0.25


def test_ece_bins_are_equal_width_and_hold_their_lower_edge() -> None:
    m = verdict_metrics([True, False, True, True], [True] * 4, [0.2, 0.29, 1.0, 0.95], ["a"] * 4, resamples=0)
    # bin 2: mean 0.245, share 0.5; bin 9: mean 0.975, share 1
    assert m.ece == pytest.approx((2 * 0.255 + 2 * 0.025) / 4)
    assert [b.n for b in m.bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert m.bins[2].true_share == pytest.approx(0.5)
    assert m.bins[2].confidence == pytest.approx(0.245)
    assert m.bins[0].confidence is None


def test_bins_leave_out_rows_without_a_confidence() -> None:
    m = verdict_metrics([True, False], [True, None], [0.7, None], ["a", "b"], resamples=0)
    assert sum(b.n for b in m.bins) == 1


def test_perfect_and_reversed_ranking() -> None:
    labels, passed, groups = [True, True, False], [True, True, False], ["a"] * 3
    assert verdict_metrics(labels, passed, [0.9, 0.8, 0.1], groups, resamples=0).auroc == 1.0
    assert verdict_metrics(labels, passed, [0.1, 0.2, 0.9], groups, resamples=0).auroc == 0.0


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("labels", [[True, False, False, False], [True, True, True, False]])
def test_a_policy_that_always_says_the_same_has_balanced_accuracy_one_half(says: bool, labels: list[bool]) -> None:
    m = verdict_metrics(labels, [says] * 4, [float(says)] * 4, ["a", "a", "b", "b"], resamples=0)
    assert m.balanced_accuracy == 0.5
    assert m.auroc == 0.5
    assert m.tie_rate == 1.0
    assert m.base_rate == float(says)
    assert m.accuracy == labels.count(says) / 4  # which alone would flatter it


def test_undefined_is_none_not_zero() -> None:
    m = verdict_metrics([False, False], [False, False], [0.1, 0.2], ["a", "b"], resamples=10)
    assert m.tpr is None
    assert m.balanced_accuracy is None
    assert m.auroc is None
    assert m.tie_rate is None
    assert m.ci["auroc"] is None
    assert m.tnr == 1.0
    empty = verdict_metrics([], [], [], [])
    assert empty.n == 0
    assert all(getattr(empty, name) is None for name in METRICS)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        verdict_metrics([True], [True], [1.2], ["a"])
    with pytest.raises(ValueError, match="outside"):
        verdict_metrics([True], [True], [float("nan")], ["a"])
    with pytest.raises(ValueError, match="lengths"):
        verdict_metrics([True, False], [True], [0.2], ["a"])
    with pytest.raises(ValueError, match="groups"):
        verdict_metrics([True], [True], [0.2], [])


def test_bootstrap_is_a_function_of_the_seed() -> None:
    rng = np.random.default_rng(3)
    labels = [bool(x) for x in rng.integers(2, size=60)]
    passed = [bool(x) for x in rng.integers(2, size=60)]
    confidence = [float(x) for x in rng.random(60)]
    groups = [str(i // 4) for i in range(60)]
    one, same, other = (
        verdict_metrics(labels, passed, confidence, groups, resamples=200, seed=s).ci for s in (1, 1, 2)
    )
    assert one == same
    assert one != other
    low, high = one["accuracy"] or (1.0, 0.0)
    mean = np.mean(np.equal(labels, passed))
    assert low < mean < high


def test_bootstrap_draws_whole_problems() -> None:
    groups = ["a", "b", "a", "c", "b"]
    members = {"a": [0, 2], "b": [1, 4], "c": [3]}
    draws = list(resampled_rows(groups, 50, seed=0))
    assert len(draws) == 50
    for rows in draws:
        left = list(rows)
        picked = 0
        while left:
            whole = members[groups[left[0]]]
            assert left[: len(whole)] == whole
            left = left[len(whole) :]
            picked += 1
        assert picked == 3


def test_intervals_are_wider_when_candidates_of_a_problem_agree() -> None:
    labels = [True] * 40
    passed = [bool(i // 4 % 2) for i in range(40)]  # 10 problems, all right or all wrong
    by_problem = verdict_metrics(labels, passed, [0.5] * 40, [str(i // 4) for i in range(40)]).ci["accuracy"]
    by_row = verdict_metrics(labels, passed, [0.5] * 40, [str(i) for i in range(40)]).ci["accuracy"]
    assert by_problem is not None
    assert by_row is not None
    assert by_problem[1] - by_problem[0] > 1.5 * (by_row[1] - by_row[0])


def test_percentile_interval() -> None:
    low, high = percentile_interval([i / 100 for i in range(101)]) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert percentile_interval([None, None, 0.3]) is None
    assert percentile_interval([]) is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=2, max_size=30))
def test_auroc_equals_the_count_over_pairs(rows: list[tuple[bool, float]]) -> None:
    right = [c for label, c in rows if label]
    wrong = [c for label, c in rows if not label]
    counted = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
    v = Verdicts.of([label for label, _ in rows], [None] * len(rows), [c for _, c in rows])
    found = METRICS["auroc"](v)
    assert found == (pytest.approx(sum(counted) / len(counted)) if counted else None)
