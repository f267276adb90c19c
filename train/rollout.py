"""The graphs as rollouts: TRL's `rollout_func` over the graph of each prompt's role, with the policy as its chat model.

Input: the keys of prompts (each already repeated `num_generations` times, as TRL gives them). Output: exact token ids,
log-probabilities and `env_mask` (1 on tokens that the policy sampled, 0 on everything else) and the reward of each row.
Groups whose rewards are all equal teach nothing: fresh prompts, up to a budget, are rolled out along with the step's
own and take the place of dead groups (nothing is copied); what is still dead after that is left out of the update.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import zip_longest
from statistics import fmean
from typing import Any, NamedTuple, cast

from agents.types import EVERY_ROLE, Role, StopReason, Trajectory, Turn, VerifierRole
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext, JudgeInput, transcript_for
from graphs.state import VerifierContext, VerifierInput
from graphs.verifier import build_verifier
from tools.base import Tool
from tools.errors import ModelError, RolloutError
from train.engines import Policy
from train.rewards import Reward, is_live


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


class Row(NamedTuple):
    """One rollout as the trainer wants it (lengths: P, C, C, C)."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    env_mask: list[int]


class Group(NamedTuple):
    """The rollouts that share a baseline."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...]
    rewards: tuple[float | None, ...]


def to_row(trajectory: Trajectory) -> Row:
    """Return ids, log-probabilities and mask of a trajectory.

    Raises:
        RolloutError: a turn has no ids, or its prompt does not extend the tokens held so far.
    """
    prompt, completion, logprobs, mask = [], [], [], []
    for i, turn in enumerate(trajectory.turns):
        if turn.prompt_ids is None or turn.completion_ids is None or turn.logprobs is None:
            raise RolloutError(f"turn {i} ({turn.stage}) has no token ids: the chat model must return them")
        if i == 0:
            prompt = list(turn.prompt_ids)
        held = len(prompt) + len(completion)
        if list(turn.prompt_ids[:held]) != prompt + completion:
            raise RolloutError(f"turn {i} ({turn.stage}): its prompt does not extend the {held} tokens held so far")
        new = list(turn.prompt_ids[held:])
        completion += new + list(turn.completion_ids)
        logprobs += [0.0] * len(new) + list(turn.logprobs)
        mask += [0] * len(new) + [1] * len(turn.completion_ids)
    return Row(prompt, completion, logprobs, mask)


def silent_row(end_token: int) -> Row:
    """Return a row that carries no gradient: one masked token."""
    return Row([end_token], [end_token], [0.0], [0])


class VerifierRollouts:
    """TRL's `rollout_func`: rolls out groups on the verifier graph, and resamples the dead ones."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        policy: Policy,
        context: VerifierContext,
        open_tools: Callable[[], AbstractAsyncContextManager[dict[str, Tool]]],
        *,
        reward: Reward,
        resample_budget: int,
        end_token: int,
        seed: int,
    ) -> None:
        """Make the function.

        Args:
            prompts: the pool; TRL's data set holds their keys, fresh ones are drawn from it too.
            policy: the model in training.
            context: limits and sampling of the graph; its chat and tools are filled in here.
            open_tools: opens the tools inside the event loop of one call.
            reward: of a trajectory, given the label.
            resample_budget: fresh prompts tried for each dead group, at the most.
            end_token: id that stands for a silent row.
            seed: of the fresh prompts.
        """
        self.pool = {p.key: p for p in prompts}
        self.policy, self.context, self.open_tools, self.reward = policy, context, open_tools, reward
        self.resample_budget, self.end_token, self.seed = resample_budget, end_token, seed

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """Return `prompt_ids`, `completion_ids`, `logprobs`, `env_mask` and `reward`, one entry a row.

        Raises:
            ModelError: every rollout failed: there is an outage, and nothing to learn from.
        """
        started, size = time.monotonic(), trainer.num_generations
        step = int(trainer.state.global_step)
        wanted = [self.pool[key] for key in prompts[::size]]
        with self.policy.attached(trainer):
            groups, spent = asyncio.run(self._collect(wanted, size, step, share_of(trainer)))
        self.policy.refresh()  # the weights are about to change, and training needs the memory
        chosen = choose_groups(groups, len(wanted))
        metrics = rollout_metrics(groups, chosen) | {
            "groups/resampled": float(spent),
            "time/rollout_s": time.monotonic() - started,
        }
        for name, value in metrics.items():
            trainer._log_metric(name, value)
        return self._rows(chosen)

    async def _collect(self, wanted: Sequence[Prompt], size: int, step: int, share: slice) -> tuple[list[Group], int]:
        rng = random.Random(f"{self.seed}|{step}")
        fresh = [p for p in self.pool.values() if p not in wanted]
        rng.shuffle(fresh)
        fresh = in_turn(fresh)[share]
        budget = min(self.resample_budget * len(wanted), len(fresh))
        async with self.open_tools() as tools:
            context = self.context.model_copy(update={"chat": self.policy.chat, "tools": tools})
            spent = min(budget, len(wanted))  # a wave of few conversations takes as long as one of many
            groups = await self._roll([*wanted, *fresh[:spent]], size, context, step)
            while (missing := len(wanted) - sum(is_live(g.rewards) for g in groups)) > 0 and spent < budget:
                more = fresh[spent : spent + min(missing, budget - spent)]
                groups += await self._roll(more, size, context, step)
                spent += len(more)
        if all(r is None for g in groups for r in g.rewards):
            raise ModelError(f"grpo: all rollouts of step {step} failed ({_first_error(groups)}); run again to resume")
        return groups, spent

    async def _roll(self, prompts: Sequence[Prompt], size: int, context: VerifierContext, step: int) -> list[Group]:
        work = (roll_out(p, f"{step}/{p.key}/{i}", context) for p in prompts for i in range(size))
        rollouts = iter(await asyncio.gather(*work))
        groups = []
        for prompt in prompts:
            trajectories = tuple(next(rollouts) for _ in range(size))
            groups.append(Group(prompt, trajectories, tuple(self.reward(t, prompt.label) for t in trajectories)))
        return groups

    def _rows(self, groups: Sequence[Group]) -> dict[str, list[Any]]:
        rows: list[Row] = []
        for group in groups:
            teaches = is_live(group.rewards)
            for trajectory, reward in zip(group.trajectories, group.rewards, strict=True):
                rows.append(to_row(trajectory) if teaches and reward is not None else silent_row(self.end_token))
        columns = {name: [list(getattr(row, name)) for row in rows] for name in Row._fields}
        return columns | {"reward": [r for g in groups for r in g.rewards]}


async def roll_out(prompt: Prompt, name: str, context: VerifierContext) -> Trajectory:
    """Run the graph of a prompt's role once; `name` is the rollout's own."""
    if prompt.role == "judge":
        asked = JudgeInput(problem=prompt.problem, trajectory_id=name, solution=prompt.solution)
        if prompt.turns:
            asked["turns"] = prompt.turns
        return (await build_judge().ainvoke(asked, context=judging(context)))["trajectory"]
    role = cast(VerifierRole, prompt.role)
    given = VerifierInput(problem=prompt.problem, solution=prompt.solution, role=role, trajectory_id=name)
    return (await build_verifier().ainvoke(given, context=context))["trajectory"]


def judging(context: VerifierContext) -> JudgeContext:
    """Return the settings of a judge within a verifier's limits."""
    return JudgeContext(
        model=context.model,
        base_url=context.base_url,
        temperature=context.temperature,
        max_tokens=context.max_tokens,
        max_trajectory_tokens=context.max_trajectory_tokens,
        max_transcript=transcript_for(context.max_trajectory_tokens),
        max_seconds=context.max_seconds,
        style=context.style,
        chat=context.chat,
    )


def share_of(trainer: Any) -> slice:
    """Return which of the fresh prompts a process of several may take: no two take the same."""
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None:
        return slice(None)
    return slice(accelerator.process_index, None, accelerator.num_processes)


def in_turn(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with roles and labels taking turns, as long as each has any; else in their order.

    A step holds few prompts: one that happens to hold one label only would teach to say that always.
    """
    kinds: dict[tuple[str, bool], list[Prompt]] = {}
    for prompt in prompts:
        kinds.setdefault((prompt.role, prompt.label), []).append(prompt)
    rounds = zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    return [prompt for row in rounds for prompt in row if prompt is not None]


def choose_groups(groups: Sequence[Group], n: int) -> list[Group]:
    """Return `n` groups: the live ones first, in order, then dead ones where the budget ran out."""
    return sorted(groups, key=lambda g: not is_live(g.rewards))[:n]


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


def _first_error(groups: Sequence[Group]) -> str:
    errors = [t.error.message for g in groups for t in g.trajectories if t.error]
    return errors[0] if errors else "no error recorded"
