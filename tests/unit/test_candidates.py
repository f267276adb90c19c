"""Files of candidates: labels, answers, scores of other scorers, numbered steps, and errors that name the line."""

import json
from pathlib import Path

import pytest

from eval.candidates import load_candidates
from eval.rows import rows_of
from eval.verdict_report import disagreements
from graphs.state import BidirectionalContext
from tools.errors import DataError

RECORD = {
    "question": "1+1?",
    "ground_truth": "2",
    "samples": ["A: 2", "A: 3", "nothing"],
    "evaluations": [{"correct": True}, {"correct": None}, {"correct": False, "parsed_pred": "7"}],
}


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_labels_and_answers(tmp_path: Path):
    loaded = load_candidates(write(tmp_path / "gsm.jsonl", RECORD))
    (problem,) = loaded.problems
    assert [c.correct for c in problem.candidates] == [True, False, False]  # the second by our checker
    assert [c.answer for c in problem.candidates] == ["2", "3", "7"]  # the third as the file says
    assert (problem.benchmark, problem.scores, problem.steps) == ("gsm", ({}, {}, {}), ())
    assert (loaded.repeated, loaded.unlabelled) == (0, 0)


def test_scores(tmp_path: Path):
    more = {"orm_scores": [1.5, -2, 0.0], "prm_scores": [[0.5, 0.8], [0.9, 0.2], [1.0]], "benchmark": "b"}
    (problem,) = load_candidates(write(tmp_path / "f.jsonl", RECORD | more)).problems
    assert problem.scores[0] == {"orm": 1.5, "prm_min": 0.5, "prm_last": 0.8, "prm_product": pytest.approx(0.4)}
    assert problem.scores[1]["prm_last"] == 0.2 and problem.benchmark == "b"


def test_steps_are_numbered(tmp_path: Path):
    record = {
        "question": "q",
        "ground_truth": "(A)",
        "samples": ["one\nSo the answer is (B)"],
        "steps": ["one", "So the answer is (B)"],
        "evaluations": [{"correct": False}],
        "mistake_index": 1,
        "task": "deduction",
    }
    (problem,) = load_candidates(write(tmp_path / "f.jsonl", record)).problems
    assert problem.candidates[0].text == "Step 1: one\nStep 2: So the answer is (B)"
    assert (problem.first_error, problem.benchmark, problem.candidates[0].answer) == (1, "deduction", "(B)")


def test_repeats_limit_and_what_has_no_label(tmp_path: Path):
    bare = {"question": "no reference", "samples": ["A: 1", "A: 2"], "evaluations": [{"correct": True}, {}]}
    path = write(tmp_path / "f.jsonl", RECORD, RECORD | {"samples": ["A: 2"], "evaluations": [{}]}, bare)
    loaded = load_candidates(path)
    assert (len(loaded.problems), loaded.repeated, loaded.unlabelled) == (2, 1, 1)
    assert [len(p.candidates) for p in loaded.problems] == [1, 1]  # the last record of a question counts
    assert len(load_candidates(path, limit=1).problems[0].candidates) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"orm_scores": [1.0]}, "`orm_scores` must be a list of 3 finite numbers"),
        ({"orm_scores": [1.0, float("nan"), 2.0]}, "finite"),
        ({"prm_scores": [[1.0], [1.0]]}, "`prm_scores`"),
        ({"prm_scores": [[1.0], "x", [1.0]]}, "`prm_scores`"),
        ({"mistake_index": 0}, "needs `steps`"),
        ({"mistake_index": 2, "steps": ["a", "b"]}, "2 steps"),
        ({"evaluations": [{}]}, "one length"),
        ({"evaluations": [{"correct": 1}, {}, {}]}, "true, false or null"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, change: dict, said: str):
    with pytest.raises(DataError, match=said) as caught:
        load_candidates(write(tmp_path / "f.jsonl", RECORD, RECORD | change))
    assert "f.jsonl:2" in str(caught.value)


def test_no_file_and_no_label(tmp_path: Path):
    with pytest.raises(DataError, match="no such file"):
        load_candidates(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no labelled candidate"):
        load_candidates(write(tmp_path / "f.jsonl", {"question": "q", "samples": ["A: 1"]}))


def test_answers_and_labels_go_by_the_kind_of_the_task(tmp_path: Path):
    def record(question: str, **more) -> dict:
        return {"question": question, **more}

    qa = record("Who?", ground_truth="The Beatles", task_type="qa", samples=["Answer: Beatles", "Answer: beatles!"])
    program = record("Add.", task_type="program", samples=["```\nx\n```"], evaluations=[{"correct": True}])
    path = tmp_path / "kinds.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (qa, program)))
    first, second = load_candidates(path).problems
    assert [c.correct for c in first.candidates] == [True, True]
    assert [(c.answer, c.correct) for c in second.candidates] == [("x", True)]
    assert disagreements([first, second]) == ()  # of programs, and of "beatles", mathematics would say otherwise
    (one,) = rows_of([first], {}, BidirectionalContext())
    assert [row.cluster for row in one] == [0, 0]
    wrong = first.model_copy(update={"candidates": (first.candidates[0].model_copy(update={"correct": False}),)})
    assert [(d.answer, d.label) for d in disagreements([wrong])] == [("Beatles", False)]
    path.write_text(json.dumps(record("?", task_type="essay", samples=["x"])) + "\n")
    with pytest.raises(DataError, match="`task_type` must be one of math, qa, short, program, not 'essay'"):
        load_candidates(path)
