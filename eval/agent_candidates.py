"""What an agent did on a benchmark as candidates: the file that `eval.judge` and `distill.rrm` read.

Input: problems with trajectories and grades. Output: JSON lines in the form of `agents/records.py`, one a problem, with
the turns of every trajectory beside its transcript. A file that belongs to a problem is not in it.
"""

import json
from collections.abc import Iterable
from typing import Any

from agents.transcript import JUDGED, transcript
from eval.agent_report import Answered
from graphs.judge_state import MAX_TRANSCRIPT

CANDIDATES = "candidates.jsonl"


def candidate_lines(answered: Iterable[Answered], benchmark: str) -> str:
    """Return the file's text; a trajectory without a turn, and a problem without a trajectory, are left out."""
    records = [record for a in answered if (record := record_of(a, benchmark))["samples"]]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", "replace").decode("utf-8")  # half a character of a model's text is in no file


def record_of(answered: Answered, benchmark: str) -> dict[str, Any]:
    """Return the record of a problem; labels are the rule's grades."""
    task = answered.task
    graded = zip(answered.trajectories, answered.grades, strict=True)
    made = [(trajectory, grade) for trajectory, grade in graded if trajectory.turns]
    return {
        "question": task.question,
        "ground_truth": task.answer,
        "aliases": list(task.aliases),
        "task_type": task.kind,
        "level": task.level,
        "benchmark": benchmark,
        "samples": [transcript(trajectory.turns, MAX_TRANSCRIPT) for trajectory, _ in made],
        "evaluations": [{"correct": grade.correct} for _, grade in made],
        "sources": [trajectory.model for trajectory, _ in made],
        "turns": [[turn.model_dump(mode="json", include=JUDGED) for turn in t.turns] for t, _ in made],
    }
