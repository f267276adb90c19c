"""Groups of reviews: what verifiers and judges in training are given, what came of it, and what a step logs of it.

Input: prompts (a problem with a solution or a trajectory, a role, a label). Output: groups with their rewards, and
metrics over all rollouts made.
"""

from collections.abc import Sequence
from itertools import zip_longest
from statistics import fmean
from typing import NamedTuple

from agents.types import EVERY_ROLE, Role, StopReason, Trajectory, Turn
from train.rewards import is_live


class Prompt(NamedTuple):
    """What one group is rolled out on. `label` is for the reward only.

    `turns` are what a judge judges; without any, and for a verifier, it is the solution.
    """

    key: str
    problem: str
    solution: str
    role: Role
    label: bool
    turns: tuple[Turn, ...] = ()


class Group(NamedTuple):
    """The rollouts that share a baseline."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[float | None, ...]

    @property
    def conversations(self) -> list[tuple[Turn, ...]]:
        """The turns of each row."""
        return [t.turns for t in self.trajectories]

    @property
    def failures(self) -> list[str]:
        """What went wrong in the infrastructure."""
        return [t.error.message for t in self.trajectories if t.error]


def in_turn(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with roles and labels taking turns, as long as each has any; else in their order.

    A step holds few prompts: one that happens to hold one label only would teach to say that always.
    """
    kinds: dict[tuple[str, bool], list[Prompt]] = {}
    for prompt in prompts:
        kinds.setdefault((prompt.role, prompt.label), []).append(prompt)
    rounds = zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return [prompt for row in rounds for prompt in row if prompt is not None]


def rollout_metrics(groups: Sequence[Group], chosen: Sequence[Group]) -> dict[str, float]:
    """Return what a step logs: over all rollouts made, those of dead and resampled groups too."""
    made = [(g.prompt, t, r) for g in groups for t, r in zip(g.trajectories, g.rewards, strict=True)]
    scored = [(p, t, r) for p, t, r in made if r is not None]
    out = {
        "reward/mean": fmean(r for _, _, r in scored),
        "groups/zero_variance": fmean(not is_live(g.rewards) for g in groups),
        "groups/live_in_update": fmean(is_live(g.rewards) for g in chosen),
        "rollouts/n": float(len(made)),
        "rollouts/outages": float(len(made) - len(scored)),
        "rollouts/completed": fmean(t.stop_reason is StopReason.COMPLETED for _, t, _ in scored),
        "tokens/completion": fmean(t.completion_tokens for _, t, _ in scored),
        "tools/calls": fmean(t.tool_calls for _, t, _ in scored),
    }
    out |= _rates([(p.label, _is_right(p, t, r)) for p, t, r in scored], "")
    given = [t.verdict.passed for _, t, _ in scored if t.verdict is not None]
    if given:
        out["verdict/base_rate"] = fmean(given)
    for role in EVERY_ROLE:
        if rewards := [r for p, _, r in scored if p.role == role]:
            out[f"reward/{role}"] = fmean(rewards)
            out |= _rates([(p.label, _is_right(p, t, r)) for p, t, r in scored if p.role == role], f"/{role}")
    out |= _judged([(p.label, t) for p, t, _ in scored if p.role == "judge"])
    return out


def _is_right(prompt: Prompt, trajectory: Trajectory, reward: float) -> bool:
    """Whether a rollout's verdict is the label: a verifier's reward says so, a judge's is graded."""
    if prompt.role != "judge":
        return reward > 0
    return trajectory.verdict is not None and trajectory.verdict.passed is prompt.label


def _judged(found: Sequence[tuple[bool, Trajectory]]) -> dict[str, float]:
    """Return the mean score, its Brier loss and the share of repaired replies of (label, judge's trajectory) pairs."""
    scored = [(label, t.verdict.confidence) for label, t in found if t.verdict is not None]
    if not scored:
        return {}
    return {
        "judge/score": fmean(score for _, score in scored),
        "judge/brier": fmean((score - label) ** 2 for label, score in scored),
        "judge/repaired": fmean(len(t.turns) > 1 for _, t in found),
    }


def _rates(found: Sequence[tuple[bool, bool]], suffix: str) -> dict[str, float]:
    """Return TPR, TNR and their mean of (label, verdict right) pairs; nothing where one of the labels is missing."""
    right = {label: [hit for of, hit in found if of is label] for label in (True, False)}
    if not all(right.values()):
        return {}
    tpr, tnr = fmean(right[True]), fmean(right[False])
    rates = {"tpr": tpr, "tnr": tnr, "balanced_accuracy": (tpr + tnr) / 2}
    return {f"verdict/{name}{suffix}": value for name, value in rates.items()}
