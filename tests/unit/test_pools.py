"""Averages over pools of N: closed forms against hand-made numbers and against going through all pools."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.pools import MOST_SUBSETS, Resample, Subsample, expected_best

SCORES, RIGHT = [3.0, 2.0, 2.0, 1.0], [False, True, False, True]


def test_best_of_two_of_four_by_hand():
    """Of 6 pairs three hold the 3 (wrong), one both 2s (half right), one the right 2 with the 1, one the wrong 2."""
    assert expected_best(SCORES, RIGHT, 2, Subsample()) == pytest.approx(1.5 / 6)
    assert expected_best([0.0] * 4, RIGHT, 2, Subsample()) == pytest.approx(0.5)  # pass@1
    assert expected_best([float(r) for r in RIGHT], RIGHT, 2, Subsample()) == pytest.approx(5 / 6)  # one pair is wrong


def best(scores, right, picks):
    top = max(scores[i] for i in picks)
    at = [right[i] for i in picks if scores[i] == top]
    return sum(at) / len(at)


CANDIDATES = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.booleans()), min_size=1, max_size=6)


@given(CANDIDATES, st.integers(1, 6))
def test_subsampling_equals_all_subsets(candidates, n):
    scores, right = zip(*candidates, strict=True)
    n = min(n, len(scores))
    pools = list(combinations(range(len(scores)), n))
    mean = sum(best(scores, right, picks) for picks in pools) / len(pools)
    assert expected_best(scores, right, n, Subsample()) == pytest.approx(mean)


@given(CANDIDATES.filter(lambda c: len(c) <= 4), st.integers(1, 3))
def test_resampling_equals_all_sequences(candidates, n):
    """Ties are shared among draws here, among candidates in the closed form: the same on average."""
    scores, right = zip(*candidates, strict=True)
    pools = list(product(range(len(scores)), repeat=n))
    mean = sum(best(scores, right, picks) for picks in pools) / len(pools)
    assert expected_best(scores, right, n, Resample()) == pytest.approx(mean)


def test_how_often_a_text_is_reviewed():
    assert Subsample().times_reviewed(2, 4, 2) == pytest.approx(5 / 6)  # all pairs but the one of the two others
    assert Subsample().times_reviewed(2, 4, 4) == 1.0  # copies share a review
    assert Resample().times_reviewed(2, 4, 32) == 16.0  # every draw has a review of its own


def test_pools_are_gone_through_where_they_are_few():
    rng = np.random.default_rng(0)
    few = Subsample().pools(4, 2, 7, rng)
    assert few.exact and len(few.pools) == 6
    many = Subsample().pools(20, 10, 7, rng)
    assert MOST_SUBSETS < 184_756 and not many.exact and len(many.pools) == 7
    assert all(len(set(picks)) == 10 for picks in many.pools)
    drawn = Resample().pools(3, 50, 7, rng)
    assert not drawn.exact and {len(picks) for picks in drawn.pools} == {50} and max(map(max, drawn.pools)) == 2
    assert Subsample().names(["a", "a"]) == ["a", "a"] and Resample().names(["a", "a"]) == ["0", "1"]
