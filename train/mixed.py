"""Several recipes of GRPO in one training (`grpo.recipe=agentv:2,rrm:1,…`): one policy learns several roles.

A group is of one recipe: its prompts, graph and rewards are that recipe's own. Groups take turns by their shares; all
have as many rows (2G where Reagent-U takes part), and a fresh group in the place of a dead one may be of any recipe.

Advantages are those that each recipe would have alone: TRL centres every group and divides by nothing, so rewards are
divided here, by the deviation of their group or, for recipes whose rewards must keep their sizes (`Recipe.scale`), by
that of all the recipe's rows in the update (of this process, where there are several).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

from agents.types import Turn
from train.advantages import EPSILON
from train.engines import Policy
from train.groups import GroupRollouts, Keyed, Rolled
from train.rewards import is_live
from train.settings import RecipeName

Scale = Literal["group", "batch", "none"]


class MixedPrompt(NamedTuple):
    """A prompt and the recipe that it is of."""

    recipe: RecipeName
    prompt: Keyed

    @property
    def key(self) -> str:
        """Its name in TRL's data set: recipes may roll out on the same problem."""
        return f"{self.recipe}/{self.prompt.key}"


class MixedGroup(NamedTuple):
    """A group and the recipe that it is of."""

    recipe: RecipeName
    group: Rolled

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One a row, as the recipe gives them."""
        return self.group.rewards

    @property
    def conversations(self) -> Sequence[Sequence[Turn]]:
        """The turns of each row."""
        return self.group.conversations

    @property
    def failures(self) -> Sequence[str]:
        """What went wrong in the infrastructure."""
        return self.group.failures


class MixedRollouts(GroupRollouts[MixedPrompt, MixedGroup]):
    """TRL's `rollout_func` over the rollouts of several recipes."""

    def __init__(
        self,
        prompts: Sequence[MixedPrompt],
        policy: Policy,
        parts: Mapping[RecipeName, GroupRollouts[Any, Any]],
        *,
        shares: Mapping[RecipeName, float],
        scales: Mapping[RecipeName, Scale],
        **sampling: int,
    ) -> None:
        """Make the function.

        Args:
            prompts: the pool, of all recipes.
            policy: the model in training.
            parts: the rollouts of each recipe.
            shares: of the groups, by recipe.
            scales: by the deviation of what each recipe's rewards are divided.
            **sampling: `resample_budget`, `end_token`, `seed`: see `GroupRollouts`.
        """
        super().__init__(prompts, policy, self._open, **sampling)
        self.parts, self.shares, self.scales = parts, shares, scales

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[dict[RecipeName, Any]]:
        async with AsyncExitStack() as stack:
            opened: dict[RecipeName, Any] = {}
            for name, part in self.parts.items():
                opened[name] = await stack.enter_async_context(part.opens())
            yield opened

    async def roll(self, prompts: Sequence[MixedPrompt], rows: int, opened: Any, step: int) -> list[MixedGroup]:
        """Roll out the groups of all recipes side by side; `opened` holds what each has opened."""
        names: list[RecipeName] = [name for name in self.parts if any(p.recipe == name for p in prompts)]
        own = {name: [p.prompt for p in prompts if p.recipe == name] for name in names}
        made = await asyncio.gather(*(self.parts[n].roll(own[n], rows, opened[n], step) for n in names))
        found = {name: iter(groups) for name, groups in zip(names, made, strict=True)}
        return [MixedGroup(p.recipe, next(found[p.recipe])) for p in prompts]

    def metrics(self, groups: Sequence[MixedGroup], chosen: Sequence[MixedGroup]) -> dict[str, float]:
        """Return what a step logs: each recipe's own metrics under its name, and what all have in common."""
        made = [reward for group in groups for reward in group.rewards]
        kept = [reward for reward in made if reward is not None]
        out = {
            "reward/mean": fmean(kept),
            "groups/zero_variance": fmean(not is_live(group.rewards) for group in groups),
            "groups/live_in_update": fmean(is_live(group.rewards) for group in chosen),
            "rollouts/n": float(len(made)),
            "rollouts/dropped": float(len(made) - len(kept)),
        }
        for name, part in self.parts.items():
            own, taken = ([g.group for g in some if g.recipe == name] for some in (groups, chosen))
            out[f"{name}/groups_in_update"] = float(len(taken))
            if any(reward is not None for group in own for reward in group.rewards):
                out |= {f"{name}/{key}": value for key, value in part.metrics(own, taken or own).items()}
        return out

    def in_order(self, fresh: list[MixedPrompt]) -> list[MixedPrompt]:
        """Order each recipe's prompts as it does alone, and let the recipes take turns."""
        ordered: dict[RecipeName, list[MixedPrompt]] = {
            name: [MixedPrompt(name, p) for p in part.in_order([m.prompt for m in fresh if m.recipe == name])]
            for name, part in self.parts.items()
        }
        return taking_turns(ordered, self.shares)

    def optimised(self, groups: Sequence[MixedGroup]) -> list[float | None]:
        """Return the rewards divided, so that centring them gives each recipe's advantages."""
        of_recipe = {name: deviation([r for g in groups if g.recipe == name for r in g.rewards]) for name in self.parts}
        out: list[float | None] = []
        for group in groups:
            scale = self.scales[group.recipe]
            by = {"group": deviation(group.rewards), "batch": of_recipe[group.recipe], "none": 1.0}[scale]
            out += [None if reward is None else reward / by for reward in group.rewards]
        return out


def deviation(rewards: Sequence[float | None]) -> float:
    """Return the standard deviation (n - 1) with TRL's epsilon; 1 where no two rewards differ.

    Rewards that are all equal have no advantages, whatever divides them; divided by epsilon they would be logged 10,000
    times as large.
    """
    kept = [reward for reward in rewards if reward is not None]
    return stdev(kept) + EPSILON if len(set(kept)) > 1 else 1.0


def taking_turns(
    prompts: Mapping[RecipeName, Sequence[MixedPrompt]], shares: Mapping[RecipeName, float]
) -> list[MixedPrompt]:
    """Return the prompts, recipes by their shares all along until one of them has none left.

    Args:
        prompts: by recipe, each in its order.
        shares: of the recipes; they need not add up to 1.
    """
    queues: dict[RecipeName, list[MixedPrompt]] = {
        name: list(own) for name, own in prompts.items() if own and shares.get(name, 0) > 0
    }
    total = sum(shares[name] for name in queues)
    out: list[MixedPrompt] = []
    taken: dict[RecipeName, int] = dict.fromkeys(queues, 0)
    while queues:
        name = max(queues, key=lambda n: shares[n] / total * (len(out) + 1) - taken[n])
        if taken[name] == len(queues[name]):
            break
        out.append(queues[name][taken[name]])
        taken[name] += 1
    return out
