"""`eval.solve` as a user runs it: killed and resumed, read by the other commands, a tiny model, programs."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import commands
from tests.integration.commands import kill_when

pytestmark = pytest.mark.integration


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return commands.run("eval.solve", *args)


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums in the columns of GSM8K."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [(37 + 11 * i, 58 + 7 * i, 19 + 5 * i) for i in range(40)]
    path.write_text(
        "".join(
            json.dumps({"question": f"Calculate {a} + {b} - {c}.", "answer": f"#### {a + b - c}", "level": a % 2})
            + "\n"
            for a, b, c in rows
        )
    )
    return path


def test_killed_and_resumed_equals_a_run_in_one_go(sums: Path, tmp_path: Path):
    args = (
        "--benchmark",
        f"gsm8k:{sums}",
        "--model",
        "scripted-solver",
        "--k",
        4,
        "--concurrency",
        1,
        "--bootstrap",
        50,
    )
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    done = run(*args, "--out", whole)
    assert done.returncode == 0, done.stderr
    journal = tmp_path / "killed.samples.jsonl"
    kill_when(
        lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 60, "eval.solve", *args, "--out", killed
    )
    assert not killed.exists()
    held = journal.read_bytes().rpartition(b"\n")[0].split(b"\n")
    again = run(*args, "--out", killed)
    assert again.returncode == 0, again.stderr
    after = [json.loads(line) for line in journal.read_bytes().split(b"\n") if line]
    assert [json.loads(line) for line in held] == after[: len(held)]
    places = [(r["sample"]["problem"], r["sample"]["index"]) for r in after if "sample" in r]
    assert len(places) == len(set(places)) == 160  # nothing twice
    assert sum("graded" in r for r in after) == 160
    assert records(killed) == records(whole)
    ours, theirs = (json.loads(p.with_suffix(".report.json").read_text())["groups"] for p in (killed, whole))
    for group in [*ours.values(), *theirs.values()]:
        del group["seconds"]
    assert ours == theirs and set(ours) == {"all", "level 0", "level 1"}
    assert "pass@1" in again.stdout and "solve: " in again.stderr and "solve: " not in again.stdout
    stamp = journal.stat().st_mtime_ns
    assert run(*args, "--out", killed).returncode == 0 and journal.stat().st_mtime_ns == stamp


def test_the_file_goes_through_best_of_n_and_verdicts(sums: Path, tmp_path: Path):
    out = tmp_path / "c.jsonl"
    done = run("--benchmark", f"gsm8k:{sums}", "--model", "scripted-solver", "--k", 4, "--limit", 6, "--out", out)
    assert done.returncode == 0, done.stderr
    for name, extra in (("best_of_n", []), ("best_of_n", ["--selective"]), ("verdicts", [])):
        words = ["--candidates", out, "--model", "scripted-teacher", "--out", tmp_path / f"{name}{len(extra)}", *extra]
        ran = commands.run(f"eval.{name}", *words, "--bootstrap", 20)
        assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "verdicts0" / "verdicts.json").read_text())
    assert report["groups"]["all"]["metrics"]["n"] == 24 and report["disagreements"] == []


def test_a_models_folder_resumed_draws_other_samples(sums: Path, tmp_path: Path):
    from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer

    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    args = (
        "--benchmark",
        f"gsm8k:{sums}",
        "--limit",
        1,
        "--model",
        folder,
        "--max-tokens",
        8,
        "--out",
        tmp_path / "t.jsonl",
    )
    assert run(*args, "--k", 2).returncode == 0
    done = run(*args, "--k", 4)
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "t.jsonl")
    assert len(set(record["samples"])) == 4 and record["tokens"][0] > 0
    assert [e["correct"] for e in record["evaluations"]] == [False] * 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--benchmark", "gsm8", "--model", "scripted-solver"], "did you mean gsm8k?"),
        (["--benchmark", "gsm8k:none.jsonl", "--model", "scripted-solver"], "no such file 'none.jsonl'"),
        (["--benchmark", "gsm8k:{sums}", "--model", "no/such"], "no --base-url"),
        (["--benchmark", "gsm8k:{sums}", "--model", "x", "--base-url", "http://127.0.0.1:9/v1"], "cannot reach"),
        (["--benchmark", "gsm8k:{sums}", "--model", "scripted-solver", "--out", "/proc/no.jsonl"], "/proc/no"),
        (["--benchmark", "math500", "--model", "scripted-solver"], "--benchmark math500 (hf:HuggingFaceH4/MATH-500): "),
        (["--benchmark", "hotpotqa:{words}", "--model", "scripted-solver"], "1 solutions failed"),
    ],
)
def test_errors_are_one_line(sums: Path, tmp_path: Path, args: list[str], said: str):
    (tmp_path / "words.jsonl").write_text('{"question": "Who?", "answer": "Me"}\n')
    filled = [a.format(sums=sums, words=tmp_path / "words.jsonl") for a in args]
    done = run(*filled, *(() if "--out" in filled else ("--out", tmp_path / "o.jsonl")), "--limit", 1, "--k", 1)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr and not (tmp_path / "o.jsonl").exists()
