"""Supervised fine-tuning on selected trajectories (TRL SFTTrainer), loss on assistant tokens only.

`python -m train.sft` trains on exported data, on several GPUs under `accelerate launch`.

Inputs: `TrainingExample`s and a student; outputs: the trained model in a folder, metrics as JSONL. One tokenisation
for training and serving: the student's chat template, whose generation markers give the loss mask.
"""

import os
import random
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.protocol import wire_messages
from agents.types import ROLES, Message, TrainingExample
from tools.command_line import guarded
from tools.errors import DataError
from train.callbacks import StepHook, be_quiet, last_checkpoint, need_disk, trainer_callback
from train.saving import save_trained
from train.settings import SftConfig, StudentConfig
from train.student import load_student, master_dtype, trainable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.sft_config import SFTConfig as TrlConfig

IGNORED = -100


def tokenize(
    examples: Sequence[TrainingExample], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> tuple[list[dict[str, list[int]]], int]:
    """Return rows of `input_ids` and `labels` (-100 on everything but assistant tokens), and how many were too long.

    Rows over `max_length` tokens are left out whole: a trajectory without its verdict teaches nothing.

    Raises:
        DataError: rows without a supervised token (the template has no markers), by name; or no row is left.
    """
    rows, empty, long = [], [], 0
    for example in examples:
        encoded: Any = tokenizer.apply_chat_template(
            wire_messages(example.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = list(encoded["input_ids"]), encoded["assistant_masks"]
        if not any(mask):
            empty.append(example.trajectory_key)
        elif len(ids) > max_length:
            long += 1
        else:
            rows.append({"input_ids": ids, "labels": [t if m else IGNORED for t, m in zip(ids, mask, strict=True)]})
    if empty:
        raise DataError(
            f"sft: {len(empty)} rows have no supervised token ({', '.join(empty[:3])}…): the chat template marks no "
            "assistant text; give the student a template with {% generation %} markers"
        )
    if not rows:
        raise DataError(f"sft: no row fits student.max_length={max_length} ({long} are longer); raise it")
    return rows, long


def in_pairs(examples: Sequence[TrainingExample], seed: int) -> list[TrainingExample]:
    """Return the examples in a seeded order in which two stand together that a small student would mix up.

    Of both verifiers it is the roles' reviews of one problem, of one label: a batch that holds both shows what makes
    them differ, the role. Of every other role it is two examples, of two labels as long as there are any.
    """
    verifiers: dict[tuple[str, bool], dict[str, list[TrainingExample]]] = {}
    others: dict[str, dict[bool, list[TrainingExample]]] = {}
    both = {example.role for example in examples} >= set(ROLES)
    for example in examples:
        if both and example.role in ROLES:
            verifiers.setdefault((example.task_id, example.label), {}).setdefault(example.role, []).append(example)
        else:
            others.setdefault(example.role, {True: [], False: []})[example.label].append(example)
    teams = [team for roles in verifiers.values() for team in zip_longest(*(roles.get(r, ()) for r in sorted(ROLES)))]
    for labels in others.values():
        mixed = [example for two in zip_longest(*labels.values()) for example in two if example is not None]
        teams += zip_longest(mixed[::2], mixed[1::2])
    random.Random(seed).shuffle(teams)
    whole, rest = [t for t in teams if None not in t], [t for t in teams if None in t]
    return [example for team in [*whole, *rest] for example in team if example is not None]


def train_sft(
    examples: Sequence[TrainingExample],
    *,
    student: StudentConfig,
    settings: SftConfig,
    out: Path,
    seed: int,
    on_step: StepHook,
) -> dict[str, float]:
    """Fine-tune and save to `out / "model"`; resumes from the last checkpoint in `out`.

    Args:
        examples: what to learn.
        student: the model, and the tokens of a row at most.
        settings: learning rate, batch, steps, checkpoints.
        out: folder of checkpoints, metrics and the model.
        seed: order of rows.
        on_step: called with (step, steps, metrics) after each optimiser step.

    Returns:
        `rows`, `tokens`, `supervised_tokens`, `too_long` and the mean `loss`.
    """
    from datasets import Dataset, disable_progress_bars

    from train.trainers import DirectSFTTrainer, keep_freed_memory

    disable_progress_bars()
    keep_freed_memory()
    model, tokenizer = load_student(student.model, master_dtype(student.dtype))
    rows, long = tokenize(in_pairs(examples, seed), tokenizer, student.max_length)
    need_disk(out, model.num_parameters())
    trainer = DirectSFTTrainer(
        model=trainable(model, student),
        args=sft_arguments(settings, student.max_length, out, seed),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[trainer_callback(out / "metrics.jsonl", on_step, prefix="sft")],
    )
    be_quiet(trainer)
    result = trainer.train(resume_from_checkpoint=last_checkpoint(out))
    save_trained(trainer, tokenizer, student.model, student, out / "model")
    return {
        "rows": len(rows),
        "too_long": long,
        "tokens": sum(len(r["input_ids"]) for r in rows),
        "supervised_tokens": sum(t != IGNORED for r in rows for t in r["labels"]),
        "loss": result.training_loss,
    }


def sft_arguments(settings: SftConfig, max_length: int, out: Path, seed: int) -> "TrlConfig":
    """Return TRL's configuration. On a CPU nothing is autocast: TRL's default is bf16, which a CPU emulates."""
    import torch
    from trl.trainer.sft_config import SFTConfig as TrlConfig

    gpu = torch.cuda.is_available()
    batch = max(1, settings.batch // int(os.environ.get("WORLD_SIZE", "1")))  # of each process of a launch
    return TrlConfig(
        output_dir=str(out),
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        per_device_train_batch_size=min(settings.micro_batch, batch),
        gradient_accumulation_steps=max(1, batch // settings.micro_batch),
        max_length=max_length,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_steps=1,
        seed=seed,
        data_seed=seed,
        bf16=gpu,
        gradient_checkpointing=gpu,
        train_sampling_strategy="sequential",  # `in_pairs` has an order
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        report_to=[],
        disable_tqdm=True,
    )


def example_of(row: Mapping[str, Any]) -> TrainingExample:
    """Read a row of an exported `sft` set (see `distill.export.sft_row`)."""
    return TrainingExample(
        messages=tuple(Message(**message) for message in row["messages"]),
        trajectory_key=row["trajectory"],
        task_id=row["task_id"],
        role=row["role"],
        label=row["verdict"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m train.sft`; returns the exit code."""
    from train.launch import finish, load_settings, parse, read_rows, shown_steps
    from train.student import check_student

    args = parse("sft", argv)

    def work() -> int:
        settings = load_settings(args)
        check_student(settings.student.model)
        rows = read_rows(args.data, "sft", ("messages", "role", "verdict", "task_id", "trajectory"))
        examples = [example_of(row) for row in rows]
        args.out.mkdir(parents=True, exist_ok=True)
        report = train_sft(
            examples,
            student=settings.student,
            settings=settings.sft,
            out=args.out,
            seed=settings.seed,
            on_step=shown_steps("sft"),
        )
        return finish(report, args.out)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
