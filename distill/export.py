"""`python -m distill.export`: the data of a run as Hugging Face data sets, parquet with a card.

Input: a run's folder. Output: `sft` (the selected conversations, for TRL's SFTTrainer with `assistant_only_loss=True`
and the chat template that lies beside them) and `grpo` (the prompts, each with role and label). The same selection as
in the run: nothing is sampled anew, and the run's folder is only read.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from distill import prompt_rows
from tools.command_line import guarded
from tools.errors import ConfigError, NothingAcceptedError

if TYPE_CHECKING:
    from agents.store import Row
    from distill.pipeline import Run
    from distill.select import Funnel

KINDS = ("sft", "grpo")
TEMPLATE = "chat_template.jinja"
SETTINGS = "settings.yaml"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.export", description="Write a run's data as Hugging Face data sets with a card."
    )
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="a run's folder, such as runs/demo")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--what", choices=(*KINDS, "both"), default="both", help="which data (default: both)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parse(argv)

    def work() -> int:
        rows = export(args.run, args.out, KINDS if args.what == "both" else (args.what,))
        sys.stdout.writelines(f"{kind}: {n:,} rows\n" for kind, n in rows.items())
        sys.stdout.write(f"{args.out / 'README.md'}\n")
        return 0

    return guarded(work)


def export(folder: Path, out: Path, kinds: Sequence[str] = KINDS) -> dict[str, int]:
    """Write the data sets of a run.

    Args:
        folder: the run's.
        out: folder to make; it is written whole or not at all.
        kinds: of `KINDS`.

    Returns:
        Rows by kind.

    Raises:
        ConfigError: `folder` is no run's, or `out` is there already.
        DataError: the store is missing or damaged.
        NothingAcceptedError: a kind has no row.
    """
    from agents.store import Store
    from distill.card import Contents, card

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there already; choose another folder with --out")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with Store(folder / "store.sqlite", readonly=True) as store:
        run = open_run(folder, store)
        made: dict[str, list[dict[str, Any]]] = {}
        funnel: Funnel | None = None
        if "sft" in kinds:
            made["sft"], funnel = sft_rows(run)
        if "grpo" in kinds:
            made["grpo"] = prompt_rows.grpo_rows(run)
    for kind, rows in made.items():
        if not rows:
            raise NothingAcceptedError(f"{folder}: nothing to export for {kind}; choose another with --what")
        write_rows(rows, part / kind)
    (part / TEMPLATE).write_text(_template(folder), encoding="utf-8")
    (part / SETTINGS).write_text(_settings(run), encoding="utf-8")
    contents = Contents({kind: len(rows) for kind, rows in made.items()}, funnel, run.benchmarks)
    (part / "README.md").write_text(card(run.cfg, contents), encoding="utf-8")
    if out.exists():
        out.rmdir()
    part.rename(out)
    return contents.rows


def open_run(folder: Path, store: Any) -> "Run":
    """Return the run whose settings lie in a folder, for reading.

    Raises:
        ConfigError: it is no run's folder.
    """
    from distill.config import CONFIG_FILE, load_config
    from distill.inputs import load_benchmarks, load_parts
    from distill.pipeline import Run

    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"{folder}: no run there ({CONFIG_FILE} is missing); give the folder of a run, runs/NAME")
    place = folder.resolve()
    cfg = load_config(path).model_copy(update={"out": str(place.parent), "name": place.name})  # it may have been moved
    return Run(cfg, load_parts(cfg), store, load_benchmarks(cfg))


def sft_rows(run: "Run") -> "tuple[list[dict[str, Any]], Funnel]":
    """Return the selected conversations in training order, and how they came to be."""
    selected = run.choose()
    return [sft_row(row) for row in selected.rows], selected.funnel


def sft_row(row: "Row") -> dict[str, Any]:
    """Return a selected trajectory as a row of the `sft` data."""
    from agents.protocol import wire_messages
    from distill.select import to_example

    example = to_example(row)
    return {
        "messages": wire_messages(example.messages),
        "role": example.role,
        "verdict": example.label,
        "task_id": example.task_id,
        "trajectory": example.trajectory_key,
        "source": row.task.source,
        "model": row.trajectory.model,
        "tool_calls": row.trajectory.tool_calls,
        "completion_tokens": row.trajectory.completion_tokens,
    }


def write_rows(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write rows as the one parquet file of a folder."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder.mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(str(folder / "train-00000-of-00001.parquet"))


def _settings(run: "Run") -> str:
    """Return what `python -m train.sft` and `python -m train.grpo` need of the run's settings, as YAML."""
    from train.settings import TrainingSettings

    cfg = run.cfg
    made = TrainingSettings(
        seed=cfg.seed,
        style=cfg.teacher.style,
        answers=cfg.mixture.answerer,
        agent_turns=cfg.mixture.agent_turns,
        student=cfg.student,
        sft=cfg.sft,
        grpo=cfg.grpo,
        judge=cfg.judge,
        sandbox=cfg.sandbox,
        tools=cfg.tools,
    )
    return yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False)


def _template(folder: Path) -> str:
    """Return the chat template that the run's student was trained with, Retort's own where there is no student yet."""
    from train.student import CHATML

    saved = folder / "sft" / "model" / TEMPLATE
    return (saved if saved.is_file() else CHATML).read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
