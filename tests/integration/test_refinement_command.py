"""`python -m eval.refinement` as a user runs it: scripted models on a small file, killed and resumed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import commands
from tests.integration.commands import kill_when, write_sums

SMALL = ("--model", "scripted-teacher", "--rounds", 2, "--bootstrap", 50)
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten sums with four solutions each, half of them wrong."""
    return write_sums(tmp_path_factory.mktemp("data") / "sums.jsonl", 10, 4)


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return commands.run("eval.refinement", *args)


def lines(folder: Path) -> list[dict]:
    path = folder / "rounds.jsonl"
    whole = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def kill_after(folder: Path, n: int, *args: object) -> None:
    """Start the command and kill it when its journal holds so many lines."""
    more = ("--out", folder, "--concurrency", 1)
    kill_when(lambda: len(lines(folder)) >= n, "eval.refinement", *args, *more, seconds=120)


def curves(folder: Path) -> dict:
    """Read the numbers without the time that they took."""
    found = json.loads((folder / "refinement.json").read_text())["curves"]
    return {c: [{k: v for k, v in p.items() if k != "seconds"} for p in points] for c, points in found.items()}


def test_killed_and_resumed_equals_a_run_in_one_go(candidates: Path, tmp_path: Path):
    args = ("--candidates", candidates, *SMALL, "--critic", "verifier", "none")
    whole = run(*args, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    kill_after(tmp_path / "killed", 15, *args)
    held = lines(tmp_path / "killed")
    resumed = run(*args, "--out", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    after = lines(tmp_path / "killed")
    assert after[: len(held)] == held  # nothing that was there is asked again or lost
    states = [(line["critic"], line["candidate"], line["round"]["index"], line["round"]["outcome"]) for line in after]
    assert len(states) == len(set(states))
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")
    first, _, last = curves(tmp_path / "whole")["verifier"]
    assert last["accuracy"] > first["accuracy"] and last["down"] < 0.2
    assert 0 < last["accepted"] < 1 and last["tokens"] > 0 and first["tokens"] == 0
    alone = curves(tmp_path / "whole")["none"][-1]
    assert alone["tool_calls"] == 0 and alone["accuracy"] < last["accuracy"]  # the critique is what helps
    assert "verifier 2" in whole.stdout and "verifier's critique: +" in whole.stdout and "refine: " not in whole.stdout
    assert "refine: " in whole.stderr
    assert (tmp_path / "whole" / "refinement.png").stat().st_size > 1000


def test_first_solutions_by_a_solver(candidates: Path, tmp_path: Path):
    done = run("--candidates", candidates, *SMALL, "--solver", "scripted-solver", "--out", tmp_path / "s", "--limit", 4)
    assert done.returncode == 0, done.stderr
    assert "4 solutions of 4 problems" in done.stdout
    assert curves(tmp_path / "s")["verifier"][0]["tokens"] > 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--candidates", "none.jsonl"], "no such file 'none.jsonl'"),
        (["--candidates", "{file}", "--refiner", "no/such"], "--refiner 'no/such': no folder"),
        (["--candidates", "{file}", "--refiner", "x", "--refiner-url", "http://127.0.0.1:9/v1"], "cannot reach"),
        (["--candidates", "{file}", "--set", "refiner_style=loud"], "refiner_style"),
        (["--candidates", "{bad}"], "bad.jsonl:1: not JSON"),
        (["--candidates", "{file}", "--out", "/proc/no"], "/proc/no"),
    ],
)
def test_errors_are_one_line(candidates: Path, tmp_path: Path, args: list[str], said: str):
    (tmp_path / "bad.jsonl").write_text("{\n")
    filled = [a.format(file=candidates, bad=tmp_path / "bad.jsonl") for a in args]
    done = run(*filled, *SMALL, *(() if "--out" in filled else ("--out", tmp_path / "out")), "--limit", 1)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "refinement.json").exists()
