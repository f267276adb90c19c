"""The pools of Reagent: G first answers to a problem and, in Reagent-U, G refined ones, with one baseline for all.

Rows stand side by side as TRL groups them: the first answers, then the refined ones in the same order (TRL's
`num_generations` is then 2G). An answer that an outage left without a reward is dropped from its pool, and counted.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from agents.types import ErrorInfo, Task, Turn
from train.advantages import pooled_advantages
from train.rewards import is_live, mixed_reward


class Problem(NamedTuple):
    """What a pool is rolled out on. The task's answer is for the rule reward only."""

    key: str
    task: Task


class Answer(NamedTuple):
    """One row: an answer of the policy, and what it is worth.

    `turns` are empty where the policy wrote nothing. `rule` is R_rule, `model` is R_model in [0, 1] (None: not asked,
    or no score), `reward` what is optimised (None: dropped). `error` is the outage: of the policy (`where` is "solve",
    "refine"), or of the judge ("judge", "review").
    """

    turns: tuple[Turn, ...]
    rule: float | None = None
    model: float | None = None
    reward: float | None = None
    error: ErrorInfo | None = None


class Pool(NamedTuple):
    """The answers that share a baseline: `first` (G,), `refined` (G,) or none (Reagent-R)."""

    problem: Problem
    first: tuple[Answer, ...]
    refined: tuple[Answer, ...] = ()

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All rows, (G,) or (2G,)."""
        return self.first + self.refined

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One a row."""
        return tuple(answer.reward for answer in self.answers)

    @property
    def conversations(self) -> list[tuple[Turn, ...]]:
        """The turns of each row."""
        return [answer.turns for answer in self.answers]

    @property
    def failures(self) -> list[str]:
        """What went wrong in the infrastructure."""
        return [answer.error.message for answer in self.answers if answer.error]


JUDGE = ("judge", "repair", "review")  # where an outage is the judge's


def valued(
    turns: tuple[Turn, ...], rule: float | None, model: float | None, weight: float, error: ErrorInfo | None
) -> Answer:
    """Return an answer with its reward: R_rule + λ·R_model, or none where an error says that a part is missing."""
    reward = mixed_reward(rule, model, weight)
    missing = weight > 0 and rule is not None and model is None
    if missing and error is None:
        error = ErrorInfo(kind="ModelError", message="the judge gave no score", where="judge")
    return Answer(turns, rule, model, reward, error if reward is None else None)


def pool_metrics(pools: Sequence[Pool], chosen: Sequence[Pool]) -> dict[str, float]:
    """Return what a step logs: over all answers made (those of dead and resampled pools too), advantages of the update.

    `rule/*` are accuracies; `rule/delta` is refined less first, over pairs that have both, `rule/gained` and
    `rule/lost` its parts: wrong to right, right to wrong.
    """
    made = [answer for pool in pools for answer in pool.answers]
    kept = [answer for answer in made if answer.reward is not None]
    written = [answer.turns[-1] for answer in made if answer.turns]
    lost = [answer.error for answer in made if answer.reward is None and answer.error]
    out = {
        "reward/mean": fmean(answer.reward or 0.0 for answer in kept),
        "groups/zero_variance": fmean(not is_live(pool.rewards) for pool in pools),
        "groups/live_in_update": fmean(is_live(pool.rewards) for pool in chosen),
        "pool/dropped": float(len(made) - len(kept)),
        "pool/dropped_by_judge": float(sum(error.where in JUDGE for error in lost)),
        "pool/too_small": float(sum(sum(r is not None for r in pool.rewards) < 2 for pool in pools)),
        "rollouts/n": float(len(made)),
        "rollouts/completed": fmean(turn.finish_reason != "length" for turn in written),
        "tokens/completion": fmean(sum(t.completion_tokens for t in a.turns) for a in made if a.turns),
    }
    for stage in ("first", "refined"):
        answers = [answer for pool in pools for answer in getattr(pool, stage)]
        out |= _means("reward", stage, [answer.reward for answer in answers])
        out |= _means("rule", stage, [answer.rule for answer in answers])
        out |= _means("judge", stage, [answer.model for answer in answers])
    return out | _change(pools) | _credit(chosen)


def _means(kind: str, stage: str, values: Sequence[float | None]) -> dict[str, float]:
    found = [value for value in values if value is not None]
    return {f"{kind}/{stage}": fmean(found)} if found else {}


def _change(pools: Sequence[Pool]) -> dict[str, float]:
    """Return what refining did to the pairs of which both answers could be graded."""
    pairs = [(a.rule, b.rule) for pool in pools if pool.refined for a, b in zip(pool.first, pool.refined, strict=True)]
    steps = [after - before for before, after in pairs if before is not None and after is not None]
    if not steps:
        return {}
    return {
        "rule/delta": fmean(steps),
        "rule/gained": fmean(step > 0 for step in steps),
        "rule/lost": fmean(step < 0 for step in steps),
    }


def _credit(chosen: Sequence[Pool]) -> dict[str, float]:
    """Return the mean advantage by stage: below 0 for first answers where refined ones are better."""
    by_stage: dict[str, list[float | None]] = {"first": [], "refined": []}
    for pool in chosen:
        if pool.refined and is_live(pool.rewards):
            advantages = pooled_advantages(pool.rewards)
            by_stage["first"] += advantages[: len(pool.first)]
            by_stage["refined"] += advantages[len(pool.first) :]
    return _means("advantage", "first", by_stage["first"]) | _means("advantage", "refined", by_stage["refined"])
