"""Training from exported data: `python -m train.sft` and `python -m train.grpo`, alone or under `accelerate launch`.

Input: the folder (or Hub id) that `python -m distill.export` made, with its `settings.yaml`; output: a model in a
folder. Every process of a launch reads the data and trains; the first one alone writes metrics, model and report.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tools.errors import ConfigError, DataError
from train.callbacks import StepHook, is_main_process
from train.settings import AGENT_TURNS, TrainingSettings, answerer_among

SETTINGS = "settings.yaml"
OF_A_RUN = ("name", "out", "tasks", "solver", "teacher", "mixture", "select", "eval")  # a profile has these besides
REPORT = "trained.json"  # written last: the model beside it is whole
SHOWN = (
    *("sft/loss", "reward/mean", "verdict/balanced_accuracy", "rule/first", "rule/refined"),
    "importance/tokens_masked",
)


def parse(kind: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line of `python -m train.<kind>`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m train.{kind}",
        description=f"Train ({kind}) on data of `python -m distill.export`.",
        epilog=f"On several GPUs: accelerate launch --config_file train/accelerate/fsdp.yaml -m train.{kind} …",
    )
    add = parser.add_argument
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", metavar="DIR", help="folder of exported data, or its Hub id")
    if kind == "grpo":
        given.add_argument("--tasks", metavar="SOURCE", help="problems with their answers: jsonl:PATH or parquet:PATH")
        add("--graph", metavar="MODULE:BUILD", help="a graph of your own, see train/own_graph.py; needs --tasks")
        add("--reward", metavar="MODULE:FN", help="of a task and the graph's last state")
        add("--conversations", type=int, default=1, metavar="N", help="of a rollout of --graph, at the most (1)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of checkpoints, metrics and the model")
    add("--student", metavar="MODEL", help="model to start from: a folder or a Hub id (default: that of the settings)")
    add("--settings", type=Path, metavar="FILE", help=f"settings, or a profile (default: {SETTINGS} beside the data)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="such as sft.lr=1e-5 grpo.steps=9")
    return parser.parse_args(argv)


def load_settings(args: argparse.Namespace) -> TrainingSettings:
    """Return the settings: defaults, then the file, then `--set`, then `--student`.

    Of a run's profile the sections that are not about training are passed over, but for what rollouts need of them.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong.
    """
    path = args.settings or Path(args.data or "") / SETTINGS
    values: dict[str, Any] = {}
    if args.settings or (args.data and path.is_file()):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]}); see --settings") from error
        values = _of_profile(values) | {key: value for key, value in values.items() if key not in OF_A_RUN}
    for text in [*args.set, *([f"student.model={args.student}"] if args.student else [])]:
        _assign(values, text)
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{key}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}") from error


def _of_profile(values: dict[str, Any]) -> dict[str, Any]:
    """Return what other sections of a run's profile say of rollouts: prompt style, who answers, in how many steps."""
    mixture, found = values.get("mixture") or {}, {}
    if style := (values.get("teacher") or {}).get("style"):
        found["style"] = style
    if weights := mixture.get("weights"):
        found["answers"] = answerer_among([role for role, weight in weights.items() if weight])
        found["agent_turns"] = mixture.get("agent_turns", AGENT_TURNS)
    return found


def _assign(values: dict[str, Any], text: str) -> None:
    path, equals, raw = text.partition("=")
    *sections, name = path.strip().split(".")
    if not equals or not name:
        raise ConfigError(f"--set {text!r}: expected a.b=c, such as --set sft.lr=1e-5")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {text!r}: {section} is a value, not a section")
    try:
        values[name] = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML; quote it") from error


def read_rows(data: str, kind: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a kind (`sft`, `grpo`) of exported data.

    A folder's files are read as they are: the cache of `datasets` goes by a folder's last name, not by its contents,
    and would give the rows of another one of that name.

    Raises:
        DataError: there is no such data, or it lacks a column.
    """
    try:
        names, rows = _of_folder(Path(data) / kind) if (Path(data) / kind).is_dir() else _of_hub(data, kind)
    except (OSError, ValueError) as error:
        told = str(error).splitlines()[0][:200]
        raise DataError(
            f"--data {data}: no {kind} data there ({told}); make it with python -m distill.export"
        ) from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"--data {data}: no column {', '.join(missing)}; there are {', '.join(names)}")
    return rows


def _of_folder(folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow.parquet

    files = sorted(folder.glob("train-*.parquet"))
    if not files:
        raise ValueError(f"{folder} has no train-*.parquet")
    tables = [pyarrow.parquet.read_table(file) for file in files]
    return tables[0].column_names, [row for table in tables for row in table.to_pylist()]


def _of_hub(data: str, kind: str) -> tuple[list[str], list[dict[str, Any]]]:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    found: Any = load_dataset(data, kind, split="train")
    return found.column_names, found.to_list()


def shown_steps(kind: str) -> StepHook:
    """Return a hook that tells each step in a line on stderr; other processes than the first are silent."""

    def on_step(step: int, steps: int, metrics: dict[str, float]) -> None:
        told = ", ".join(f"{key} {metrics[key]:.3f}" for key in SHOWN if key in metrics)
        sys.stderr.write(f"{kind}: step {step}/{steps}, {told}\n")

    return on_step


def finish(report: dict[str, float], out: Path) -> int:
    """Write and show what a training measured; returns exit code 0."""
    if is_main_process():
        text = json.dumps(report)
        (out / REPORT).write_text(text + "\n", encoding="utf-8")
        sys.stdout.write(f"{text}\nmodel {out / 'model'}\n")
    return 0
