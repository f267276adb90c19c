"""GRPO on the verifier graph (TRL), as AgentV-RL: reward ±1, clip 0.2/0.28, both roles mixed, dynamic sampling.

Inputs: a pool of prompts (problem, solution, role, label) and the model that SFT made; outputs: the trained model in a
folder, metrics as JSONL. The rollouts run the graph that harvested the data and that serves the model.
"""

import os
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.types import ROLES
from tools.base import Tool
from tools.errors import DataError
from train.callbacks import StepHook, be_quiet, last_checkpoint, need_disk, trainer_callback
from train.rewards import REWARDS
from train.rollout import Prompt, VerifierContext, VerifierRollouts, in_turn
from train.settings import GrpoConfig, StudentConfig
from train.student import load_student, master_dtype, save_student, trainable

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig


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
    from agents.local import LocalPolicy
    from train.trainers import keep_freed_memory

    keep_freed_memory()
    mixed = mix_roles(prompts, settings.forward_share, seed)
    if len(mixed) < settings.groups:
        raise DataError(f"grpo: {len(mixed)} prompts for {settings.groups} groups; harvest more, or lower grpo.groups")
    model, tokenizer = load_student(str(start), master_dtype(student.dtype))
    need_disk(out, model.num_parameters())
    with LocalPolicy(
        model, tokenizer, model_id="policy", slots=settings.slots, max_context=student.max_length, seed=seed
    ) as policy:
        rollouts = VerifierRollouts(
            mixed,
            policy,
            context,
            open_tools,
            reward=REWARDS["verdict"],
            resample_budget=settings.resample_budget,
            end_token=tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token)),  # pyright: ignore[reportArgumentType]
            seed=seed,
        )
        trainer = _trainer(trainable(model, student), tokenizer, rollouts, grpo_arguments(settings, out, seed), on_step)
        trainer.train(resume_from_checkpoint=last_checkpoint(out))
    save_student(trainer.model, tokenizer, out / "model")
    return {"prompts": len(mixed), "steps": settings.steps}


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


def grpo_arguments(settings: GrpoConfig, out: Path, seed: int) -> "GRPOConfig":
    """Return TRL's configuration: one generation batch an optimiser step, no reference model at beta 0."""
    import torch
    from trl.trainer.grpo_config import GRPOConfig

    gpu = torch.cuda.is_available()
    rows = settings.groups * settings.num_generations
    return GRPOConfig(
        output_dir=str(out),
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        max_steps=settings.steps,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=rows // settings.micro_batch,
        num_generations=settings.num_generations,
        temperature=settings.temperature,
        epsilon=settings.clip_low,
        epsilon_high=settings.clip_high,
        beta=settings.beta,
        loss_type="dapo",
        scale_rewards="group",
        shuffle_dataset=False,  # `mix_roles` has an order
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_steps=1,
        seed=seed,
        bf16=gpu,
        gradient_checkpointing=False,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        report_to=[],
        disable_tqdm=True,
    )
