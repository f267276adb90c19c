"""Rewards of recipes: from what a rollout wrote to a number, or None where an outage leaves nothing to reward."""

from collections.abc import Callable, Sequence

from agents.protocol import strip_thoughts
from agents.types import StopReason, Task, Trajectory, Turn

Reward = Callable[[Trajectory, bool], float | None]


def verdict_reward(trajectory: Trajectory, label: bool) -> float | None:
    """+1 where the verdict equals the label, -1 otherwise (AgentV-RL, section on GRPO).

    No verdict (cut off, unparsed, out of turns) is the policy's own doing: -1. A failure of the infrastructure is not:
    None, so that the row carries no gradient.
    """
    if trajectory.stop_reason is StopReason.ERROR:
        return None
    return 1.0 if trajectory.verdict is not None and trajectory.verdict.passed == label else -1.0


REWARDS: dict[str, Reward] = {"verdict": verdict_reward}


def final_text(turns: Sequence[Turn]) -> str:
    """Return the solution that a conversation ends with, without thoughts; empty where the last reply was cut."""
    last = turns[-1] if turns else None
    return "" if last is None or last.finish_reason == "length" else strip_thoughts(last.content).strip()


def rule_reward(task: Task, turns: Sequence[Turn]) -> float | None:
    """R_rule: 1 where the final answer equals the reference by the rules of the task's kind, else 0.

    No answer (none given, cut off) is the policy's own doing: 0. None: the task has no reference to go by. Equality is
    that of `eval.checkers`, never containment. May take seconds: not for an event loop.
    """
    from eval.checkers import grade

    correct = grade(task, final_text(turns)).correct
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
