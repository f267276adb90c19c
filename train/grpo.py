"""GRPO on the graphs (TRL): the trainer that all recipes share, and the recipe of AgentV-RL.

`python -m train.grpo` trains on exported data, on several GPUs under `accelerate launch`; `grpo.recipe` names the
recipe. AgentV-RL: verifiers, reward ±1, clip 0.2/0.28, both roles mixed, dynamic sampling. `train.reagent` has
Reagent-R and Reagent-U, `train.own_graph` (`--graph`) a graph of one's own.

Inputs: a pool of prompts (problem, solution, role, label) and the model that SFT made; outputs: the trained model in a
folder, metrics as JSONL. The rollouts run the graph that harvested the data and that serves the model.
"""

import os
import random
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agents.types import ROLES
from tools.base import Tool
from tools.command_line import guarded
from tools.errors import ConfigError, DataError
from train.callbacks import StepHook, be_quiet, last_checkpoint, need_disk, trainer_callback
from train.engines import InProcess, Policy, Vllm, check_engine
from train.groups import GroupRollouts
from train.rewards import REWARDS
from train.rollout import Prompt, VerifierContext, VerifierRollouts, in_turn
from train.saving import is_sharded, save_trained
from train.settings import GrpoConfig, StudentConfig, TrainingSettings
from train.student import load_student, master_dtype, trainable

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

LOSS_TYPES = {"tokens": "dapo", "rollouts": "grpo"}  # TRL's names of `grpo.loss.average`
MakeRollouts = Callable[[Policy, int], GroupRollouts[Any, Any]]  # of the policy and the id of its end token


class Job(NamedTuple):
    """What a training is given besides its prompts; see `train_grpo`."""

    start: Path
    student: StudentConfig
    settings: GrpoConfig
    out: Path
    seed: int
    on_step: StepHook


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


def train_grpo(
    prompts: Sequence[Prompt],
    *,
    start: Path,
    student: StudentConfig,
    settings: GrpoConfig,
    context: VerifierContext,
    open_tools: Callable[[], AbstractAsyncContextManager[dict[str, Tool]]],
    out: Path,
    seed: int,
    on_step: StepHook,
) -> dict[str, float]:
    """Train from `start` and save to `out / "model"`; resumes from the last checkpoint in `out`.

    Args:
        prompts: the pool of groups.
        start: folder of the model to start from.
        student: tokens of a conversation at most, LoRA.
        settings: steps, groups a step, G, clip, learning rate and limits.
        context: of the graph: the limits and the prompt style that the harvest used.
        open_tools: opens the tools inside an event loop.
        out: folder of checkpoints, metrics and the model.
        seed: of the order of prompts and of the sampling.
        on_step: called with (step, steps, metrics) after each optimiser step.

    Returns:
        `prompts` and `steps`.

    Raises:
        DataError: too few prompts for a step.
    """
    mixed = mix_roles(prompts, settings.forward_share, seed)

    def make(policy: Policy, end_token: int) -> VerifierRollouts:
        return VerifierRollouts(
            mixed,
            policy,
            context,
            open_tools,
            reward=REWARDS["verdict"],
            resample_budget=settings.resample_budget,
            end_token=end_token,
            seed=seed,
        )

    return train_rollouts(make, len(mixed), Job(start, student, settings, out, seed, on_step))


def train_rollouts(make: MakeRollouts, prompts: int, job: Job) -> dict[str, float]:
    """Train on the rollouts of a recipe; see `train_grpo`.

    Args:
        make: makes TRL's `rollout_func`.
        prompts: how many there are.
        job: model, settings, folder.

    Returns:
        `prompts` and `steps`.

    Raises:
        DataError: too few prompts for a step.
    """
    import torch

    from train.trainers import keep_freed_memory

    start, student, settings, out, seed, on_step = job
    check_engine(settings, torch.cuda.is_available())
    keep_freed_memory()
    if prompts < settings.groups:
        raise DataError(f"grpo: {prompts} prompts for {settings.groups} groups; harvest more, or lower grpo.groups")
    model, tokenizer = load_student(str(start), master_dtype(student.dtype))
    need_disk(out, model.num_parameters())
    end_token: Any = tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token))
    with _policy(settings, model, tokenizer, student.max_length, seed) as policy:
        args = grpo_arguments(settings, student.max_length, out, seed)
        trainer = _trainer(trainable(model, student), tokenizer, make(policy, end_token), args, on_step)
        check_engine(settings, torch.cuda.is_available(), is_sharded(trainer), trainer.accelerator.num_processes)
        trainer.train(resume_from_checkpoint=last_checkpoint(out))
    save_trained(trainer, tokenizer, start, student, out / "model")
    return {"prompts": prompts, "steps": settings.steps}


def _policy(settings: GrpoConfig, model: Any, tokenizer: Any, max_context: int, seed: int) -> InProcess | Vllm:
    """Return who decodes the rollouts."""
    if settings.engine == "local":
        return InProcess(model, tokenizer, slots=settings.slots, max_context=max_context, seed=seed)
    mode = settings.engine.removeprefix("vllm_")
    return Vllm(tokenizer, mode, slots=settings.slots, max_context=max_context)


def _trainer(
    model: Any, tokenizer: Any, rollouts: GroupRollouts[Any, Any], args: "GRPOConfig", on_step: StepHook
) -> Any:
    from datasets import Dataset, disable_progress_bars

    from train.trainers import DirectGRPOTrainer

    disable_progress_bars()
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func is marked so; the versions are pinned
    trainer = DirectGRPOTrainer(
        model=model,
        reward_funcs=given_reward,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": list(rollouts.pool)}),
        processing_class=tokenizer,
        rollout_func=rollouts,
        callbacks=[trainer_callback(Path(str(args.output_dir)) / "metrics.jsonl", on_step, prefix="grpo")],
    )
    be_quiet(trainer)
    return trainer


def given_reward(
    prompts: list[str], completions: list[str], reward: list[float | None], **_: Any
) -> list[float | None]:
    """Return the rewards that the rollouts came with (None: not scorable)."""
    return reward


def grpo_arguments(settings: GrpoConfig, max_length: int, out: Path, seed: int) -> "GRPOConfig":
    """Return TRL's configuration, no reference model at beta 0.

    A batch of `groups` is rolled out, then taken in optimiser steps of `mini_groups`. Rows are shared by the processes
    of the launch.
    """
    import torch
    from trl.trainer.grpo_config import GRPOConfig

    gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(out),
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        max_steps=settings.steps,
        **batches(settings, processes=int(os.environ.get("WORLD_SIZE", "1"))),
        num_generations=settings.group_rows,
        temperature=settings.temperature,
        epsilon=settings.loss.clip_low,
        epsilon_high=settings.loss.clip_high,
        beta=settings.loss.beta,
        loss_type=LOSS_TYPES[settings.loss.average],
        scale_rewards="group",
        shuffle_dataset=False,  # `mix_roles` has an order
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_steps=1,
        seed=seed,
        bf16=gpu,
        gradient_checkpointing=gpu,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        report_to=[],
        disable_tqdm=True,
        **vllm_arguments(settings, max_length),
    )


def batches(settings: GrpoConfig, processes: int) -> dict[str, int]:
    """Return TRL's sizes of micro-batch, optimiser step and rollout batch, of one process of several."""
    rows, updated = (n * settings.group_rows // processes for n in (settings.groups, settings.update_groups))
    micro = min(settings.micro_batch, updated)
    return {
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": updated // micro,
        "steps_per_generation": rows // micro,
    }


def vllm_arguments(settings: GrpoConfig, max_length: int) -> dict[str, Any]:
    """Return TRL's own options for the engine; none for the one in this process."""
    if settings.engine == "local":
        return {}
    corrected = settings.loss.importance != "off"
    return {
        "use_vllm": True,
        "vllm_mode": settings.engine.removeprefix("vllm_"),
        "vllm_server_base_url": settings.vllm.base_url,
        "vllm_server_timeout": settings.vllm.timeout,
        "vllm_group_port": settings.vllm.group_port,
        "vllm_gpu_memory_utilization": settings.vllm.memory,
        "vllm_max_model_length": max_length,
        "vllm_importance_sampling_correction": corrected,
        "vllm_importance_sampling_clip_max": settings.loss.importance_cap,
    } | ({"vllm_importance_sampling_mode": settings.loss.importance} if corrected else {})


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m train.grpo`; returns the exit code."""
    from train.launch import finish, load_settings, parse, shown_steps
    from train.own_graph import train_on_graph
    from train.reagent import train_on_problems
    from train.student import check_student, student_path

    args = parse("grpo", argv)

    def work() -> int:
        settings = load_settings(args)
        check_student(settings.student.model)
        recipe = train_on_reviews if settings.grpo.recipe == "agentv" else train_on_problems
        recipe = train_on_graph if args.graph else recipe
        start = Path(student_path(settings.student.model))
        job = Job(start, settings.student, settings.grpo, args.out, settings.seed, shown_steps("grpo"))
        return finish(recipe(args, settings, job), args.out)

    return guarded(work)


def train_on_reviews(args: Namespace, settings: TrainingSettings, job: Job) -> dict[str, float]:
    """Train verifiers on exported prompts; see `train_grpo`."""
    from tools.registry import open_with_sandbox
    from train.launch import read_rows

    if args.tasks:
        raise ConfigError("--tasks is for grpo.recipe=reagent_r and reagent_u; verifiers train on exported --data")
    rows = read_rows(args.data, "grpo", ("key", "problem", "solution", "role", "label"))
    prompts = [Prompt(r["key"], r["problem"], r["solution"], r["role"], r["label"]) for r in rows]
    job.out.mkdir(parents=True, exist_ok=True)
    return train_grpo(
        prompts,
        context=rollout_context(settings),
        open_tools=lambda: open_with_sandbox(settings.tools, settings.sandbox),
        **job._asdict(),
    )


def rollout_context(settings: TrainingSettings) -> VerifierContext:
    """Return the limits of the verifier graph in rollouts."""
    return VerifierContext(
        style=settings.style,
        temperature=settings.grpo.temperature,
        max_tokens=settings.grpo.max_tokens,
        max_turns=settings.grpo.max_turns,
        max_tool_calls=settings.grpo.max_tool_calls,
        max_trajectory_tokens=settings.student.max_length,
        top_logprobs=None,  # a reward needs no confidence
    )


if __name__ == "__main__":
    sys.exit(main())
