"""The judge's rewards: a proper scoring rule, checked with numbers, and what is no reward at all."""

from typing import get_args

import numpy as np
import pytest

from agents.types import ErrorInfo, Judgement, StopReason, Trajectory, Turn
from train.recipes import RECIPES
from train.rewards import FORM, REWARDS, brier_reward, judge_reward, model_reward, reward_by_role
from train.settings import GrpoConfig, RecipeName

IN_FORM = "<think>t</think><critique>c</critique><score>0.5</score>"  # the text shows the form, the verdict the score
GRID = np.linspace(0, 1, 101)


def judged(score: float | None, *texts: str, stop: StopReason = StopReason.COMPLETED) -> Trajectory:
    verdict = None if score is None else Judgement(critique="c", score=score).verdict
    turns = tuple(Turn(stage="judge", prompt=(), content=text) for text in texts or (IN_FORM,))
    error = ErrorInfo(kind="ModelError", message="gone") if stop is StopReason.ERROR else None
    return Trajectory(role="judge", stop_reason=stop, verdict=verdict, turns=turns, error=error)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.5, 0.73, 1.0])
def test_an_honest_score_is_the_best_one(p: float):
    """Properness: of all scores, the expected reward under chance p of a right outcome is greatest at p alone."""
    expected = []
    for score in GRID:
        right, wrong = (judge_reward(judged(float(score)), outcome) for outcome in (True, False))
        assert right is not None and wrong is not None
        expected.append(p * right + (1 - p) * wrong)
    assert GRID[int(np.argmax(expected))] == pytest.approx(p)
    best = sorted(expected)[-2:]
    assert best[1] - best[0] > 1e-5
    assert max(expected) == pytest.approx(1 - p * (1 - p) + FORM)


def test_a_linear_reward_would_not_be_proper():
    """The check can fail: 1 - |score - outcome| is best at 1 for every p above one half."""
    expected = [0.6 * (1 - abs(s - 1)) + 0.4 * (1 - abs(s)) for s in GRID]
    assert GRID[int(np.argmax(expected))] == 1.0


def pushed(p: float, scores: tuple[float, float], scale: str) -> float:
    """Return the expected advantage of the higher of two scores, over groups of the two with outcomes of chance p.

    Advantages as in GRPO: less the group's mean, divided by a deviation: of the group, or of all groups together.
    """
    rewards = np.array([[brier_reward(s, outcome) for s in scores] for outcome in (True, False)])
    weights = np.array([p, 1 - p])
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    deviation = rewards.std(axis=1, keepdims=True) if scale == "group" else rewards.std()
    return float(weights @ (centred / deviation)[:, 1])


def test_advantages_keep_it_proper_only_if_they_keep_the_sizes_of_rewards():
    """At p = 0.7 the scores 0.6 and 0.8 pay the same: nothing pushes. Scaled by group, the higher one is pushed (+0.4).

    By hand: outcome right: rewards 0.84, 0.96, so ±0.06; wrong: 0.64, 0.36, so ∓0.14; 0.7 * 0.06 - 0.3 * 0.14 = 0. By
    group both become ±1: 0.7 - 0.3 = 0.4.
    """
    assert pushed(0.7, (0.6, 0.8), "batch") == pytest.approx(0.0)
    assert pushed(0.7, (0.6, 0.8), "group") == pytest.approx(0.4)
    assert pushed(0.7, (0.5, 0.7), "batch") > 0.01 and pushed(0.7, (0.7, 0.9), "batch") < -0.01
    assert pushed(0.7, (0.8, 1.0), "group") == pytest.approx(0.4)  # on to the end
    assert {name: recipe.scale for name, recipe in RECIPES.items() if recipe.scale == "batch"} == {"rrm": "batch"}
    assert set(RECIPES) == set(get_args(RecipeName)) and GrpoConfig().recipe == "agentv"


@pytest.mark.parametrize(
    ("score", "outcome", "reward"), [(1.0, True, 1.0), (0.0, True, 0.0), (0.8, True, 0.96), (0.8, False, 0.36)]
)
def test_rewards_by_hand(score: float, outcome: bool, reward: float):
    assert judge_reward(judged(score), outcome) == pytest.approx(reward + FORM)


def test_form_is_worth_the_same_whatever_the_score():
    stray = IN_FORM + " So it is."
    for score in (0.0, 0.3, 1.0):
        for outcome in (True, False):
            whole = judge_reward(judged(score), outcome)
            assert whole is not None
            assert judge_reward(judged(score, stray), outcome) == pytest.approx(whole - FORM)
            assert judge_reward(judged(score, "bad", IN_FORM), outcome) == pytest.approx(whole - FORM)  # repaired


@pytest.mark.parametrize("stop", [StopReason.UNPARSED, StopReason.LENGTH, StopReason.MAX_TOKENS])
def test_no_judgement_is_the_policys_own_doing(stop: StopReason):
    """0: less than any judgement in form gets, the worst one included."""
    for outcome in (True, False):
        assert judge_reward(judged(None, "bad", stop=stop), outcome) == 0.0
    worst = judge_reward(judged(1.0), False)
    assert worst is not None and worst == pytest.approx(FORM) and worst > 0


def test_a_failed_judge_is_no_reward():
    """Pitfall 5: an outage is not 0. For the agent that is judged, no judgement of any kind is one."""
    for outcome in (True, False):
        assert judge_reward(judged(None, stop=StopReason.ERROR), outcome) is None
    assert model_reward(judged(None, stop=StopReason.ERROR)) is None
    assert model_reward(judged(None, "bad", stop=StopReason.UNPARSED)) is None
    assert model_reward(judged(0.0)) == 0.0 and model_reward(judged(0.7)) == 0.7


def test_each_role_has_its_own_rule():
    assert reward_by_role(judged(0.8), False) == judge_reward(judged(0.8), False)
    verifier = judged(0.8).model_copy(update={"role": "backward_verifier"})
    assert reward_by_role(verifier, True) == 1.0 and reward_by_role(verifier, False) == -1.0
    assert set(REWARDS) == {"forward_verifier", "backward_verifier", "judge"}
