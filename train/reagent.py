"""Reagent-R and Reagent-U (arXiv 2601.22154): GRPO on answers to problems, with a judge beside the rule reward.

Reagent-R: G answers a problem, R = R_rule + λ·R_model. Reagent-U: G first answers, each critiqued by the judge, and G
answers refined on the critiques, 2G rows in one pool: A = (R - mean(pool)) / std(pool) over both stages
(`train.advantages`). The loss is GRPO's, with clip and KL, its mean taken over rollouts (`grpo.loss.average`). The
trained model answers alone: nobody is asked for a judgement afterwards.

Inputs: problems with reference answers, the model that SFT made, a judge; outputs: as those of `train.grpo`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from agents.types import Task
from tools.errors import DataError
from train.engines import Policy
from train.grpo import Job, train_rollouts
from train.judging import Judge
from train.pools import Problem
from train.rollout import ReagentRollouts, RefineContext, verifier_judge
from train.settings import GrpoConfig, StudentConfig, TrainingSettings

COLUMNS = ("key", "question", "answer", "aliases", "kind")


def train_reagent(
    problems: Sequence[Problem],
    job: Job,
    *,
    style: str,
    open_judge: Callable[[], AbstractAsyncContextManager[Judge]],
) -> dict[str, float]:
    """Train on the answers to problems; see `train.grpo.train_grpo`.

    Args:
        problems: with reference answers.
        job: model, settings (`recipe`, `reward_lambda` among them), folder.
        style: of the refiner's prompts.
        open_judge: opens the judge inside the event loop of a step.

    Returns:
        `prompts` and `steps`.

    Raises:
        DataError: too few problems for a step, or one that no rule can grade.
    """
    settings = job.settings
    if ungraded := [p for p in problems if p.task.answer is None or p.task.kind == "program"]:
        raise DataError(
            f"grpo: {len(ungraded)} of {len(problems)} problems cannot be graded by a rule (no reference answer, or a "
            "program); leave them out"
        )

    def make(policy: Policy, end_token: int) -> ReagentRollouts:
        return ReagentRollouts(
            problems,
            policy,
            answer_context(settings, job.student, style),
            open_judge,
            refines=settings.recipe == "reagent_u",
            weight=settings.reward_lambda,
            resample_budget=settings.resample_budget,
            end_token=end_token,
            seed=job.seed,
        )

    return train_rollouts(make, len(problems), job)


def answer_context(settings: GrpoConfig, student: StudentConfig, style: str) -> RefineContext:
    """Return limits and sampling of the policy as solver and as refiner: the same for both."""
    return RefineContext.model_validate(
        {
            "style": style,
            "solver_temperature": settings.temperature,
            "solver_max_tokens": settings.max_tokens,
            "refiner_temperature": settings.temperature,
            "refiner_max_tokens": settings.max_tokens,
            "max_trajectory_tokens": student.max_length,
        }
    )


def train_on_problems(data: str, settings: TrainingSettings, job: Job) -> dict[str, float]:
    """Train on exported problems with the judge of the settings."""
    from tools.registry import open_with_sandbox
    from train.launch import read_rows

    problems = [problem_of(row) for row in read_rows(data, "grpo", COLUMNS)]
    job.out.mkdir(parents=True, exist_ok=True)

    def open_tools() -> AbstractAsyncContextManager:
        return open_with_sandbox(settings.tools, settings.sandbox)

    return train_reagent(
        problems, job, style=settings.style, open_judge=lambda: verifier_judge(settings.judge, open_tools)
    )


def problem_of(row: dict) -> Problem:
    """Return a problem from a row of exported data."""
    task = Task(question=row["question"], answer=row["answer"], aliases=tuple(row["aliases"] or ()), kind=row["kind"])
    return Problem(row["key"], task)
