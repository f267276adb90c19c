"""Selectors of Best-of-N on pools worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.best_of_n import SELECTORS, BestOfN, Pool, Scored, best_of_n


def pool(*rows: tuple[str | None, bool, float | None]) -> Pool:
    """Build a pool of (answer, correct, confidence); passed from 0.5 on."""
    return Pool([Scored(answer=a, correct=r, confidence=c, passed=None if c is None else c >= 0.5) for a, r, c in rows])


def picks(p: Pool) -> dict[str, float]:
    """Run every selector."""
    return {name: select(p) for name, select in SELECTORS.items()}


def test_weighted_and_majority_differ() -> None:
    p = pool(("3", False, 0.1), ("3.0", False, 0.2), ("$3", False, 0.1), ("5", True, 0.9), ("5 eggs", True, 0.6))
    assert [len(c) for c in p.clusters] == [3, 2]
    assert picks(p) == {
        "pass_at_1": pytest.approx(2 / 5),
        "majority": 0.0,  # 3 against 2
        "verifier": 1.0,  # 0.9
        "weighted": 1.0,  # 1.5 against 0.4
        "accepted": 1.0,  # 2 against 0
        "oracle": 1.0,
    }


def test_weighted_and_verifier_differ() -> None:
    p = pool(("3", False, 0.9), ("5", True, 0.6), ("5", True, 0.5))
    assert picks(p)["verifier"] == 0.0
    assert picks(p)["weighted"] == 1.0


def test_majority_ties_are_expected_values() -> None:
    p = pool(("1", True, None), ("2", False, None), ("1", True, None), ("2", False, None), ("3", False, None))
    assert picks(p)["majority"] == 0.5
    assert picks(pool(("1", True, None), ("2", False, None), ("3", False, None)))["majority"] == pytest.approx(1 / 3)


def test_verifier_ties_are_expected_values() -> None:
    p = pool(("1", True, 0.8), ("2", False, 0.8), ("3", False, 0.8), ("4", True, 0.1))
    assert picks(p)["verifier"] == pytest.approx(1 / 3)


def test_missing_confidence_weighs_nothing() -> None:
    p = pool(("1", False, None), ("1", False, None), ("2", True, 0.01))
    assert picks(p)["verifier"] == 1.0
    assert picks(p)["weighted"] == 1.0
    assert picks(pool(("1", True, None), ("2", False, None)))["verifier"] == 0.5


def test_float_sums_tie() -> None:
    p = pool(("1", True, 0.1), ("1", True, 0.2), ("2", False, 0.3))
    assert picks(p)["weighted"] == 0.5  # 0.1 + 0.2 is 0.3


def test_without_an_answer_there_is_no_vote() -> None:
    p = pool((None, False, 0.9), (None, False, 0.9), ("2", True, 0.3))
    assert picks(p)["majority"] == 1.0
    assert picks(p)["weighted"] == 1.0
    assert picks(p)["verifier"] == 0.0
    silent = pool((None, False, 0.9), (None, False, None))
    assert picks(silent) == dict.fromkeys(SELECTORS, 0.0)


def test_accepted_falls_back_on_the_majority() -> None:
    assert picks(pool(("1", True, 0.1), ("1", True, 0.2), ("2", False, 0.4)))["accepted"] == 1.0


def test_best_of_n_over_problems() -> None:
    easy = [Scored(answer="1", correct=True, confidence=0.9), Scored(answer="2", correct=False, confidence=0.1)]
    hard = [Scored(answer="3", correct=False, confidence=0.9), Scored(answer="4", correct=False, confidence=0.9)]
    extra = Scored(answer="5", correct=True, confidence=1.0)
    best = best_of_n([easy, [*hard, extra]], resamples=200, seed=0)
    assert (best.n, best.problems) == (2, 2)  # the least that a problem has
    assert best.pass_at_1 == 0.25
    assert best.majority == 0.25
    assert best.verifier == 0.5
    assert best.oracle == 0.5
    assert best.tie_rate == 0.5
    assert best.ci["verifier"] == (0.0, 1.0)
    assert best == best_of_n([easy, [*hard, extra]], resamples=200, seed=0)
    assert best_of_n([easy, hard], n=1, resamples=0).verifier == 0.5


def test_bad_input_is_refused() -> None:
    one = [Scored(answer="1", correct=True)]
    for problems, n in (([], None), ([one, []], None), ([one], 2), ([one], 0)):
        with pytest.raises(ValueError, match="Best-of-"):
            best_of_n(problems, n=n)


def test_every_selector_has_its_field() -> None:
    assert set(SELECTORS) == set(BestOfN.model_fields) - {"n", "problems", "tie_rate", "ci"}


CANDIDATES = st.lists(
    st.builds(
        lambda answer, confidence: Scored(
            answer=answer, correct=answer == "1", confidence=confidence, passed=confidence is not None
        ),
        st.sampled_from(["1", "2", "3", None]),
        st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=8,
)


@given(CANDIDATES, st.randoms())
def test_no_order_of_candidates_matters_and_the_oracle_is_the_ceiling(candidates: list[Scored], random) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    before, after = picks(Pool(candidates)), picks(Pool(shuffled))
    assert after == pytest.approx(before)
    assert all(0 <= value <= before["oracle"] for value in before.values())
