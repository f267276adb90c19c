"""Reagent-R and Reagent-U (arXiv 2601.22154): GRPO on answers to problems, with a judge beside the rule reward.

Reagent-R: G answers a problem, R = R_rule + λ·R_model. Reagent-U: G first answers, each critiqued by the judge, and G
answers refined on the critiques, 2G rows in one pool: A = (R - mean(pool)) / std(pool) over both stages
(`train.advantages`). The loss is GRPO's, with clip and KL, its mean taken over rollouts (`grpo.loss.average`). The
trained model answers alone: nobody is asked for a judgement afterwards.

Inputs: problems with reference answers, the model that SFT made, a judge; outputs: as those of `train.grpo`.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from agents.records import read_records, task_of
from tools.errors import ConfigError, DataError
from train.engines import Policy
from train.grpo import Job, train_rollouts
from train.judging import Judge
from train.pools import Problem
from train.rollout import ReagentRollouts, RefineContext, verifier_judge
from train.settings import GrpoConfig, StudentConfig, TrainingSettings

COLUMNS = ("question", "answer", "aliases", "task_type")


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


def train_on_problems(args: Namespace, settings: TrainingSettings, job: Job) -> dict[str, float]:
    """Train on exported problems (`--data`) or on those of a file (`--tasks`), with the judge of the settings."""
    from tools.registry import open_with_sandbox

    problems = read_problems(args)
    job.out.mkdir(parents=True, exist_ok=True)

    def open_tools() -> AbstractAsyncContextManager:
        return open_with_sandbox(settings.tools, settings.sandbox)

    return train_reagent(
        problems, job, style=settings.style, open_judge=lambda: verifier_judge(settings.judge, open_tools)
    )


def read_problems(args: Namespace) -> list[Problem]:
    """Return the problems that the command line names, each once, in their order.

    Raises:
        ConfigError: `--tasks` names no file.
        DataError: there is no such data, or a record is malformed.
    """
    from train.launch import read_rows

    if args.tasks:
        kind, _, where = args.tasks.partition(":")
        if kind not in ("jsonl", "parquet") or not Path(where).is_file():
            raise ConfigError(f"--tasks {args.tasks}: no such file; give jsonl:PATH or parquet:PATH")
        found = read_records(Path(where), parquet=kind == "parquet")
    else:
        found = ((f"{args.data}: row {i}", row) for i, row in enumerate(read_rows(args.data, "grpo", COLUMNS), 1))
    tasks = [task_of(record, spot, args.tasks or args.data) for spot, record in found]
    return [Problem(task.id, task) for task in {task.id: task for task in tasks}.values()]
