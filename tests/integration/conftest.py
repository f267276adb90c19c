"""One tiny run of the real command, shared by the tests of what it leaves behind."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.commands import run

TINY = (
    *("tasks.n_harvest=6", "tasks.n_grpo=12", "tasks.n_eval=2", "solver.k=4", "eval.k=3", "eval.bootstrap=20"),
    *("sft.max_steps=2", "sft.batch=4", "sft.save_steps=1", "grpo.steps=1", "grpo.groups=2", "grpo.num_generations=2"),
    *("grpo.resample_budget=1", "grpo.max_tokens=48", "eval.max_tokens=48"),
)


class Outcome(NamedTuple):
    """A finished command."""

    folder: Path
    code: int
    out: str
    err: str


def run_cli(*sets: str, seconds: float = 420) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run("distill.run", "--set", *sets, seconds=seconds)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run everything once at tiny size."""
    out = tmp_path_factory.mktemp("runs")
    done = run_cli("name=tiny", f"out={out}", *TINY)
    return Outcome(out / "tiny", done.returncode, done.stdout, done.stderr)


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text())
