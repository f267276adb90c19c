"""A file of candidate solutions, read for evaluation: problems, labels, final answers, scores of other scorers.

Input: JSON lines in AgentV-RL's form (`question, ground_truth, samples[], evaluations[{correct}]`), with, where the
file has them, `task_type` (math, qa, short or program), `aliases`, `turns` (an agent's, a list a sample: the final
answer is then that of the last turn), `orm_scores` (a number a sample), `prm_scores` (a list of step scores a sample),
`level`, `benchmark` (or `task`), and `steps` with `mistake_index` (the first wrong step from 0; null: none): there the
solution is written with its steps numbered from 1. Or the folder of a run: its held-out problems. Output: one `Problem`
a question.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from agents.records import read_records, task_of
from agents.store import Store
from agents.types import Candidate, Frozen, Task
from eval.checkers import CHECKERS, grade, grade_answer
from tools.errors import DataError

STORE = "store.sqlite"  # of a run
STEP_SCORES = {"prm_min": min, "prm_last": lambda steps: steps[-1], "prm_product": math.prod}


class Problem(Frozen):
    """A problem with its labelled candidates; `scores` holds one mapping a candidate, from scorer to number.

    `steps` and `first_error` are those of the only candidate of a file that says where its first mistake is.
    """

    task: Task
    candidates: tuple[Candidate, ...]
    benchmark: str
    scores: tuple[dict[str, float], ...]
    steps: tuple[str, ...] = ()
    first_error: int | None = None


class Loaded(NamedTuple):
    """Problems of a file, and how much was left out: records that repeat a question, candidates without a label."""

    problems: list[Problem]
    repeated: int
    unlabelled: int


def load_candidates(path: Path, limit: int | None = None) -> Loaded:
    """Read the problems of a file in its order; of records with one question the last counts.

    Args:
        path: the file (parquet where its name ends so, else JSON lines), or the folder of a run.
        limit: the first so many records; None: all.

    Raises:
        DataError: no such file, a malformed record, or no labelled candidate at all.
    """
    loaded = load_problems(path, limit)
    kept = [problem for problem in loaded.problems if problem.candidates]
    if not kept:
        raise DataError(f"{path}: no labelled candidate; records need `samples` with `evaluations` or a ground truth")
    return loaded._replace(problems=kept)


def load_problems(path: Path, limit: int | None = None) -> Loaded:
    """Read the problems of a file likewise, those without candidates too.

    Raises:
        DataError: no such file, a malformed record, or none at all.
    """
    if path.is_dir():
        return _held_out(path, limit)
    if not path.is_file():
        raise DataError(f"no such file {str(path)!r}; check --candidates")
    problems: dict[str, Problem] = {}
    read = dropped = 0
    for spot, record in read_records(path, parquet=path.suffix == ".parquet"):
        if limit is not None and read >= limit:
            break
        read += 1
        problem, unlabelled = _problem(record, spot, path)
        problems[problem.task.id] = problem
        dropped += unlabelled
    if not problems:
        raise DataError(f"{path}: no records; see --help for what they hold")
    return Loaded(list(problems.values()), read - len(problems), dropped)


def _held_out(run: Path, limit: int | None) -> Loaded:
    """Return the held-out problems of a run; `benchmark` is the family or the file that they are of."""
    with Store(run / STORE, readonly=True) as store:
        ids = store.held_out()
        tasks = [task for task in store.tasks() if ids and task.id in ids][:limit]
        found = [(task, store.candidates(task.id) or []) for task in tasks]
    if not found:
        raise DataError(f"{run} notes no held-out problems; run python -m distill.run on it once more")
    problems = []
    for task, candidates in found:
        kept = tuple(
            c.model_copy(update={"answer": _answer(task, c, c.answer)}) for c in candidates if c.correct is not None
        )
        benchmark = task.source.rpartition(":")[2].rpartition("/")[2]
        if kept:
            problems.append(Problem(task=task, candidates=kept, benchmark=benchmark, scores=tuple({} for _ in kept)))
    if not problems:
        raise DataError(f"{run} has no candidates of its held-out problems yet; let python -m distill.run finish")
    return Loaded(problems, 0, sum(len(c) for _, c in found) - sum(len(p.candidates) for p in problems))


def _problem(record: dict[str, Any], spot: str, path: Path) -> tuple[Problem, int]:
    """Return the problem of a record, and how many of its candidates have no label."""
    steps, first_error = _first_error(record, spot)
    if steps:  # what is said about steps needs their numbers
        record = record | {"samples": ["\n".join(f"Step {i}: {step}" for i, step in enumerate(steps, 1))]}
    task = task_of(record, spot, f"jsonl:{path.name}")
    named = [e.get("parsed_pred") for e in record.get("evaluations") or [{}] * len(task.candidates)]
    scores = _scores(record, len(task.candidates), spot)
    rows = [
        (
            candidate.model_copy(
                update={"answer": _answer(task, candidate, given), "correct": _label(task, candidate)}
            ),
            score,
        )
        for candidate, given, score in zip(task.candidates, named, scores, strict=True)
    ]
    kept = [(candidate, score) for candidate, score in rows if candidate.correct is not None]
    problem = Problem(
        task=task.model_copy(update={"candidates": ()}),
        candidates=tuple(candidate for candidate, _ in kept),
        benchmark=str(record.get("benchmark") or record.get("task") or path.stem),
        scores=tuple(score for _, score in kept),
        steps=steps,
        first_error=first_error,
    )
    return problem, len(rows) - len(kept)


def _answer(task: Task, candidate: Candidate, given: object) -> str | None:
    """Return the final answer: an agent's own, else as we extract it, else as the file names it."""
    if candidate.turns:
        return candidate.answer
    return CHECKERS[task.kind].extract(candidate.text) or (str(given).strip() or None if given is not None else None)


def _label(task: Task, candidate: Candidate) -> bool | None:
    if candidate.correct is not None:
        return candidate.correct
    return (grade_answer(task, candidate.answer) if candidate.turns else grade(task, candidate.text)).correct


def _scores(record: dict[str, Any], n: int, spot: str) -> list[dict[str, float]]:
    """Return each candidate's scores: `orm` and, from step scores, their minimum, last and product."""
    out: list[dict[str, float]] = [{} for _ in range(n)]
    if (given := record.get("orm_scores")) is not None:
        for scores, value in zip(out, _numbers(given, n, f"{spot}: `orm_scores`"), strict=True):
            scores["orm"] = value
    if (given := record.get("prm_scores")) is not None:
        if not isinstance(given, list) or len(given) != n:
            raise DataError(f"{spot}: `prm_scores` must hold a list of step scores for each of {n} samples")
        for scores, steps in zip(out, given, strict=True):
            values = _numbers(steps, None, f"{spot}: `prm_scores`")
            scores.update({name: float(reduce(values)) for name, reduce in STEP_SCORES.items()} if values else {})
    return out


def _numbers(values: object, n: int | None, what: str) -> list[float]:
    """Return a list of finite numbers of length n."""
    plain = isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    if not isinstance(values, list) or not plain or (n is not None and len(values) != n):
        raise DataError(f"{what} must be a list of {'' if n is None else f'{n} '}finite numbers")
    return [float(v) for v in values]


def _first_error(record: dict[str, Any], spot: str) -> tuple[tuple[str, ...], int | None]:
    """Return the steps and the index of the first wrong one; no steps where the file does not say."""
    if "mistake_index" not in record:
        return (), None
    steps, index = record.get("steps"), record["mistake_index"]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        raise DataError(f"{spot}: `mistake_index` needs `steps`, a list of strings")
    if index is not None and (not isinstance(index, int) or not 0 <= index < len(steps)):
        raise DataError(f"{spot}: `mistake_index` must be null or the index of one of {len(steps)} steps")
    return tuple(steps), index
