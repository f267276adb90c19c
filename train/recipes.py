"""Recipes of GRPO (`grpo.recipe`): which prompts each trains on, how they are rolled out, and what a rollout is worth.

- `agentv`: both verifiers, mixed, on solutions; reward ±1 by the verdict.
- `rrm`: the judge, on solutions; a proper scoring rule.
- `reagent_r`: answers to problems; R_rule + λ·R_model, where R_model is the judge's score.
- `reagent_u`: G first answers and G refined on the judge's critiques, 2G rows in one pool:
  A = (R - mean(pool)) / std(pool) over both stages (`train.advantages`).

Several of them in one training take turns by their shares (`train.mixed`).

Reagent is arXiv 2601.22154; there the loss is a mean over rollouts with a KL term (`grpo.loss.average`, `.beta`). The
trained model answers alone: nobody is asked for a judgement afterwards. A new recipe is a row of `RECIPES`.
"""

import random
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agents.types import ROLES
from tools.errors import DataError
from train.callbacks import StepHook
from train.engines import Policy
from train.groups import GroupRollouts
from train.inputs import read_mixed, read_problems, read_solutions
from train.mixed import MixedPrompt, MixedRollouts, taking_turns
from train.pools import Problem
from train.reagent import Parties, ReagentRollouts, answer_context, open_judge
from train.reviews import Prompt, in_turn
from train.rewards import reward_by_role
from train.rollout import Opens, ReviewRollouts, VerifierContext
from train.settings import AGENT_TURNS, Answerer, GrpoConfig, JudgeConfig, RecipeName, StudentConfig

MakeRollouts = Callable[[Policy, int], GroupRollouts[Any, Any]]  # of the policy and the id of its end token


class Job(NamedTuple):
    """What a training is given besides its prompts.

    `start` is the folder of the model to start from, `student` says tokens of a conversation and LoRA, `settings` the
    recipe, steps, groups a step, G, clip, learning rate and limits. `out` is the folder of checkpoints, metrics and the
    model, `seed` that of the order of prompts and of the sampling; `on_step` is called with (step, steps, metrics).
    """

    start: Path
    student: StudentConfig
    settings: GrpoConfig
    out: Path
    seed: int
    on_step: StepHook

    @property
    def sampling(self) -> dict[str, int]:
        """What every recipe's rollouts take, but for the end token."""
        return {"resample_budget": self.settings.resample_budget, "seed": self.seed}


class Around(NamedTuple):
    """What rollouts are made with: limits and prompt style, tools, who judges answers, who answers, its steps."""

    context: VerifierContext
    open_tools: Opens
    judge: JudgeConfig = JudgeConfig()
    answers: Answerer = "solver"
    agent_turns: int = AGENT_TURNS

    @property
    def acting_context(self) -> VerifierContext:
        """The limits of an answer: those of a review, but for the agent's steps."""
        return self.context.model_copy(update={"max_turns": self.agent_turns})

    @asynccontextmanager
    async def open_parties(self) -> AsyncIterator[Parties]:
        """Open those who take part in an answer: the judge, and the tools where the agent answers."""
        async with AsyncExitStack() as stack:
            judge = await stack.enter_async_context(open_judge(self.judge))
            tools = await stack.enter_async_context(self.open_tools()) if self.answers == "agent" else {}
            yield Parties(judge, tools)


class Recipe(NamedTuple):
    """What a recipe is made of.

    `read` reads prompts from the data of a command line; `order` puts prompts in the order of training, or refuses
    them; `rollouts` makes TRL's function of them. Advantages are divided by the deviation of a `scale`: see
    `train/rewards.py`.
    """

    read: Callable[[Namespace], Sequence[Any]]
    order: Callable[[Sequence[Any], GrpoConfig, int], list[Any]]
    rollouts: Callable[[Sequence[Any], Around, Job], MakeRollouts]
    scale: Literal["group", "batch", "none"] = "group"


def mix_roles(prompts: Sequence[Prompt], forward_share: float, seed: int = 0) -> list[Prompt]:
    """Return the prompts shuffled, roles in the given share and labels in turn all along; roles left over are left out.

    Raises:
        DataError: one of the roles that the share asks for has no prompt.
    """
    shares: dict[str, float] = dict(zip(ROLES, (forward_share, 1 - forward_share), strict=True))
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    queues: dict[str, list[Prompt]] = {
        role: in_turn([p for p in shuffled if p.role == role]) for role in ROLES if shares[role] > 0
    }
    for role, queue in queues.items():
        if not queue:
            raise DataError(f"grpo: no prompt for {role}; harvest more problems, or set grpo.forward_share")
    n = int(min(len(queue) / shares[role] for role, queue in queues.items()))
    out, taken = [], dict.fromkeys(queues, 0)
    for i in range(1, n + 1):
        role = max(queues, key=lambda r: shares[r] * i - taken[r])
        if taken[role] < len(queues[role]):
            out.append(queues[role][taken[role]])
            taken[role] += 1
    return out


def both_verifiers(prompts: Sequence[Prompt], settings: GrpoConfig, seed: int) -> list[Prompt]:
    """See `mix_roles`."""
    return mix_roles(prompts, settings.forward_share, seed)


def judges_alone(prompts: Sequence[Prompt], settings: GrpoConfig, seed: int) -> list[Prompt]:
    """Return the judge's prompts, labels in turn.

    Raises:
        DataError: there is none.
    """
    own = [p for p in random.Random(seed).sample(prompts, len(prompts)) if p.role == "judge"]
    if not own:
        raise DataError("grpo: no prompt for judge; make them with python -m distill.rrm, or set grpo.recipe=agentv")
    return in_turn(own)


def gradable(problems: Sequence[Problem], settings: GrpoConfig, seed: int) -> list[Problem]:
    """Return the problems as they are.

    Raises:
        DataError: one that no rule can grade.
    """
    if ungraded := [p for p in problems if p.task.answer is None or p.task.kind == "program"]:
        raise DataError(
            f"grpo: {len(ungraded)} of {len(problems)} problems cannot be graded by a rule (no reference answer, or a "
            "program); leave them out"
        )
    return list(problems)


def on_solutions(prompts: Sequence[Prompt], around: Around, job: Job) -> MakeRollouts:
    """Roll out reviews of solutions, each role on its graph and with its reward."""

    def make(policy: Policy, end_token: int) -> ReviewRollouts:
        sampling = job.sampling | {"end_token": end_token}
        return ReviewRollouts(prompts, policy, around.context, around.open_tools, reward=reward_by_role, **sampling)

    return make


def on_problems(problems: Sequence[Problem], around: Around, job: Job) -> MakeRollouts:
    """Roll out answers, and in Reagent-U refined ones, with the judge beside the rule."""

    def make(policy: Policy, end_token: int) -> ReagentRollouts:
        return ReagentRollouts(
            problems,
            policy,
            answer_context(job.settings, around.acting_context, around.answers),
            around.open_parties,
            refines=job.settings.refines,
            weight=around.judge.weight,
            end_token=end_token,
            **job.sampling,
        )

    return make


def recipes_in_turn(prompts: Sequence[MixedPrompt], settings: GrpoConfig, seed: int) -> list[MixedPrompt]:
    """Return the prompts of several recipes, each in the order of its own, recipes by their shares.

    Raises:
        DataError: one of the recipes has no prompt, or some that are of no use to it.
    """
    own: dict[RecipeName, list[MixedPrompt]] = {}
    for name in settings.recipes:
        found = [p.prompt for p in prompts if p.recipe == name]
        if not found:
            raise DataError(f"grpo: no prompt for recipe {name}; harvest more problems, or name others in grpo.recipe")
        own[name] = [MixedPrompt(name, prompt) for prompt in RECIPES[name].order(found, settings, seed)]
    return taking_turns(own, settings.shares)


def on_all(prompts: Sequence[MixedPrompt], around: Around, job: Job) -> MakeRollouts:
    """Roll out every recipe's prompts as it does itself."""
    names = job.settings.recipes
    own = {name: [p.prompt for p in prompts if p.recipe == name] for name in names}

    def make(policy: Policy, end_token: int) -> MixedRollouts:
        return MixedRollouts(
            prompts,
            policy,
            {name: RECIPES[name].rollouts(own[name], around, job)(policy, end_token) for name in names},
            shares=job.settings.shares,
            scales={name: RECIPES[name].scale for name in names},
            end_token=end_token,
            **job.sampling,
        )

    return make


RECIPES: dict[RecipeName, Recipe] = {
    "agentv": Recipe(read_solutions, both_verifiers, on_solutions),
    "rrm": Recipe(read_solutions, judges_alone, on_solutions, scale="batch"),
    "reagent_r": Recipe(read_problems, gradable, on_problems),
    "reagent_u": Recipe(read_problems, gradable, on_problems),
}
MIXED = Recipe(read_mixed, recipes_in_turn, on_all, scale="none")


def recipe_of(settings: GrpoConfig) -> Recipe:
    """Return the recipe that settings name, or the one that mixes several."""
    return RECIPES[settings.recipes[0]] if len(settings.recipes) == 1 else MIXED
