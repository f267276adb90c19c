"""GRPO on the graphs (TRL), as AgentV-RL: clip 0.2/0.28, dynamic sampling, a reward a role.

Recipe `agentv` trains both verifiers, mixed, with rewards of ±1; `rrm` the judge, with a proper scoring rule.

`python -m train.grpo` trains on exported data, on several GPUs under `accelerate launch`.

Inputs: a pool of prompts (problem, solution, role, label) and the model that SFT made; outputs: the trained model in a
folder, metrics as JSONL. The rollouts run the graph that harvested the data and that serves the model.
"""

import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.types import ROLES
from tools.base import Tool
from tools.command_line import guarded
from tools.errors import DataError
from train.callbacks import StepHook, be_quiet, last_checkpoint, need_disk, trainer_callback
from train.engines import InProcess, Vllm, check_engine
from train.rewards import reward_by_role
from train.rollout import Prompt, VerifierContext, VerifierRollouts, in_turn
from train.saving import is_sharded, save_trained
from train.settings import GrpoConfig, StudentConfig, TrainingSettings
from train.student import load_student, master_dtype, trainable

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

SCALES = {"agentv": "group", "rrm": "batch"}  # what advantages are divided by the deviation of; see train/rewards.py


def ordered(prompts: Sequence[Prompt], settings: GrpoConfig, seed: int = 0) -> list[Prompt]:
    """Return the prompts of a recipe in the order of training.

    Raises:
        DataError: there is none of a role that the recipe needs.
    """
    if settings.recipe == "agentv":
        return mix_roles(prompts, settings.forward_share, seed)
    own = [p for p in random.Random(seed).sample(prompts, len(prompts)) if p.role == "judge"]
    if not own:
        raise DataError("grpo: no prompt for judge; make them with python -m distill.rrm, or set grpo.recipe=agentv")
    return in_turn(own)


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
    import torch

    from train.trainers import keep_freed_memory

    check_engine(settings, torch.cuda.is_available())
    keep_freed_memory()
    mixed = ordered(prompts, settings, seed)
    if len(mixed) < settings.groups:
        raise DataError(f"grpo: {len(mixed)} prompts for {settings.groups} groups; harvest more, or lower grpo.groups")
    model, tokenizer = load_student(str(start), master_dtype(student.dtype))
    need_disk(out, model.num_parameters())
    with _policy(settings, model, tokenizer, student.max_length, seed) as policy:
        rollouts = VerifierRollouts(
            mixed,
            policy,
            context,
            open_tools,
            reward=reward_by_role,
            resample_budget=settings.resample_budget,
            end_token=tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token)),  # pyright: ignore[reportArgumentType]
            seed=seed,
        )
        args = grpo_arguments(settings, student.max_length, out, seed)
        trainer = _trainer(trainable(model, student), tokenizer, rollouts, args, on_step)
        check_engine(settings, torch.cuda.is_available(), is_sharded(trainer), trainer.accelerator.num_processes)
        trainer.train(resume_from_checkpoint=last_checkpoint(out))
    save_trained(trainer, tokenizer, start, student, out / "model")
    return {"prompts": len(mixed), "steps": settings.steps}


def _policy(settings: GrpoConfig, model: Any, tokenizer: Any, max_context: int, seed: int) -> InProcess | Vllm:
    """Return who decodes the rollouts."""
    if settings.engine == "local":
        return InProcess(model, tokenizer, slots=settings.slots, max_context=max_context, seed=seed)
    mode = settings.engine.removeprefix("vllm_")
    return Vllm(tokenizer, mode, slots=settings.slots, max_context=max_context)


def _trainer(model: Any, tokenizer: Any, rollouts: VerifierRollouts, args: "GRPOConfig", on_step: StepHook) -> Any:
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
        num_generations=settings.num_generations,
        temperature=settings.temperature,
        epsilon=settings.loss.clip_low,
        epsilon_high=settings.loss.clip_high,
        beta=settings.loss.beta,
        loss_type="dapo",
        scale_rewards=SCALES[settings.recipe],
        shuffle_dataset=False,  # `ordered` has an order
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
    rows, updated = (n * settings.num_generations // processes for n in (settings.groups, settings.update_groups))
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
    from tools.registry import open_with_sandbox
    from train.launch import finish, load_settings, parse, read_rows, shown_steps
    from train.student import check_student, student_path

    args = parse("grpo", argv)

    def work() -> int:
        settings = load_settings(args)
        check_student(settings.student.model)
        rows = read_rows(args.data, "grpo", ("key", "problem", "solution", "role", "label"))
        prompts = [Prompt(r["key"], r["problem"], r["solution"], r["role"], r["label"]) for r in rows]
        args.out.mkdir(parents=True, exist_ok=True)
        report = train_grpo(
            prompts,
            start=Path(student_path(settings.student.model)),
            student=settings.student,
            settings=settings.grpo,
            context=rollout_context(settings),
            open_tools=lambda: open_with_sandbox(settings.tools, settings.sandbox),
            out=args.out,
            seed=settings.seed,
            on_step=shown_steps("grpo"),
        )
        return finish(report, args.out)

    return guarded(work)


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
