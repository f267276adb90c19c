"""Groups of rollouts as TRL's GRPO takes them: exact ids and masks of a row, and dynamic sampling of whole groups.

Input: the keys of prompts (each already repeated once a row of its group, as TRL gives them). Output: exact token ids,
log-probabilities and `env_mask` (1 on tokens that the policy sampled, 0 on everything else) and the reward of each row.
Groups whose rewards are all equal teach nothing: fresh prompts, up to a budget, are rolled out along with the step's
own and take the place of dead groups (nothing is copied); what is still dead after that is left out of the update.

How prompts become groups, and what is logged of them, is a recipe's own: see `train.rollout`.
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from agents.types import Turn
from tools.errors import ModelError, RolloutError
from train.engines import Policy
from train.rewards import is_live


class Row(NamedTuple):
    """One rollout as the trainer wants it (lengths: P, C, C, C)."""

    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    env_mask: list[int]


def row_of(turns: Sequence[Turn]) -> Row:
    """Return ids, log-probabilities and mask of a conversation.

    Args:
        turns: at least one.

    Raises:
        RolloutError: a turn has no ids, or its prompt does not extend the tokens held so far.
    """
    prompt, completion, logprobs, mask = [], [], [], []
    for i, turn in enumerate(turns):
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


class Keyed(Protocol):
    """A prompt: what a group is rolled out on."""

    @property
    def key(self) -> str:
        """Its name in TRL's data set."""
        ...


class Rolled(Protocol):
    """The rollouts that share a baseline, N rows."""

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One a row, (N,); None: not scorable."""
        ...

    @property
    def conversations(self) -> Sequence[Sequence[Turn]]:
        """The turns of each row, (N,); none where the policy wrote nothing."""
        ...

    @property
    def failures(self) -> Sequence[str]:
        """What went wrong in the infrastructure."""
        ...


PromptT = TypeVar("PromptT", bound=Keyed)
GroupT = TypeVar("GroupT", bound=Rolled)


class GroupRollouts(ABC, Generic[PromptT, GroupT]):
    """TRL's `rollout_func`: rolls out groups, and resamples the dead ones."""

    def __init__(
        self,
        prompts: Sequence[PromptT],
        policy: Policy,
        opens: Callable[[], AbstractAsyncContextManager[Any]],
        *,
        resample_budget: int,
        end_token: int,
        seed: int,
    ) -> None:
        """Make the function.

        Args:
            prompts: the pool; TRL's data set holds their keys, fresh ones are drawn from it too.
            policy: the model in training.
            opens: opens what the rollouts need (tools, a judge) inside the event loop of one call.
            resample_budget: fresh prompts tried for each dead group, at the most.
            end_token: id that stands for a silent row.
            seed: of the fresh prompts.
        """
        self.pool = {p.key: p for p in prompts}
        self.policy, self.opens = policy, opens
        self.resample_budget, self.end_token, self.seed = resample_budget, end_token, seed

    @abstractmethod
    async def roll(self, prompts: Sequence[PromptT], rows: int, opened: Any, step: int) -> list[GroupT]:
        """Roll out one group of `rows` rows for each prompt; `opened` is what `opens` gave."""

    @abstractmethod
    def metrics(self, groups: Sequence[GroupT], chosen: Sequence[GroupT]) -> dict[str, float]:
        """Return what a step logs of all groups made, and of those in the update."""

    def in_order(self, fresh: list[PromptT]) -> list[PromptT]:
        """Return shuffled fresh prompts in the order in which they are tried."""
        return fresh

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """Return `prompt_ids`, `completion_ids`, `logprobs`, `env_mask` and `reward`, one entry a row.

        Raises:
            ModelError: every rollout failed: there is an outage, and nothing to learn from.
        """
        started, rows = time.monotonic(), trainer.num_generations
        step = int(trainer.state.global_step)
        wanted = [self.pool[key] for key in prompts[::rows]]
        with self.policy.attached(trainer):
            groups, spent = asyncio.run(self._collect(wanted, rows, step, share_of(trainer)))
        self.policy.refresh()  # the weights are about to change, and training needs the memory
        chosen = choose_groups(groups, len(wanted))
        metrics = self.metrics(groups, chosen) | {
            "groups/resampled": float(spent),
            "time/rollout_s": time.monotonic() - started,
        }
        for name, value in metrics.items():
            trainer._log_metric(name, value)
        return self._rows(chosen)

    async def _collect(self, wanted: Sequence[PromptT], rows: int, step: int, share: slice) -> tuple[list[GroupT], int]:
        rng = random.Random(f"{self.seed}|{step}")
        fresh = [p for p in self.pool.values() if p not in wanted]
        rng.shuffle(fresh)
        fresh = self.in_order(fresh)[share]
        budget = min(self.resample_budget * len(wanted), len(fresh))
        async with self.opens() as opened:
            spent = min(budget, len(wanted))  # a wave of few conversations takes as long as one of many
            groups = await self.roll([*wanted, *fresh[:spent]], rows, opened, step)
            while (missing := len(wanted) - sum(is_live(g.rewards) for g in groups)) > 0 and spent < budget:
                more = fresh[spent : spent + min(missing, budget - spent)]
                groups += await self.roll(more, rows, opened, step)
                spent += len(more)
        if all(r is None for g in groups for r in g.rewards):
            raise ModelError(
                f"grpo: all rollouts of step {step} failed ({_first_failure(groups)}); run again to resume"
            )
        return groups, spent

    def _rows(self, groups: Sequence[GroupT]) -> dict[str, list[Any]]:
        rows: list[Row] = []
        for group in groups:
            teaches = is_live(group.rewards)
            for turns, reward in zip(group.conversations, group.rewards, strict=True):
                kept = teaches and reward is not None and turns
                rows.append(row_of(turns) if kept else silent_row(self.end_token))
        columns = {name: [list(getattr(row, name)) for row in rows] for name in Row._fields}
        return columns | {"reward": self.optimised(groups)}

    def optimised(self, groups: Sequence[GroupT]) -> list[float | None]:
        """Return what the trainer is given as rewards, one a row of the update."""
        return [reward for group in groups for reward in group.rewards]


def share_of(trainer: Any) -> slice:
    """Return which of the fresh prompts a process of several may take: no two take the same."""
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None:
        return slice(None)
    return slice(accelerator.process_index, None, accelerator.num_processes)


def choose_groups(groups: Sequence[GroupT], n: int) -> list[GroupT]:
    """Return `n` groups: the live ones first, in order, then dead ones where the budget ran out."""
    return sorted(groups, key=lambda g: not is_live(g.rewards))[:n]


def _first_failure(groups: Sequence[Rolled]) -> str:
    return next((told for group in groups for told in group.failures), "no error recorded")
