"""`python -m distill.rrm`, whole: files of several agents in, what `train.sft` and `train.grpo` read out."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from distill import rrm
from tests.unit.tiny import tiny_tokenizer
from train.launch import load_settings, read_rows
from train.sft import IGNORED, example_of, tokenize

PROBLEMS = [f"Calculate {a} + {b} - 3." for a, b in ((12, 30), (15, 20), (41, 11), (27, 31), (50, 21), (33, 14))]


def solution(problem: str, slip: int) -> str:
    a, b = (int(word) for word in problem.removeprefix("Calculate ").split(" - ")[0].split(" + "))
    total = a + b + slip
    return f"{a} + {b} = {total}\n{total} - 3 = {total - 3}\nA: {total - 3}"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A good agent and a bad one, on the same problems."""
    out = []
    for name, slip in (("good", 0), ("bad", 1)):
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {"question": p, "ground_truth": solution(p, 0).split()[-1], "samples": [solution(p, slip)]}
            for p in PROBLEMS
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out.append(path)
    return out


def run(files: list[Path], out: Path, *more: str, model: str = "scripted-judge") -> int:
    return rrm.main(["--candidates", *map(str, files), "--model", model, "--out", str(out), *more])


def test_what_training_reads(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Six problems, three for each part; a right and a wrong solution of each."""
    out = tmp_path / "data"
    assert run(files, out) == 0
    told = capsys.readouterr().out
    assert "judge/true" in told and str(out / "README.md") in told
    settings = load_settings(argparse.Namespace(settings=None, data=str(out), set=[], student=None))
    assert (settings.grpo.recipe, settings.student.max_length, settings.style) == ("rrm", 1024, "compact")
    sft = read_rows(str(out), "sft", ("messages", "role", "verdict", "task_id", "trajectory"))
    grpo = read_rows(str(out), "grpo", ("key", "problem", "solution", "role", "label", "prompt"))
    assert {row["role"] for row in [*sft, *grpo]} == {"judge"}
    assert len(grpo) == 6 and sum(row["label"] for row in grpo) == 3
    assert len(sft) == 6 and sum(row["verdict"] for row in sft) == 3
    assert not {row["task_id"] for row in sft} & {row["task_id"] for row in grpo}
    for row in sft:
        system, user, said = row["messages"]
        assert "# Judge" in user["content"] and said["role"] == "assistant" and "<score>" in said["content"]
        assert ("All steps hold." in said["content"]) is row["verdict"] and system["role"] == "system"
    assert all(row["prompt"][1]["content"].startswith(f"Problem:\n{row['problem']}\n\nTrajectory:") for row in grpo)
    card = (out / "README.md").read_text()
    assert "a program, not a language model" in card and "judge/true" in card


def test_only_the_judges_words_are_supervised(files: list[Path], tmp_path: Path):
    out = tmp_path / "data"
    assert run(files, out) == 0
    rows = read_rows(str(out), "sft", ("messages",))
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = (out / "chat_template.jinja").read_text()
    examples = [example_of(row) for row in rows]
    tokenized, long = tokenize(examples, tokenizer, 4096)
    assert long == 0
    for row, example in zip(tokenized, examples, strict=True):
        text = tokenizer.decode([t for t in row["labels"] if t != IGNORED])
        assert example.messages[-1].content in text and "Trajectory:" not in text


def test_the_same_command_asks_nothing_again(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert run(files, tmp_path / "one") == 0
    (tmp_path / "one.judged").rename(tmp_path / "two.judged")
    monkeypatch.setattr("eval.judging._drive", lambda *_: pytest.fail("asked again"))
    assert run(files, tmp_path / "two") == 0


def test_held_out_problems_are_in_no_row(files: list[Path], tmp_path: Path):
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps({"question": p, "answer": "1"}) + "\n" for p in PROBLEMS[:4]))
    out = tmp_path / "data"
    assert run(files, out, "--held-out", str(held)) == 0
    text = json.dumps([read_rows(str(out), kind, ()) for kind in ("sft", "grpo")])
    assert not any(problem in text for problem in PROBLEMS[:4])


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["--set", "max_transcript=10"], 2, "it follows from an option of its own"),
        (["--set", "stile=full"], 2, "did you mean style"),
        (["--sft-share", "0"], 2, "no problem for SFT"),
    ],
)
def test_what_is_wrong_is_one_line(
    files: list[Path], tmp_path: Path, more: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
):
    assert run(files, tmp_path / "data", *more) == code
    assert told in capsys.readouterr().err


def test_nothing_accepted(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Only the good agent's solutions: every problem is one-sided, so that there is no pair to keep."""
    assert run(files[:1], tmp_path / "data") == 3
    assert "nothing of 3 judgements was accepted: most fell at selected" in capsys.readouterr().err


def test_a_folder_is_never_written_over(files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "data").mkdir()
    assert run(files, tmp_path / "data") == 2
    assert "is there already" in capsys.readouterr().err
