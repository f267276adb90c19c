"""The probe on SmolLM2, as a user runs it: padding, a kill, the resumption, and its use beside a verifier."""

import json
from pathlib import Path

import numpy as np
import pytest

from agents.store import Store
from agents.types import Candidate, Task
from tests.integration.commands import kill_when, rows_in, run

MODEL = "smollm2-135m"
pytestmark = pytest.mark.integration


def sums() -> list[tuple[Task, list[str], list[bool]]]:
    """Return six sums with a right and two wrong solutions each."""
    out = []
    for i in range(6):
        a, b, c = 37 + 11 * i, 58 + 7 * i, 19 + 5 * i
        task = Task(question=f"Calculate {a} + {b} - {c}.", answer=str(a + b - c))
        lines = [(a + b, a + b - c), (a + b, a + b - c + 10), (a + b - 1, a + b - c - 1)]
        texts = [f"{a} + {b} = {first}\n{first} - {c} = {last}\nA: {last}" for first, last in lines]
        out.append((task, texts, [True, False, False]))
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sums as a run's store, one of them held out."""
    path = tmp_path_factory.mktemp("run") / "store.sqlite"
    with Store(path) as made:
        for task, texts, right in sums():
            made.add_task(task)
            pairs = enumerate(zip(texts, right, strict=True))
            made.add_candidates(
                task.id, [Candidate(task_id=task.id, index=i, text=text, correct=r) for i, (text, r) in pairs]
            )
        made.hold_out(task.id for task, _, _ in sums()[:1])
    return path


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sums as a file of candidates."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    records = [
        {"question": t.question, "ground_truth": t.answer, "samples": s, "evaluations": [{"correct": r} for r in right]}
        for t, s, right in sums()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def held(folder: Path) -> int:
    """Return how many readings a folder holds."""
    return rows_in(folder / "readings.sqlite", "readings")


def test_a_batch_of_eight_reads_what_a_batch_of_one_reads(tmp_path: Path):
    from train.probe_features import Solution, read_all, reader_of

    solutions = [Solution(t.question, text * (1 + i % 3)) for t, texts, _ in sums()[:2] for i, text in enumerate(texts)]
    one = read_all(solutions, reader_of(MODEL, batch=1), tmp_path / "one.sqlite")
    eight = read_all(solutions, reader_of(MODEL, batch=8), tmp_path / "eight.sqlite")
    for a, b in zip(one, eight, strict=True):
        scale = np.abs(a.hidden_LD).max(axis=1, keepdims=True)
        assert np.abs((a.hidden_LD - b.hidden_LD) / scale).max() < 1e-4
    spread = np.abs(one[0].hidden_LD - one[1].hidden_LD) / np.abs(one[0].hidden_LD).max(axis=1, keepdims=True)
    assert spread.max() > 1e-2  # what another solution changes


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that was trained in one go."""
    folder = tmp_path_factory.mktemp("probe") / "whole"
    done = run(*training(store, folder))
    assert done.returncode == 0, done.stderr
    assert "AUROC within a problem" in done.stdout and "read: " in done.stderr and "read: " not in done.stdout
    return folder


def training(store: Path, folder: Path) -> tuple[str, *tuple[object, ...]]:
    return ("train.probe", "--store", store, "--model", MODEL, "--batch", 2, "--out", folder)


def test_killed_and_resumed_equals_a_run_in_one_go(store: Path, whole: Path, tmp_path: Path):
    killed = tmp_path / "killed"
    kill_when(lambda: held(killed) >= 4, *training(store, killed))
    before, total = held(killed), held(whole)
    assert 4 <= before < total == 18 and not (killed / "probe.json").exists()
    resumed = run(*training(store, killed))
    assert resumed.returncode == 0, resumed.stderr
    assert held(killed) == total and f"/{total - before} solutions" in resumed.stderr
    ours, theirs = (json.loads((folder / "probe.json").read_text()) for folder in (killed, whole))
    for made in (ours, theirs):
        del made["seconds"]
    assert ours == theirs and ours["problems"] == 5 and ours["held_out"]["metrics"]["n_problems"] == 1


def test_beside_a_verifier(whole: Path, candidates: Path, tmp_path: Path):
    args = (
        *("--candidates", candidates, "--model", "scripted-teacher", "--bootstrap", 20),
        *("--probe", whole, "--out", tmp_path / "e"),
    )
    best = run("eval.best_of_n", *args, "--draws", 4)
    assert best.returncode == 0, best.stderr
    rows = [json.loads(line) for line in (tmp_path / "e" / "candidates.jsonl").read_text().splitlines()]
    middle = sorted(row["scores"]["probe"] for row in rows)[6:12]
    curves = json.loads((tmp_path / "e" / "best_of_n.json").read_text())["curves"]
    last = curves["probe"]["points"][-1]
    assert last["tokens"] == 0 < last["seconds"] and curves["verifier"]["points"][-1]["tokens"] > 0
    cascade = run("eval.verdicts", *args, "--probe-band", f"{middle[0]},{middle[-1]}")
    assert cascade.returncode == 0, cascade.stderr
    assert "The probe decided 12 of 18" in cascade.stdout and "probe alone" in cascade.stdout
    rows = [json.loads(line) for line in (tmp_path / "e" / "candidates.jsonl").read_text().splitlines()]
    for row in rows:
        inside = row["scores"]["probe"] in middle
        assert (row["source"] == "probe") is not inside and (row["tokens"] > 0) is inside and row["seconds"] > 0
    assert sum(row["source"] == "probe" for row in rows) == 12
