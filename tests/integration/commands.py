"""Commands as a user runs them: run to their end, or killed when a folder holds enough."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.scripted_solver import ScriptedSolver

ROOT = Path(__file__).parents[2]


def command(module: str, *args: object) -> list[str]:
    """Return the command line of a module."""
    return [sys.executable, "-m", module, *map(str, args)]


def run(module: str, *args: object, seconds: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without the Hub."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command(module, *args), cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False, env=env
    )


def kill_when(reached: Callable[[], bool], module: str, *args: object, seconds: float = 300) -> None:
    """Start a command and kill it, with all that it started, when a condition holds."""
    process = subprocess.Popen(
        command(module, *args),
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    end = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def trajectories_in(folder: Path) -> int:
    """Count what the store of a folder holds; 0 while there is none."""
    return rows_in(folder / "store.sqlite", "trajectories")


def rows_in(path: Path, table: str) -> int:
    """Count the rows of a table of a SQLite file; 0 while there is none."""
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def write_sums(path: Path, problems: int, samples: int, **columns: Callable[[int, list[bool]], Any]) -> Path:
    """Write sums with solutions, about half of them wrong; `columns` makes more columns of (row, which are right)."""
    solver = ScriptedSolver(error_rate=0.5, seed=1)
    with path.open("w") as out:
        for i in range(problems):
            a, b, c = 37 + 11 * i, 58 + 7 * i, 19 + 5 * i
            question, answer = f"Calculate {a} + {b} - {c}.", a + b - c
            solutions = [solver.solve(question, "", k) for k in range(samples)]
            right = [solution.endswith(f"A: {answer}") for solution in solutions]
            record = {"question": question, "ground_truth": str(answer), "samples": solutions}
            out.write(json.dumps(record | {name: make(i, right) for name, make in columns.items()}) + "\n")
    return path
