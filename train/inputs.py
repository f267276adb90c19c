"""Prompts of GRPO from the data that a command line names: exported solutions, or problems (exported, or of a file)."""

from argparse import Namespace
from pathlib import Path

from agents.records import read_records, task_of
from tools.errors import ConfigError
from train.launch import read_rows
from train.pools import Problem
from train.reviews import Prompt

SOLUTIONS = ("key", "problem", "solution", "role", "label")
PROBLEMS = ("question", "answer", "aliases", "task_type")


def read_solutions(args: Namespace) -> list[Prompt]:
    """Return the exported prompts of verifiers or judges.

    Raises:
        ConfigError: problems are given in their place.
        DataError: there is no such data.
    """
    if args.tasks:
        raise ConfigError(
            "--tasks is for grpo.recipe=reagent_r and reagent_u; verifiers and judges train on exported --data"
        )
    rows = read_rows(args.data, "grpo", SOLUTIONS)
    return [Prompt(r["key"], r["problem"], r["solution"], r["role"], r["label"]) for r in rows]


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
