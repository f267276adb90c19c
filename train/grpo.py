"""GRPO on the graphs (TRL): the trainer that all recipes share.

`python -m train.grpo` trains on exported data or on problems, on several GPUs under `accelerate launch`; `grpo.recipe`
names the recipe (`train.recipes`), `--graph` a graph of one's own (`train.own_graph`).

Inputs: prompts of the recipe and the model that SFT made; outputs: the trained model in a folder, metrics as JSONL. The
rollouts run the graphs that harvested the data and that serve the model.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.command_line import guarded
from tools.errors import DataError
from train.callbacks import StepHook, be_quiet, last_checkpoint, need_disk, trainer_callback
from train.engines import InProcess, Vllm, check_engine
from train.groups import GroupRollouts
from train.recipes import Around, Job, MakeRollouts, recipe_of
from train.rollout import VerifierContext
from train.saving import is_sharded, save_trained
from train.settings import GrpoConfig, TrainingSettings
from train.student import load_student, master_dtype, trainable

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

LOSS_TYPES = {"tokens": "dapo", "rollouts": "grpo"}  # TRL's names of `grpo.loss.average`


def train_grpo(prompts: Sequence[Any], around: Around, job: Job) -> dict[str, float]:
    """Train from `job.start` and save to `job.out / "model"`; resumes from the last checkpoint there.

    Args:
        prompts: the pool of groups, of the kind that the recipe takes.
        around: limits and prompt style that the harvest used, tools, the judge.
        job: recipe, model, settings, folder.

    Returns:
        `prompts` and `steps`.

    Raises:
        DataError: too few prompts for a step, or some that are of no use.
    """
    recipe = recipe_of(job.settings)
    ordered = recipe.order(prompts, job.settings, job.seed)
    return train_rollouts(recipe.rollouts(ordered, around, job), len(ordered), job)


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
    need_prompts(prompts, settings)
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


def need_prompts(prompts: int, settings: GrpoConfig) -> None:
    """Refuse to train on too few prompts.

    Raises:
        DataError: there are fewer than a batch of rollouts takes.
    """
    if prompts < settings.groups:
        raise DataError(f"grpo: {prompts} prompts for {settings.groups} groups; harvest more, or lower grpo.groups")


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
        scale_rewards=recipe_of(settings).scale,
        shuffle_dataset=False,  # recipes have an order
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
    from train.student import check_student, student_path

    args = parse("grpo", argv)

    def work() -> int:
        settings = load_settings(args)
        check_student(settings.student.model)
        start = Path(student_path(settings.student.model))
        job = Job(start, settings.student, settings.grpo, args.out, settings.seed, shown_steps("grpo"))
        if args.graph:
            from train.own_graph import train_on_graph

            return finish(train_on_graph(args, job), args.out)
        prompts = recipe_of(settings.grpo).read(args)
        args.out.mkdir(parents=True, exist_ok=True)
        return finish(train_grpo(prompts, around(settings), job), args.out)

    return guarded(work)


def around(settings: TrainingSettings) -> Around:
    """Return what rollouts are made with."""
    from tools.registry import open_with_sandbox

    return Around(
        rollout_context(settings),
        lambda: open_with_sandbox(settings.tools, settings.sandbox),
        settings.judge,
        settings.answers,
        settings.agent_turns,
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
