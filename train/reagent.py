"""Answers as rollouts (Reagent-R, Reagent-U): how a problem becomes a pool, on the refinement graph.

The policy is the graph's chat model, as solver and refiner or as the agent with tools; the judge is the critic. What
other parties say (tools, the judge's critique) reaches the policy in its prompts alone: no token of it is trained on.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from agents.types import ErrorInfo, Round, Trajectory
from graphs import critics
from graphs.judge import failure_of
from graphs.judge_state import transcript_for
from graphs.react_state import ReactContext
from graphs.refine import build_refine
from graphs.refine_state import Attempt, Critic, Critique, RefineContext, RefineInput
from graphs.state import VerifierContext
from tools.base import Tool
from train.engines import Policy
from train.groups import GroupRollouts
from train.pools import Answer, Pool, Problem, pool_metrics, valued
from train.rewards import model_reward, rule_reward
from train.settings import Answerer, GrpoConfig, JudgeConfig


class Parties(NamedTuple):
    """Who takes part in an answer beside the policy: the judge, and an agent's tools by name."""

    judge: Critic
    tools: Mapping[str, Tool]


OpensParties = Callable[[], AbstractAsyncContextManager[Parties]]


class ReagentRollouts(GroupRollouts[Problem, Pool]):
    """Reagent-R and Reagent-U: answers of the policy to a problem, on the refinement graph with the judge as critic.

    Reagent-U: half of the rows are first answers, each is critiqued by the judge, and the other half are the answers
    that the policy writes when it is shown problem, first answer and critique. Every answer has its own conversation,
    so the critique stands in the prompt of the refined one. An answer is one reply, or an agent's whole trajectory
    with tools, whose results are prompt too. Reagent-R: first answers only. All of a problem's rows are
    one pool; a reward is R_rule + λ·R_model.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        policy: Policy,
        context: RefineContext,
        opens: OpensParties,
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
            opens: opens judge and tools inside the event loop of one call; at λ = 0 Reagent-R does not ask the judge.
            refines: Reagent-U; else Reagent-R.
            weight: λ.
            **sampling: `resample_budget`, `end_token`, `seed`: see `GroupRollouts`.
        """
        super().__init__(problems, policy, opens, **sampling)
        self.context, self.refines, self.weight = context, refines, weight

    async def roll(self, prompts: Sequence[Problem], rows: int, opened: Any, step: int) -> list[Pool]:
        """Roll out pools; `opened` are the parties."""
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

    async def _course(self, problem: Problem, parties: Parties, name: str) -> tuple[Answer, ...]:
        """Return a first answer and, in Reagent-U, the refined one."""
        judge, chat, agent = parties.judge, self.policy.chat, self.context.agent
        live: dict[str, Any] = {"solver": chat, "refiner": chat, "critique": judge}
        if agent is not None:
            live["agent"] = agent.model_copy(update={"chat": chat, "tools": dict(parties.tools)})
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
        if not found.made:
            return Answer((), error=found.error or _unwritten(found))
        turns, said = found.made, Critique(accepted=None, reviews=found.reviews, error=found.error)
        rule = await asyncio.to_thread(rule_reward, problem.task, turns)
        if self.weight and not said.reviews and said.error is None:
            attempt = Attempt(problem.task.question, found.solution, turns, f"{name}:{found.index}")
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


def answer_context(settings: GrpoConfig, limits: VerifierContext, answers: Answerer = "solver") -> RefineContext:
    """Return limits and sampling of the policy as solver and as refiner, or as the agent: the same for both answers."""
    agent = acting(limits) if answers == "agent" else None
    return RefineContext.model_validate(
        {
            "style": limits.style,
            "agent": agent,
            "max_transcript": transcript_for(limits.max_trajectory_tokens),
            "solver_temperature": settings.temperature,
            "solver_max_tokens": settings.max_tokens,
            "refiner_temperature": settings.temperature,
            "refiner_max_tokens": settings.max_tokens,
        }
    )


def acting(limits: VerifierContext) -> ReactContext:
    """Return the settings of the agent within a verifier's limits."""
    return ReactContext(
        model=limits.model,
        style=limits.style,
        temperature=limits.temperature,
        max_tokens=limits.max_tokens,
        max_turns=limits.max_turns,
        max_tool_calls=limits.max_tool_calls,
        max_trajectory_tokens=limits.max_trajectory_tokens,
        max_seconds=limits.max_seconds,
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
