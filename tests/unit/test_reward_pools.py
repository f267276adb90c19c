"""Pools of Reagent: rewards, one baseline for both stages, dropped rows, metrics; numbers worked out by hand."""

import pytest

from agents.types import ErrorInfo, Task, Turn
from train.advantages import pooled_advantages
from train.pools import Answer, Pool, Problem, pool_metrics, valued
from train.rewards import final_answer_text, is_live, mixed_reward, rule_reward

FIRST, REFINED = [0.0, 1.0], [0.0, 1.5]


def turn(content: str = "Answer: 18", **more) -> Turn:
    return Turn(stage="solve", prompt=(), content=content, completion_tokens=4, **more)


def test_advantages_have_one_mean_and_deviation_over_both_stages():
    """Rewards 0 1 | 0 1.5: mean 0.625; squares 0.390625 + 0.140625 + 0.390625 + 0.765625 = 1.6875 = 3 * 0.75^2.

    A = -0.625/0.75, 0.375/0.75, -0.625/0.75, 0.875/0.75 = -5/6, 1/2, -5/6, 7/6.
    """
    assert pooled_advantages(FIRST + REFINED, epsilon=0.0) == pytest.approx([-5 / 6, 1 / 2, -5 / 6, 7 / 6])
    assert pooled_advantages(FIRST + REFINED)[3] == pytest.approx(0.875 / 0.7501)


def test_separate_pools_give_other_advantages():
    """Apart, a pair's two advantages are -1/sqrt(2) and 1/sqrt(2), however the stages compare with each other."""
    apart = pooled_advantages(FIRST, 0.0) + pooled_advantages(REFINED, 0.0)
    assert apart == pytest.approx([-(0.5**0.5), 0.5**0.5] * 2)
    together = pooled_advantages(FIRST + REFINED, 0.0)
    assert all(abs((a or 0.0) - (b or 0.0)) > 0.1 for a, b in zip(apart, together, strict=True))


def test_better_refined_answers_push_right_first_answers_down():
    """0 1 | 1.5 1.5: mean 1: the right first answer gets 0; apart from the refined ones it would get +0.71."""
    assert pooled_advantages([0.0, 1.0, 1.5, 1.5])[1] == pytest.approx(0.0)


def test_a_dropped_row_counts_neither_in_the_mean_nor_in_the_deviation():
    """0 1 | - 1.5: mean 2.5/3; squares 0.6944 + 0.0278 + 0.4444 = 1.1667, by 2: 0.5833; std 0.763763.

    A = -0.8333/0.763763, 0.1667/0.763763, -, 0.6667/0.763763. With 0 for it they would be those of the pool above.
    """
    found = pooled_advantages([0.0, 1.0, None, 1.5], epsilon=0.0)
    assert found[2] is None
    assert [a for a in found if a is not None] == pytest.approx([-1.091089, 0.218218, 0.872872], abs=1e-6)


def test_fewer_than_two_rewards_are_no_pool_and_such_a_group_is_dead():
    with pytest.raises(ValueError, match="1 of 4 are left"):
        pooled_advantages([None, 1.0, None, None])
    assert not is_live([None, 1.0, None, None])


@pytest.mark.parametrize(
    ("rule", "model", "weight", "reward"),
    [
        (1.0, 0.5, 0.3, 1.15),
        (0.0, 1.0, 0.3, 0.3),
        (1.0, 0.0, 0.3, 1.0),
        (1.0, None, 0.3, None),  # an outage of the judge is not a score of 0
        (0.0, None, 0.3, None),
        (1.0, None, 0.0, 1.0),  # the judge has no part in it
        (None, 1.0, 0.3, None),
        (None, None, 0.0, None),
    ],
)
def test_rule_and_model_reward_are_mixed(rule, model, weight, reward):
    assert mixed_reward(rule, model, weight) == (reward if reward is None else pytest.approx(reward))


def test_the_rule_reward_is_equality_of_the_final_answer():
    math, qa = Task(question="q", answer="18"), Task(question="q", answer="no", kind="qa")
    assert rule_reward(math, [turn("3 * 6 = 18\nAnswer: 18.0")]) == 1.0
    assert rule_reward(math, [turn("Answer: 118")]) == 0.0
    assert rule_reward(qa, [turn("Answer: unknown")]) == 0.0  # never containment
    assert rule_reward(math, [turn("18")]) == 0.0  # no final answer: the policy's own doing
    assert rule_reward(Task(question="q"), [turn()]) is None


def test_a_cut_reply_has_no_answer():
    cut = turn("Answer: 18", finish_reason="length")
    assert [final_answer_text(turns) for turns in ([cut], [], [turn("<think>a</think>b")])] == ["", "", "b"]
    assert rule_reward(Task(question="q", answer="18"), [cut]) == 0.0


@pytest.mark.parametrize(
    ("said", "text", "worth"),
    [
        ("So: <answer>18</answer>", "<answer>18</answer>", 1.0),
        (r"It is \boxed{18}.", "<answer>18</answer>", 1.0),
        (r"<answer>It is \boxed{18}</answer>", "<answer>18</answer>", 1.0),
        ("<answer>17</answer>\nAnswer: 18", "<answer>17</answer>", 0.0),  # graph and evaluation read the tag alone
        (r"<answer>18</answer> \boxed{17}", "<answer>18</answer>", 1.0),
        ("<think><answer>18</answer></think>Hm.", "", 0.0),
        ("Answer: 18", "", 0.0),
        ("<answer>18", "", 0.0),
        ("<answer></answer>", "", 0.0),
        ('<tool_call>{"name": "python", "arguments": {"code": "18"}}</tool_call><answer>18</answer>', "", 0.0),
        ("<tool_call>{<answer>18</answer>", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_an_agents_answer_is_the_one_that_its_graph_ends_with(said: str, text: str, worth: float):
    turns = [Turn(stage="act", prompt=(), content=given) for given in ("<answer>18</answer>", said)]
    assert final_answer_text(turns) == text
    assert rule_reward(Task(question="q", answer="18"), turns) == worth


def test_an_agents_answer_that_was_cut_is_none():
    cut = Turn(stage="act", prompt=(), content="<answer>18</answer> and", finish_reason="length")
    assert final_answer_text([cut]) == "" and rule_reward(Task(question="q", answer="18"), [cut]) == 0.0


def test_what_is_missing_is_told_and_drops_the_row():
    gone = ErrorInfo(kind="ModelError", message="gone", where="judge")
    assert valued((turn(),), 1.0, None, 0.3, gone) == Answer((turn(),), 1.0, None, None, gone)
    unscored = valued((turn(),), 1.0, None, 0.3, None)
    assert unscored.reward is None and unscored.error is not None and "no score" in unscored.error.message
    assert valued((turn(),), 1.0, None, 0.0, gone) == Answer((turn(),), 1.0, None, 1.0, None)


def answer(rule: float, model: float, weight: float = 0.5) -> Answer:
    return valued((turn(),), rule, model, weight, None)


def dropped(where: str, written: bool) -> Answer:
    error = ErrorInfo(kind="ModelError", message="gone", where=where)
    return Answer((turn(),) if written else (), rule=1.0 if written else None, error=error)


def test_metrics_by_hand():
    """λ 0.5. Pool a: first 0 and 1 (score 0), refined 0 and 1 + 0.5: the pool above. Pool b: one reward is left.

    Rewards kept: 0, 1, 0, 1.5, 1 (mean 0.7). Pairs with both grades: a0 0 to 0, a1 1 to 1, b0 1 to 1; b1 has none.
    """
    problem = Problem("k", Task(question="q", answer="18"))
    a = Pool(problem, (answer(0, 0), answer(1, 0)), (answer(0, 0), answer(1, 1)))
    b = Pool(problem, (answer(1, 0), dropped("solve", False)), (dropped("judge", True), dropped("solve", False)))
    assert a.rewards == (0.0, 1.0, 0.0, 1.5) and b.rewards == (1.0, None, None, None)
    m = pool_metrics([a, b], [a])
    assert m["reward/mean"] == pytest.approx(0.7)
    assert (m["reward/first"], m["reward/refined"]) == (pytest.approx(2 / 3), 0.75)
    assert (m["pool/dropped"], m["pool/dropped_by_judge"], m["pool/too_small"]) == (3.0, 1.0, 1.0)
    assert (m["groups/zero_variance"], m["groups/live_in_update"], m["rollouts/n"]) == (0.5, 1.0, 8.0)
    assert (m["rule/first"], m["rule/refined"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (m["judge/first"], m["judge/refined"]) == (0.0, 0.5)
    assert (m["rule/delta"], m["rule/gained"], m["rule/lost"]) == (0.0, 0.0, 0.0)
    assert m["advantage/first"] == pytest.approx((-5 / 6 + 1 / 2) / 2, abs=1e-3)
    assert m["advantage/refined"] == pytest.approx((-5 / 6 + 7 / 6) / 2, abs=1e-3)
    assert b.failures == ["gone"] * 3


def test_what_refining_gains_and_loses_is_told_apart():
    """0 to 1, 1 to 0, 0 to 1, 1 to 1: delta 0.25, gained 0.5, lost 0.25."""
    first = tuple(answer(rule, 0) for rule in (0, 1, 0, 1))
    refined = tuple(answer(rule, 0) for rule in (1, 0, 1, 1))
    pools = [Pool(Problem("k", Task(question="q")), first, refined)]
    m = pool_metrics(pools, pools)
    assert (m["rule/delta"], m["rule/gained"], m["rule/lost"]) == (0.25, 0.5, 0.25)


def test_reagent_r_has_no_second_stage_in_its_metrics():
    pools = [Pool(Problem("k", Task(question="q")), (answer(0, 0), answer(1, 0)))]
    m = pool_metrics(pools, pools)
    assert m["rule/first"] == 0.5 and not {"rule/refined", "rule/delta", "advantage/first"} & m.keys()
