"""Records of files that hold problems: JSON lines or parquet in, one `Task` a record out.

A record may already hold candidate solutions with labels (the input form of AgentV-RL: `idx, question, ground_truth,
samples[], evaluations[{correct}]`), and say what kind of task it is (`task_type`: math, qa, short or program) and which
other answers are right (`aliases`). What an agent did for its candidates stands in `turns`: a list of turns a sample.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from agents.final_answer import answer_stated
from agents.types import Candidate, Kind, Task, Turn
from tools.errors import DataError

QUESTION_FIELDS = ("question", "problem", "prompt")
ANSWER_FIELDS = ("ground_truth", "answer", "final_answer")


def read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of a CSV file with a header, each with its place.

    Raises:
        DataError: it is no text, or a row has more cells than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.DictReader(lines), 2):
                if None in row:
                    raise DataError(f"{path}: row {number} has more cells than the header; mend or remove it")
                yield f"{path}: row {number}", dict(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error


def read_records(path: Path, parquet: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every record of a file of JSON lines, or of parquet, with its place.

    Raises:
        DataError: it is not readable, or holds something else than objects.
    """
    return _read_parquet(path) if parquet else read_jsonl(path)


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file, each with its place (`path:line`).

    Raises:
        DataError: a line is no JSON object.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            spot = f"{path}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{spot}: not JSON ({error.msg} at column {error.colno}); mend or remove the line"
                ) from error
            if not isinstance(record, dict):
                raise DataError(f"{spot}: expected an object, got {type(record).__name__}; mend or remove the line")
            yield spot, record


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from error
    yield from ((f"{path}: row {i}", row) for i, row in enumerate(rows, 1))


def task_of(record: dict[str, Any], spot: str, source: str) -> Task:
    """Return the task that a record holds, with its candidates.

    Args:
        record: with a question, perhaps an answer, a level, a kind, and candidates (`samples`, `evaluations`,
            `sources`, `turns`).
        spot: where it stands, for errors.
        source: of the task.

    Raises:
        DataError: it holds no question, an unknown kind, or malformed candidates.
    """
    question = _first(record, QUESTION_FIELDS)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{spot}: no question; a record needs one of the fields {', '.join(QUESTION_FIELDS)}")
    answer = _first(record, ANSWER_FIELDS)
    answer = str(answer).rsplit("####", 1)[-1].strip() if answer is not None else None
    kind, aliases = record.get("task_type") or "math", record.get("aliases") or []
    if kind not in get_args(Kind):
        raise DataError(f"{spot}: `task_type` must be one of {', '.join(get_args(Kind))}, not {kind!r}")
    if not isinstance(aliases, list):
        raise DataError(f"{spot}: `aliases` must be a list of answers")
    task = Task(
        question=question,
        answer=answer,
        aliases=tuple(map(str, aliases)),
        kind=kind,
        source=source,
        level=str(record.get("level", "")),
    )
    return task.model_copy(update={"candidates": tuple(_candidates(task, record, spot))})


def _first(record: dict[str, Any], fields: Iterable[str]) -> Any:
    return next((record[f] for f in fields if record.get(f) is not None), None)


def _candidates(task: Task, record: dict[str, Any], spot: str) -> Iterator[Candidate]:
    samples = record.get("samples") or []
    evaluations = record.get("evaluations")
    evaluations = [{}] * len(samples) if evaluations is None else evaluations
    if not isinstance(samples, list) or len(evaluations) != len(samples):
        raise DataError(f"{spot}: `samples` and `evaluations` must be lists of one length")
    models = record.get("sources") or [""] * len(samples)
    turns = _turns(record, len(samples), spot)
    for i, (text, evaluation) in enumerate(zip(samples, evaluations, strict=True)):
        if not isinstance(text, str) or not isinstance(evaluation, dict):
            raise DataError(f"{spot}: `samples` must hold strings and `evaluations` objects with `correct`")
        if not isinstance(evaluation.get("correct"), bool | None):
            raise DataError(f"{spot}: `correct` must be true, false or null, not {evaluation['correct']!r}")
        model = str(models[i]) if i < len(models) else ""
        yield Candidate(
            task_id=task.id,
            index=i,
            text=text,
            turns=turns[i],
            answer=answer_stated(turns[i]),
            correct=evaluation.get("correct"),
            model=model,
        )


def _turns(record: dict[str, Any], n: int, spot: str) -> list[tuple[Turn, ...]]:
    """Return what an agent did for each of `n` samples; nothing where the record does not say, or has no samples."""
    given = record.get("turns")
    if given is None or not n:
        return [()] * n
    if not isinstance(given, list) or len(given) != n or not all(isinstance(turns, list) for turns in given):
        raise DataError(f"{spot}: `turns` must hold a list of turns for each of {n} samples")
    return [tuple(_turn(turn, f"{spot}: `turns`[{i}][{j}]") for j, turn in enumerate(t)) for i, t in enumerate(given)]


def _turn(given: object, place: str) -> Turn:
    try:
        return Turn.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise DataError(f"{place}: {f'{at}: ' if at else ''}{first['msg']}; mend or remove the record") from error
