import json

import pytest

from distill.tasks import load_tasks, split_tasks
from tools.errors import ConfigError, DataError


def test_one_seed_one_list():
    mix = {"chain_sum": 0.5, "simple_equations": 0.5}
    first, again = (load_tasks("reasoning_gym:", 20, 7, mix) for _ in range(2))
    assert [t.id for t in first] == [t.id for t in again]
    assert [t.id for t in load_tasks("reasoning_gym:", 20, 8, mix)] != [t.id for t in first]
    assert len({t.id for t in first}) == len(first) == 20
    assert {t.source for t in first} == {"reasoning_gym:chain_sum", "reasoning_gym:simple_equations"}


def test_few_problems_of_many_families_come_to_the_number_asked_for():
    thirds = {"chain_sum": 1.0, "simple_equations": 1.0, "basic_arithmetic": 1.0}
    assert [len(load_tasks("reasoning_gym:", n, 0, thirds)) for n in (1, 2, 4)] == [1, 2, 4]


def test_families_of_one_difficulty_are_drawn_at_any():
    """gsm_symbolic refuses every other difficulty than 1."""
    assert len(load_tasks("reasoning_gym:", 3, 0, {"gsm_symbolic": 1.0}, 0.25)) == 3


def test_difficulty_adds_terms():
    def terms(difficulty: float) -> int:
        tasks = load_tasks("reasoning_gym:", 20, 0, {"chain_sum": 1.0}, difficulty)
        return max(t.question.count(" + ") + t.question.count(" - ") for t in tasks)

    assert terms(1.0) < terms(3.0)


def test_unknown_family_and_source():
    with pytest.raises(ConfigError, match="no_such_family"):
        load_tasks("reasoning_gym:", 4, 0, {"no_such_family": 1.0})
    with pytest.raises(ConfigError, match="unknown kind 'ftp'"):
        load_tasks("ftp:x", 4, 0)


def test_candidate_file(tmp_path):
    record = {
        "question": "2+2?",
        "ground_truth": "4",
        "samples": ["A: 4", "A: 5"],
        "evaluations": [{"correct": True}, {"correct": False}],
    }
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(record) + "\n\n" + json.dumps({"question": "1+1?", "answer": "so #### 2"}) + "\n")
    tasks = {t.question: t for t in load_tasks(f"jsonl:{path}", 10, 0)}
    assert [(c.text, c.correct) for c in tasks["2+2?"].candidates] == [("A: 4", True), ("A: 5", False)]
    assert {c.task_id for c in tasks["2+2?"].candidates} == {tasks["2+2?"].id}
    assert tasks["1+1?"].answer == "2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{oops", r"c\.jsonl:2: not JSON"),
        ("[1]", r"c\.jsonl:2: expected an object"),
        ('{"answer": "3"}', r"c\.jsonl:2: no question"),
        ('{"question": "q", "samples": ["a"], "evaluations": []}', r"c\.jsonl:2.*one length"),
    ],
)
def test_malformed_line_names_file_and_line(tmp_path, line, said):
    path = tmp_path / "c.jsonl"
    path.write_text('{"question": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=said):
        load_tasks(f"jsonl:{path}", 10, 0)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_tasks(f"jsonl:{tmp_path}/none.jsonl", 10, 0)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no task"):
        load_tasks(f"jsonl:{tmp_path}/empty.jsonl", 10, 0)


def test_split_is_by_problem_and_shrinks_alike():
    tasks = load_tasks("reasoning_gym:", 20, 0, {"chain_sum": 1.0})
    parts = split_tasks(tasks, {"a": 20, "b": 10, "c": 10})
    assert [len(parts[k]) for k in "abc"] == [10, 5, 5]
    ids = [t.id for part in parts.values() for t in part]
    assert len(ids) == len(set(ids))
    with pytest.raises(DataError, match="too few"):
        split_tasks(tasks[:2], {"a": 20, "b": 10, "c": 10})
