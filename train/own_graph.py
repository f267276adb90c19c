"""GRPO on a graph of one's own: `python -m train.grpo --graph module:build --reward module:fn --tasks jsonl:PATH`.

`build()` returns a compiled LangGraph graph. It is invoked with `{"problem": question}` and with a context that holds
`chat`, the policy as a LangChain chat model: nodes take it from there (`runtime.context.chat`, or `["chat"]` of a
TypedDict) and call `await chat.ainvoke(messages)`. `fn(task, state)`, plain or async, is given the task with its
reference answer and the graph's last state, and returns the reward, or None where there is nothing to reward.

Ids and masks are exact: a call whose messages go on from an earlier call's messages and reply continues that
conversation, token for token; any other call begins a new one. A graph may hold several conversations (two debaters,
say): `--conversations` says how many at the most, each is a row, and the rows of a problem's G rollouts share one
baseline. What others say, tools or the other debater, is prompt and never trained on.

What is refused, as the failure of that rollout: replies that the policy did not write (examples belong into the user's
message), and replies that were edited or branched from, since their tokens are not those that were sampled.

`python -m distill.own_graph` makes SFT data with the same graph and reward, run in the same way
(`train/graph_runs.py`).
"""

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from statistics import fmean
from typing import Any, NamedTuple

from agents.types import Turn
from tools.errors import ConfigError, RolloutError
from train.engines import Policy
from train.graph_runs import GraphReward, compiled, named, run_graph
from train.groups import GroupRollouts
from train.grpo import train_rollouts
from train.inputs import read_problems
from train.pools import Problem
from train.recipes import Job
from train.recorder import Recorder
from train.rewards import is_live


class Course(NamedTuple):
    """One rollout: its conversations, its reward (None: dropped), and the failure that dropped it."""

    conversations: tuple[tuple[Turn, ...], ...]
    reward: float | None
    failure: str = ""


class OwnGroup(NamedTuple):
    """The rollouts on a problem; each has `width` rows, those beyond its conversations are empty."""

    courses: tuple[Course, ...]
    width: int

    @property
    def conversations(self) -> list[tuple[Turn, ...]]:
        """The turns of each row."""
        return [turns for c in self.courses for turns in (*c.conversations, *[()] * self.width)[: self.width]]

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One a row; None where there is no conversation."""
        return tuple(c.reward if i < len(c.conversations) else None for c in self.courses for i in range(self.width))

    @property
    def failures(self) -> list[str]:
        """What went wrong in the infrastructure."""
        return [course.failure for course in self.courses if course.failure]


class OwnRollouts(GroupRollouts[Problem, OwnGroup]):
    """TRL's `rollout_func` over a graph of one's own."""

    def __init__(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        graph: Any,
        reward: GraphReward,
        *,
        limits: tuple[int, float],
        width: int = 1,
        **sampling: int,
    ) -> None:
        """Make the function.

        Args:
            problems: the pool.
            policy: the model in training.
            graph: compiled.
            reward: of a task and the graph's last state.
            limits: tokens of a reply, temperature.
            width: conversations of a rollout at the most; TRL's `num_generations` is G times as many.
            **sampling: `resample_budget`, `end_token`, `seed`: see `GroupRollouts`.
        """
        super().__init__(problems, policy, nullcontext, **sampling)
        self.graph, self.reward, self.limits, self.width = graph, reward, limits, width

    async def roll(self, prompts: Sequence[Problem], rows: int, opened: Any, step: int) -> list[OwnGroup]:
        """Roll out the graph."""
        size = rows // self.width
        names = [(p, f"{step}/{p.key}/{i}") for p in prompts for i in range(size)]
        made = await asyncio.gather(*(self._course(problem, name) for problem, name in names))
        return [OwnGroup(tuple(made[i : i + size]), self.width) for i in range(0, len(made), size)]

    async def _course(self, problem: Problem, name: str) -> Course:
        max_tokens, temperature = self.limits
        chat = Recorder(chat=self.policy.chat, session=name, max_tokens=max_tokens, temperature=temperature)
        try:
            reward = await run_graph(self.graph, self.reward, problem.task, chat)
        except RolloutError as error:
            return Course((), None, str(error))
        found = tuple(chat.conversations)
        if len(found) > self.width:
            raise ConfigError(f"the graph held {len(found)} conversations in one rollout; set --conversations")
        return Course(found, reward)

    def metrics(self, groups: Sequence[OwnGroup], chosen: Sequence[OwnGroup]) -> dict[str, float]:
        """Return what a step logs, over all rollouts made."""
        courses = [course for group in groups for course in group.courses]
        kept = [course for course in courses if course.reward is not None and course.conversations]
        return {
            "reward/mean": fmean(course.reward or 0.0 for course in kept),
            "groups/zero_variance": fmean(not is_live(group.rewards) for group in groups),
            "groups/live_in_update": fmean(is_live(group.rewards) for group in chosen),
            "rollouts/n": float(len(courses)),
            "rollouts/outages": float(sum(bool(course.failure) for course in courses)),
            "rollouts/conversations": fmean(len(course.conversations) for course in kept),
            "tokens/completion": fmean(sum(t.completion_tokens for c in k.conversations for t in c) for k in kept),
        }


def train_on_graph(args: Namespace, job: Job) -> dict[str, float]:
    """Train on the graph and the reward that the command line names.

    Raises:
        ConfigError: one of them is not there.
    """
    if not (args.reward and args.tasks):
        raise ConfigError("--graph needs --reward module:fn and --tasks jsonl:PATH")
    graph, reward, problems = compiled(args.graph), named(args.reward), read_problems(args)
    job.out.mkdir(parents=True, exist_ok=True)
    rows = job.settings.num_generations * args.conversations
    sized = job.settings.model_copy(update={"recipe": "agentv", "num_generations": rows})  # TRL's rows a group

    def make(policy: Policy, end_token: int) -> OwnRollouts:
        return OwnRollouts(
            problems,
            policy,
            graph,
            reward,
            limits=(sized.max_tokens, sized.temperature),
            width=args.conversations,
            end_token=end_token,
            **job.sampling,
        )

    return train_rollouts(make, len(problems), job._replace(settings=sized))
