"""The graphs as rollouts: how a prompt becomes a group on the verifier graph, or on the refinement graph (Reagent).

The policy is the graphs' chat model; `train.groups` makes TRL's rows of what it wrote, and resamples dead groups. What
other parties say (tools, a judge's critique) reaches the policy in its prompts alone: no token of it is trained on.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import zip_longest
from statistics import fmean
from typing import Any, NamedTuple

from agents.protocol import strip_thoughts
from agents.types import ROLES, ErrorInfo, Role, StopReason, Trajectory, Turn
from graphs.bidirectional import build_bidirectional
from graphs.critics import told
from graphs.refine import build_refine
from graphs.refine_state import Attempt, Critique, RefineContext
from graphs.state import BidirectionalContext, BidirectionalInput, VerifierContext
from graphs.verifier import build_verifier
from tools.base import Tool
from tools.errors import ModelError
from train.engines import Policy
from train.groups import GroupRollouts
from train.judging import Judge, Judgement, ask
from train.pools import Answer, Pool, Problem, pool_metrics, valued
from train.rewards import Reward, is_live, rule_reward
from train.settings import JudgeConfig

Opens = Callable[[], AbstractAsyncContextManager[dict[str, Tool]]]


class Prompt(NamedTuple):
    """What one group is rolled out on. `label` is for the reward only."""

    key: str
    problem: str
    solution: str
    role: Role
    label: bool


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


class VerifierRollouts(GroupRollouts[Prompt, Group]):
    """AgentV-RL: a group is one review, `rows` times, on the verifier graph."""

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
        graph = build_verifier()
        context = self.context.model_copy(update={"chat": self.policy.chat, "tools": opened})

        async def one(prompt: Prompt, i: int) -> Trajectory:
            state = await graph.ainvoke(
                {
                    "problem": prompt.problem,
                    "solution": prompt.solution,
                    "role": prompt.role,
                    "trajectory_id": f"{step}/{prompt.key}/{i}",
                },
                context=context,
            )
            return state["trajectory"]

        rollouts = iter(await asyncio.gather(*(one(p, i) for p in prompts for i in range(rows))))
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
    out |= _rates([(p.label, r > 0) for p, _, r in scored], "")
    given = [t.verdict.passed for _, t, _ in scored if t.verdict is not None]
    if given:
        out["verdict/base_rate"] = fmean(given)
    for role in ROLES:
        if rewards := [r for p, _, r in scored if p.role == role]:
            out[f"reward/{role}"] = fmean(rewards)
            out |= _rates([(p.label, r > 0) for p, _, r in scored if p.role == role], f"/{role}")
    return out


def _rates(found: Sequence[tuple[bool, bool]], suffix: str) -> dict[str, float]:
    """Return TPR, TNR and their mean of (label, verdict right) pairs; nothing where one of the labels is missing."""
    right = {label: [hit for of, hit in found if of is label] for label in (True, False)}
    if not all(right.values()):
        return {}
    tpr, tnr = fmean(right[True]), fmean(right[False])
    rates = {"tpr": tpr, "tnr": tnr, "balanced_accuracy": (tpr + tnr) / 2}
    return {f"verdict/{name}{suffix}": value for name, value in rates.items()}


class ReagentRollouts(GroupRollouts[Problem, Pool]):
    """Reagent-R and Reagent-U: answers of the policy to a problem, on the refinement graph.

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
        open_judge: Callable[[], AbstractAsyncContextManager[Judge]],
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
        made = iter(
            await asyncio.gather(
                *(self._course(p, opened, f"{step}/{p.key}/{i}") for p in prompts for i in range(size))
            )
        )
        pools = []
        for problem in prompts:
            courses = [next(made) for _ in range(size)]
            refined = tuple(course[1] for course in courses) if self.refines else ()
            pools.append(Pool(problem, tuple(course[0] for course in courses), refined))
        return pools

    def metrics(self, groups: Sequence[Pool], chosen: Sequence[Pool]) -> dict[str, float]:
        """See `pool_metrics`."""
        return pool_metrics(groups, chosen)

    async def _course(self, problem: Problem, judge: Judge, name: str) -> tuple[Answer, ...]:
        """Return a first answer and, in Reagent-U, the refined one."""
        heard: list[Judgement | ErrorInfo] = []

        async def critique(attempt: Attempt, context: Any) -> Critique:
            said = await ask(judge, attempt.problem, _turns(attempt.made))
            heard.append(said)
            if isinstance(said, ErrorInfo):
                return Critique(accepted=None, error=said)
            return Critique(accepted=False, text=said.critique)  # whatever it says: each first answer is refined

        live = {"solver": self.policy.chat, "refiner": self.policy.chat, "critique": critique}
        context = self.context.model_copy(update=live | {"rounds": int(self.refines)})
        given = {"problem": problem.task.question, "trajectory_id": name}
        out = await build_refine().ainvoke(given, context=context)  # pyright: ignore[reportArgumentType]
        rounds, error = out["rounds"], out["error"]
        first = await self._answer(problem, judge, rounds[0].made, error, heard[0] if heard else None)
        if not self.refines:
            return (first,)
        return first, await self._answer(problem, judge, rounds[1].made if rounds[1:] else None, error)

    async def _answer(
        self,
        problem: Problem,
        judge: Judge,
        turn: Turn | None,
        error: ErrorInfo | None,
        said: Judgement | ErrorInfo | None = None,
    ) -> Answer:
        """Return an answer with its rewards; `said` is what the judge said of it where it has been asked."""
        if turn is None:
            late = ErrorInfo(kind="TimeoutError", message="no reply within the time of a turn", where="solve")
            return Answer((), error=error or late)
        turns = (turn,)
        rule = await asyncio.to_thread(rule_reward, problem.task, turns)
        if said is None and self.weight:
            said = await ask(judge, problem.task.question, turns)
        failed = said if isinstance(said, ErrorInfo) else None
        return valued(turns, rule, said.score if isinstance(said, Judgement) else None, self.weight, failed)


def _turns(made: Turn | None) -> tuple[Turn, ...]:
    return () if made is None else (made,)


@asynccontextmanager
async def verifier_judge(settings: JudgeConfig, open_tools: Opens) -> AsyncIterator[Judge]:
    """Open the bidirectional verifier as a judge: its critique is what it found, its score the joint confidence.

    Args:
        settings: which model (an endpoint, or the scripted auditor), and limits.
        open_tools: opens the tools that it checks with.

    Raises:
        ConfigError: the settings name no model that can be opened.
    """
    from agents.chat import open_chat  # openai is heavy

    chat, gate = open_chat(settings.model, settings.base_url), asyncio.Semaphore(settings.concurrency)
    limits = settings.model_dump(exclude={"model", "base_url", "concurrency"})
    async with open_tools() as tools:
        context = BidirectionalContext(**limits, chat=chat, tools=tools)

        async def judge(problem: str, turns: Sequence[Turn]) -> Judgement | None:
            solution = strip_thoughts(turns[-1].content).strip() if turns else ""
            given = BidirectionalInput(problem=problem, solution=solution, trajectory_id=uuid.uuid4().hex)
            async with gate:
                out = await build_bidirectional().ainvoke(given, context=context)
            reviews: list[Trajectory] = out["reviews"]
            if failed := next((review.error for review in reviews if review.error), None):
                raise ModelError(failed.message)
            verdict, text = out["verdict"], told(reviews)
            return Judgement(text, verdict.confidence if verdict else None) if text else None

        yield judge
