"""Rewards of recipes: from a trajectory and its label to a number, or None where an outage leaves nothing to reward."""

from collections.abc import Callable, Sequence

from agents.types import StopReason, Trajectory

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


def is_live(rewards_G: Sequence[float | None]) -> bool:
    """Whether a group teaches anything: at least two different rewards among the rows that have one (DAPO).

    Decided on the whole group: a single success or a single failure is kept.
    """
    return len({r for r in rewards_G if r is not None}) > 1
