"""Reviews as rollouts: how a prompt becomes a group, on the graph of its role (answers are in `train/reagent.py`).

The policy is the graphs' chat model; `train.groups` makes TRL's rows of what it wrote, and resamples dead groups. What
other parties say (tools, a judge's critique) reaches the policy in its prompts alone: no token of it is trained on.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from agents.types import Trajectory, VerifierRole
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext, JudgeInput, transcript_for
from graphs.state import VerifierContext, VerifierInput
from graphs.verifier import build_verifier
from tools.base import Tool
from train.engines import Policy
from train.groups import GroupRollouts
from train.reviews import Group, Prompt, in_turn, rollout_metrics
from train.rewards import Reward

Opens = Callable[[], AbstractAsyncContextManager[dict[str, Tool]]]


class ReviewRollouts(GroupRollouts[Prompt, Group]):
    """AgentV-RL and Agent-RRM: a group is one review, `rows` times, on the graph of its role."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        policy: Policy,
        context: VerifierContext,
        open_tools: Opens,
        *,
        reward: Reward,
        **sampling: int,
    ) -> None:
        """Make the function.

        Args:
            prompts: the pool.
            policy: the model in training.
            context: limits and sampling of the graph; its chat and tools are filled in here.
            open_tools: opens the tools inside the event loop of one call.
            reward: of a trajectory, given the label.
            **sampling: `resample_budget`, `end_token`, `seed`: see `GroupRollouts`.
        """
        super().__init__(prompts, policy, open_tools, **sampling)
        self.context, self.reward = context, reward

    async def roll(self, prompts: Sequence[Prompt], rows: int, opened: Any, step: int) -> list[Group]:
        """Roll out reviews; `opened` are the tools."""
        context = self.context.model_copy(update={"chat": self.policy.chat, "tools": opened})
        work = (roll_out(p, f"{step}/{p.key}/{i}", context) for p in prompts for i in range(rows))
        rollouts = iter(await asyncio.gather(*work))
        groups = []
        for prompt in prompts:
            trajectories = tuple(next(rollouts) for _ in range(rows))
            groups.append(Group(prompt, trajectories, tuple(self.reward(t, prompt.label) for t in trajectories)))
        return groups

    def metrics(self, groups: Sequence[Group], chosen: Sequence[Group]) -> dict[str, float]:
        """See `rollout_metrics`."""
        return rollout_metrics(groups, chosen)

    def in_order(self, fresh: list[Prompt]) -> list[Prompt]:
        """See `in_turn`."""
        return in_turn(fresh)


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
