"""Prompts of GRPO from the data that a command line names: exported solutions, or problems (exported, or of a file)."""

import json
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.records import read_records, task_of
from agents.types import Turn
from tools.errors import ConfigError, DataError
from train.launch import read_rows
from train.pools import Problem
from train.reviews import Prompt
from train.settings import ON_PROBLEMS

if TYPE_CHECKING:
    from train.mixed import MixedPrompt

SOLUTIONS = ("key", "problem", "solution", "role", "label")
PROBLEMS = ("question", "answer", "aliases", "task_type")


def read_solutions(args: Namespace) -> list[Prompt]:
    """Return the exported prompts of verifiers or judges.

    Raises:
        ConfigError: problems are given in their place.
        DataError: there is no such data.
    """
    if args.tasks:
        raise ConfigError("--tasks is for grpo.recipe=reagent_r and reagent_u; the others train on exported --data")
    return [_solution(row) for row in read_rows(args.data, "grpo", SOLUTIONS)]


def _solution(row: dict[str, Any]) -> Prompt:
    turns = tuple(Turn.model_validate(turn) for turn in json.loads(row.get("turns") or "[]"))
    return Prompt(row["key"], row["problem"], row["solution"], row["role"], row["label"], turns)


def read_mixed(args: Namespace) -> "list[MixedPrompt]":
    """Return the exported prompts of several recipes (a column says of which).

    Raises:
        ConfigError: problems are given in their place.
        DataError: there is no such data, it lacks a column, or a record is malformed.
    """
    from train.mixed import MixedPrompt  # it is the decoder's: reading problems takes no torch

    if args.tasks:
        raise ConfigError("--tasks is for grpo.recipe=reagent_r and reagent_u; several recipes train on --data")
    rows = read_rows(args.data, "grpo", ("recipe",))
    kinds = {PROBLEMS if row["recipe"] in ON_PROBLEMS else SOLUTIONS for row in rows}  # there may be one kind alone
    if missing := [name for kind in sorted(kinds) for name in kind if name not in rows[0]]:
        raise DataError(f"--data {args.data}: no column {', '.join(missing)}; there are {', '.join(rows[0])}")
    out = []
    for i, row in enumerate(rows, 1):
        if row["recipe"] in ON_PROBLEMS:
            task = task_of(row, f"{args.data}: row {i}", args.data)
            out.append(MixedPrompt(row["recipe"], Problem(task.id, task)))
        else:
            out.append(MixedPrompt(row["recipe"], _solution(row)))
    return out


def read_problems(args: Namespace) -> list[Problem]:
    """Return the problems that the command line names, each once, in their order.

    Raises:
        ConfigError: `--tasks` names no file.
        DataError: there is no such data, or a record is malformed.
    """
    if args.tasks:
        kind, _, where = args.tasks.partition(":")
        if kind not in ("jsonl", "parquet") or not Path(where).is_file():
            raise ConfigError(f"--tasks {args.tasks}: no such file; give jsonl:PATH or parquet:PATH")
        found = read_records(Path(where), parquet=kind == "parquet")
    else:
        found = ((f"{args.data}: row {i}", row) for i, row in enumerate(read_rows(args.data, "grpo", PROBLEMS), 1))
    tasks = [task_of(record, spot, args.tasks or args.data) for spot, record in found]
    return [Problem(task.id, task) for task in {task.id: task for task in tasks}.values()]
