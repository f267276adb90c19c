"""Rewards of recipes: from what a rollout wrote to a number, or None where an outage leaves nothing to reward.

The judge's reward (recipe `rrm`) is our choice: the sources of Agent-RRM do not give theirs. It is a form of the Brier
score, which is proper: let the judge believe that the outcome o is right (1) with probability p and wrong (0) else. The
expected reward of a score s is p (1 - (s - 1)²) + (1 - p) (1 - s²) = 1 - p (1 - p) - (s - p)², which is greatest at
s = p and nowhere else, so that honest scores pay best; a reward of ±1 for the right side of 1/2 would pay for 0 and 1
only. What the form is worth does not depend on the score, so the sum stays proper.

It stays so only if advantages keep the sizes of rewards: dividing each group by its own standard deviation makes every
group of two scores ±1, so that the higher one is pushed wherever p > 1/2, and scores end at 0 and 1. Recipe `rrm`
therefore divides by the deviation of the whole batch (`train.recipes`), also in a mixture (`train.mixed`).
"""

from collections.abc import Callable, Sequence

from agents.final_answer import answer_stated, as_solution
from agents.judgements import is_in_form
from agents.plain_roles import ACT
from agents.transcript import final_text
from agents.types import Role, StopReason, Task, Trajectory, Turn

Reward = Callable[[Trajectory, bool], float | None]

FORM = 0.2  # what a reply in the right form is worth beside the score's 1


def verdict_reward(trajectory: Trajectory, label: bool) -> float | None:
    """+1 where the verdict equals the label, -1 otherwise (AgentV-RL, section on GRPO).

    No verdict (cut off, unparsed, out of turns) is the policy's own doing: -1. A failure of the infrastructure is not:
    None, so that the row carries no gradient.
    """
    if trajectory.stop_reason is StopReason.ERROR:
        return None
    return 1.0 if trajectory.verdict is not None and trajectory.verdict.passed == label else -1.0


def brier_reward(score: float, outcome: bool) -> float:
    """Return 1 - (score - outcome)², in [0, 1]: a strictly proper scoring rule."""
    return 1.0 - (score - float(outcome)) ** 2


def judge_reward(trajectory: Trajectory, label: bool) -> float | None:
    """Brier reward of the score on the outcome, and `FORM` where the first reply is in the right form: in [0, 1.2].

    A reply that holds no judgement (malformed, cut off) is the policy's own doing: 0, at most what any judgement gets.
    A judge that failed (an outage) is no reward: None, so that the row carries no gradient.
    """
    if trajectory.stop_reason is StopReason.ERROR:
        return None
    if trajectory.verdict is None or trajectory.verdict.score is None:
        return 0.0
    in_form = len(trajectory.turns) == 1 and is_in_form(trajectory.turns[0].content)
    return brier_reward(trajectory.verdict.score, label) + FORM * in_form


def model_reward(judged: Trajectory) -> float | None:
    """Return what a judge's trajectory is worth to the agent that it judges: the score (R_model of Reagent-R and -U).

    None where the judge failed in any way, an outage or a reply without a judgement: that says nothing of the agent.
    """
    return judged.verdict.score if judged.verdict is not None else None


REWARDS: dict[Role, Reward] = {  # of what is reviewed; answers are worth `mixed_reward`
    "forward_verifier": verdict_reward,
    "backward_verifier": verdict_reward,
    "judge": judge_reward,
}


def reward_by_role(trajectory: Trajectory, label: bool) -> float | None:
    """Reward each role by its own rule, so that recipes can be mixed."""
    return REWARDS[trajectory.role](trajectory, label)


def final_answer_text(turns: Sequence[Turn]) -> str:
    """Return the solution that a conversation ends with, without thoughts.

    Of an agent's it is the answer alone, as graph and evaluation read it: what stands beside the tag counts for
    nothing. Empty where the last reply was cut, and where an agent's ends without an answer.
    """
    if not turns or turns[-1].finish_reason == "length":
        return ""
    if turns[-1].stage != ACT:
        return final_text(turns)
    return as_solution(answer_stated(turns))


def rule_reward(task: Task, turns: Sequence[Turn]) -> float | None:
    """R_rule: 1 where the final answer equals the reference by the rules of the task's kind, else 0.

    No answer (none given, cut off) is the policy's own doing: 0. None: the task has no reference to go by. Equality is
    that of `eval.checkers`, never containment. May take seconds: not for an event loop.
    """
    from eval.checkers import grade

    correct = grade(task, final_answer_text(turns)).correct
    return None if correct is None else float(correct)


def mixed_reward(rule: float | None, model: float | None, weight: float) -> float | None:
    """R = R_rule + λ·R_model (Reagent, section "Three Integration Variants"; λ = 0.3 in its released training script).

    Args:
        rule: R_rule; None: there is none.
        model: R_model, the judge's score in [0, 1]; None: the judge failed, or gave none.
        weight: λ; at 0 the judge has no part in it.

    Returns:
        None where a part is missing that counts: a judge's failure is not a score of 0.
    """
    if rule is None or not weight:
        return rule
    return None if model is None else rule + weight * model


def is_live(rewards_G: Sequence[float | None]) -> bool:
    """Whether a group teaches anything: at least two different rewards among the rows that have one (DAPO).

    Decided on the whole group: a single success or a single failure is kept.
    """
    return len({r for r in rewards_G if r is not None}) > 1
