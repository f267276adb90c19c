"""`python -m eval.judge`, whole: labels meet scores afterwards; the same command asks nothing again."""

import json
from pathlib import Path

import pytest

from eval import judge, judging
from eval.judge_report import JudgeReport
from tests.unit.fakes import FakeChat, Reply
from tools.errors import ModelError

SCORES = {"A: 1": 0.9, "A: 2": 0.6, "A: 3": 0.2}


class Judge(FakeChat):
    """Scores by the answer; `down` answers fail."""

    model_id: str = "scripted-judge"
    down: str = "none"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        shown = str(next(m for m, given in reversed(self.sent) if given["session"] == session)[-1].content)
        if self.down in shown:
            return ModelError("gone")
        score = next(s for text, s in SCORES.items() if text in shown)
        return f"<think>t</think><critique>c</critique><score>{score}</score>"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr("agents.models.open_chat", lambda model, base_url=None, **_: made)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f.jsonl"
    records = [
        {"question": "p", "ground_truth": "1", "samples": ["A: 1", "A: 2", "A: 1"], "benchmark": "one"},
        {"question": "q", "ground_truth": "3", "samples": ["A: 2", "A: 3"], "benchmark": "two"},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def run(file: Path, out: Path, *more: str) -> int:
    args = ["--candidates", str(file), "--model", "scripted-judge", "--out", str(out), "--bootstrap", "20", *more]
    return judge.main(args)


def test_the_table(chat: Judge, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Right: 0.9, 0.9 (one text, judged once) and 0.2; wrong: 0.6, 0.6. AUROC: 4 of 6 pairs."""
    out = tmp_path / "out"
    assert run(file, out) == 0
    assert len(chat.sent) == 4
    report = JudgeReport.model_validate_json((out / "judge.json").read_text())
    whole = report.groups["all"].verdicts
    assert (whole.n, whole.n_problems) == (5, 2)
    assert whole.auroc == pytest.approx(4 / 6) and whole.accuracy == pytest.approx(2 / 5)
    assert report.groups["benchmark one"].verdicts.auroc == 1.0
    assert report.groups["benchmark two"].spearman == pytest.approx(-1.0)
    told = capsys.readouterr().out
    assert "rank correlation" in told and "a program, not a language model" in told
    assert (out / "reliability.png").stat().st_size > 1000
    assert run(file, out) == 0 and len(chat.sent) == 4  # nothing is asked again


def test_an_outage_ends_it_in_one_line_and_what_is_done_is_kept(
    chat: Judge, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chat.down = "A: 3"
    assert run(file, tmp_path / "out") == 2
    assert "1 judgements failed; the others are kept" in capsys.readouterr().err
    chat.down = "none"
    calls = len(chat.sent)
    assert run(file, tmp_path / "out") == 0 and len(chat.sent) == calls + 1


def test_a_folder_is_one_judges(chat: Judge, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, tmp_path / "out") == 0
    assert run(file, tmp_path / "out", "--set", "style=full") == 2
    assert "style: 'compact' there, 'full' here" in capsys.readouterr().err
    assert (tmp_path / "out" / judging.IDENTITY).is_file()


def test_settings_are_checked(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(file, tmp_path / "out", "--set", "max_turn=1") == 2
    assert "unknown judge setting 'max_turn'; did you mean max_turns?" in capsys.readouterr().err
