"""The graphs as rollouts: how a prompt becomes a group, on the graph of its role or on the refinement graph (Reagent).

The policy is the graphs' chat model; `train.groups` makes TRL's rows of what it wrote, and resamples dead groups. What
other parties say (tools, a judge's critique) reaches the policy in its prompts alone: no token of it is trained on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

from agents.types import ErrorInfo, Round, Trajectory, VerifierRole
from graphs import critics
from graphs.judge import build_judge, failure_of
from graphs.judge_state import JudgeContext, JudgeInput, transcript_for
from graphs.refine import build_refine
from graphs.refine_state import Attempt, Critic, Critique, RefineContext, RefineInput
from graphs.state import VerifierContext, VerifierInput
from graphs.verifier import build_verifier
from tools.base import Tool
from train.engines import Policy
from train.groups import GroupRollouts
from train.pools import Answer, Pool, Problem, pool_metrics, valued
from train.reviews import Group, Prompt, in_turn, rollout_metrics
from train.rewards import Reward, model_reward, rule_reward
from train.settings import GrpoConfig, JudgeConfig

Opens = Callable[[], AbstractAsyncContextManager[dict[str, Tool]]]
OpensJudge = Callable[[], AbstractAsyncContextManager[Critic]]


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


class ReagentRollouts(GroupRollouts[Problem, Pool]):
    """Reagent-R and Reagent-U: answers of the policy to a problem, on the refinement graph with the judge as critic.

    Reagent-U: half of the rows are first answers, each is critiqued by the judge, and the other half are the answers
    that the policy writes when it is shown problem, first answer and critique. Every answer has its own conversation,
    so the critique stands in the prompt of the refined one. Reagent-R: first answers only. All of a problem's rows are
    one pool; a reward is R_rule + λ·R_model.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        context: RefineContext,
        open_judge: OpensJudge,
        *,
        refines: bool,
        weight: float,
        **sampling: int,
    ) -> None:
        """Make the function.

        Args:
            problems: the pool, each with a reference answer.
            policy: the model in training: it solves and refines.
            context: limits and sampling of the graph; the live parts are filled in here.
            open_judge: opens the judge inside the event loop of one call; at λ = 0 Reagent-R does not ask it.
            refines: Reagent-U; else Reagent-R.
            weight: λ.
            **sampling: `resample_budget`, `end_token`, `seed`: see `GroupRollouts`.
        """
        super().__init__(problems, policy, open_judge, **sampling)
        self.context, self.refines, self.weight = context, refines, weight

    async def roll(self, prompts: Sequence[Problem], rows: int, opened: Any, step: int) -> list[Pool]:
        """Roll out pools; `opened` is the judge."""
        size = rows // 2 if self.refines else rows
        work = (self._course(p, opened, f"{step}/{p.key}/{i}") for p in prompts for i in range(size))
        made = iter(await asyncio.gather(*work))
        pools = []
        for problem in prompts:
            courses = [next(made) for _ in range(size)]
            refined = tuple(course[1] for course in courses) if self.refines else ()
            pools.append(Pool(problem, tuple(course[0] for course in courses), refined))
        return pools

    def metrics(self, groups: Sequence[Pool], chosen: Sequence[Pool]) -> dict[str, float]:
        """See `pool_metrics`."""
        return pool_metrics(groups, chosen)

    async def _course(self, problem: Problem, judge: Critic, name: str) -> tuple[Answer, ...]:
        """Return a first answer and, in Reagent-U, the refined one."""
        live = {"solver": self.policy.chat, "refiner": self.policy.chat, "critique": judge}
        context = self.context.model_copy(update=live | {"rounds": int(self.refines)})
        given = RefineInput(problem=problem.task.question, trajectory_id=name)
        rounds: list[Round] = (await build_refine().ainvoke(given, context=context))["rounds"]
        first = await self._answer(problem, judge, rounds[0], name)
        if not self.refines:
            return (first,)
        if rounds[1:]:
            return first, await self._answer(problem, judge, rounds[1], name)
        return first, Answer((), error=rounds[0].error or first.error or _unjudged(rounds[0].reviews))

    async def _answer(self, problem: Problem, judge: Critic, found: Round, name: str) -> Answer:
        """Return the answer of a round with its rewards; the judge is asked where the graph has not done so."""
        if found.made is None:
            return Answer((), error=found.error or _unwritten(found))
        turns, said = (found.made,), Critique(accepted=None, reviews=found.reviews, error=found.error)
        rule = await asyncio.to_thread(rule_reward, problem.task, turns)
        if self.weight and not said.reviews and said.error is None:
            attempt = Attempt(problem.task.question, found.solution, found.made, f"{name}:{found.index}")
            said = await judge(attempt, self.context)
        score = model_reward(said.reviews[-1]) if said.reviews else None
        return valued(turns, rule, score, self.weight, said.error or _unjudged(said.reviews))


def _unwritten(found: Round) -> ErrorInfo:
    """Return why the policy wrote nothing: there is no token to train on, so the row is dropped."""
    where = "refine" if found.index else "solve"
    return ErrorInfo(kind="ModelError", message="no reply within the time of a turn, or the context", where=where)


def _unjudged(reviews: Sequence[Trajectory]) -> ErrorInfo | None:
    """Return why the judge came to no judgement; None where it did, or was not asked."""
    return failure_of(reviews[-1]) if reviews else None


def answer_context(settings: GrpoConfig, style: str) -> RefineContext:
    """Return limits and sampling of the policy as solver and as refiner: the same for both."""
    return RefineContext.model_validate(
        {
            "style": style,
            "solver_temperature": settings.temperature,
            "solver_max_tokens": settings.max_tokens,
            "refiner_temperature": settings.temperature,
            "refiner_max_tokens": settings.max_tokens,
        }
    )


@asynccontextmanager
async def open_judge(settings: JudgeConfig) -> AsyncIterator[Critic]:
    """Open the judge's graph as the critic of answers, with settings of its own; so many answers at once.

    Whatever its score, no answer is left alone: each first answer is refined.

    Raises:
        ConfigError: the settings name no model that can be opened.
    """
    from agents.models import open_chat  # openai is heavy

    own = RefineContext(
        critic="judge",
        judge=open_chat(settings.model, settings.base_url),
        judge_accepts=1.0,
        judge_style=settings.style,
        judge_temperature=settings.temperature,
        judge_max_tokens=settings.max_tokens,
        max_trajectory_tokens=settings.max_trajectory_tokens,
        max_transcript=settings.max_transcript,
        max_seconds=settings.max_seconds,
    )
    gate = asyncio.Semaphore(settings.concurrency)

    async def judge(attempt: Attempt, context: RefineContext) -> Critique:
        async with gate:
            return await critics.judge(attempt, own)

    yield judge
