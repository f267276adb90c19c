"""Where problems come from: `reasoning_gym:`, `jsonl:PATH`, `parquet:PATH`, `hf:NAME` (`eval.hub`) and `cloze:PATH`.

Output: a list of `Task`, one a problem (content-hash ids, duplicates dropped), in an order that depends on the seed
only. A file may already hold candidate solutions with labels (the input form of AgentV-RL: `idx, question,
ground_truth, samples[], evaluations[{correct}]`); `cloze:` makes questions of a corpus (`distill.cloze`).
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import records
from agents.records import task_of
from agents.scripted_solver import worked_steps
from agents.types import Task
from distill.cloze import cloze_tasks
from tools.errors import ConfigError, DataError
from tools.whole import write_whole

MAX_DRAWS = 20  # reasoning_gym problems drawn for each one kept, at the most


def load_tasks(
    source: str,
    n: int,
    seed: int,
    families: dict[str, float] | None = None,
    difficulty: float = 1.0,
    apart_from: Sequence[Task] = (),
) -> list[Task]:
    """Return up to `n` tasks of a source, shuffled by `seed`.

    Args:
        source: `reasoning_gym:`, `jsonl:PATH`, `parquet:PATH`, `hf:NAME` (see `distill.presets`), or `cloze:PATH`.
        n: how many problems.
        seed: of the generator and of the shuffle.
        families: reasoning_gym data sets and their shares.
        difficulty: 1.0 is the default; larger numbers, more terms above it.
        apart_from: problems of reasoning_gym that are not drawn again; of `cloze:`, neither are their passages.

    Raises:
        ConfigError: no such source, family, data set or field.
        DataError: the Hub cannot be reached; a file is missing, empty, or has a malformed record (its line is named).
    """
    kind, _, where = source.partition(":")
    if kind == "reasoning_gym":
        return _generate(n, seed, families or {where: 1.0}, difficulty, {t.id for t in apart_from})
    if kind == "cloze":
        return cloze_tasks(where, n, seed, apart_from)  # shuffled already: a passage's questions stay together
    if kind == "hf":
        tasks = _from_hub(where, n, seed)
    else:
        found = (task_of(record, spot, source) for spot, record in read_records(source))
        tasks = list({t.id: t for t in found}.values())
    if not tasks:
        raise DataError(f"{where}: holds no task; give a source with at least one record")
    random.Random(seed).shuffle(tasks)
    return tasks[:n]


def _from_hub(where: str, n: int, seed: int) -> list[Task]:
    from distill.presets import PRESETS
    from eval.hub import hub_set, read_hub

    hub = hub_set(where, PRESETS)
    tasks: dict[str, Task] = {}
    for spot, record in read_hub(hub, seed, expected=n):
        task = task_of(record, spot, hub.source)
        tasks[task.id] = task
        if len(tasks) == n:  # repeated problems count once
            break
    return list(tasks.values())


def read_records(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of `jsonl:PATH` or `parquet:PATH` with their places.

    Raises:
        ConfigError: another kind of source.
        DataError: the file is missing or malformed.
    """
    kind, _, where = source.partition(":")
    if kind not in ("jsonl", "parquet"):
        raise ConfigError(
            f"tasks.source={source!r}: unknown kind {kind!r}; use reasoning_gym:, jsonl:PATH, parquet:PATH, hf:NAME or "
            "cloze:PATH"
        )
    path = Path(where).expanduser()
    if not path.is_file():
        raise DataError(f"tasks.source={source!r}: no such file {where!r}; check the path")
    return records.read_records(path, parquet=kind == "parquet")


def load_benchmark(name: str) -> list[str]:
    """Return the questions of an evaluation set.

    Args:
        name: one of `eval.benchmarks.BENCHMARKS`, `hf:…`, `jsonl:PATH` or `parquet:PATH`.

    Raises:
        ConfigError: no such set or field.
        DataError: the Hub cannot be reached; the file is missing, empty or malformed.
    """
    from eval.benchmarks import BENCHMARKS, hub_questions
    from eval.hub import hub_set, read_hub

    kind, _, where = name.partition(":")
    if name in BENCHMARKS:
        found = hub_questions(name)
    elif kind == "hf":
        hub = replace(hub_set(where, {n: b.hub for n, b in BENCHMARKS.items()}), answer="")
        found = [record["question"] for _, record in read_hub(hub)]
    elif kind in ("jsonl", "parquet"):
        found = [task_of(record, spot, name).question for spot, record in read_records(name)]
    else:
        raise ConfigError(
            f"select.decontaminate={name!r}: no such set; there are {', '.join(BENCHMARKS)}, or give hf:…, jsonl:PATH "
            "or parquet:PATH"
        )
    if not found:
        raise DataError(f"select.decontaminate={name!r}: holds no question; give another source")
    return found


def split_tasks(tasks: list[Task], sizes: dict[str, int]) -> dict[str, list[Task]]:
    """Split tasks by problem into named parts of the given sizes; where there are too few, parts shrink alike.

    Raises:
        DataError: too few problems for every part to have one.
    """
    wanted = sum(sizes.values())
    share = min(1.0, len(tasks) / wanted)
    parts, start = {}, 0
    for name, size in sizes.items():
        end = start + int(size * share)
        if size and end == start:
            raise DataError(f"tasks: {len(tasks)} problems are too few for {name} (asked: {sizes}); give more problems")
        parts[name] = tasks[start:end]
        start = end
    return parts


def save_parts(parts: dict[str, list[Task]], path: Path) -> None:
    """Write the split problems, whole or not at all."""
    lines = [
        json.dumps({"part": name, "task": t.model_dump(mode="json")}) for name, part in parts.items() for t in part
    ]
    write_whole(path, "\n".join([json.dumps({"parts": list(parts)}), *lines]) + "\n")


def saved_parts(path: Path) -> dict[str, list[Task]]:
    """Return what `save_parts` wrote.

    Raises:
        DataError: the file is damaged.
    """
    try:
        head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        parts: dict[str, list[Task]] = {name: [] for name in head["parts"]}
        for line in lines:
            parts[line["part"]].append(Task.model_validate(line["task"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the problems of a run ({error}); delete the folder and begin anew") from error
    return parts


# --- reasoning_gym ---------------------------------------------------------------------------------------------------


def _generate(n: int, seed: int, families: dict[str, float], difficulty: float, known: set[str]) -> list[Task]:
    total = sum(families.values())
    if total <= 0:
        raise ConfigError("tasks.families: the shares add up to nothing; give at least one family a share above 0")
    tasks: dict[str, Task] = {}
    reached, drawn = 0.0, 0  # rounded as they add up, so that the families' numbers come to n
    for i, (family, share) in enumerate(sorted(families.items())):
        reached += share
        wanted = round(n * reached / total) - drawn
        drawn += wanted
        tasks.update(_family(family, wanted, seed * 1000 + i, difficulty, known))
    out = list(tasks.values())
    random.Random(seed).shuffle(out)
    return out[:n]


def _family(family: str, n: int, seed: int, difficulty: float, known: set[str]) -> dict[str, Task]:
    import reasoning_gym

    settings = FAMILIES[family](difficulty) if family in FAMILIES else {}
    try:
        problems = reasoning_gym.create_dataset(family, size=max(1, n * MAX_DRAWS), seed=seed, **settings)
    except ValueError as error:
        raise ConfigError(f"tasks.families: reasoning_gym has no data set {family!r} ({error})") from error
    kept: dict[str, Task] = {}
    for i in range(len(problems)):
        if len(kept) >= n:
            break
        task = _generated_task(problems[i], family, difficulty)
        if task.id not in known and worked_steps(task.question, task.metadata["worked"]) is not None:
            kept[task.id] = task
    return kept


def _generated_task(problem: dict[str, Any], family: str, difficulty: float) -> Task:
    question = problem["question"].replace(" Give the result as your final answer. Do not include units.", "").strip()
    return Task(
        question=question,
        answer=str(problem["answer"]),
        source=f"reasoning_gym:{family}",
        level=f"{difficulty:g}",
        metadata={"worked": problem["metadata"].get("answer_cot", "")},
    )


def _sums(difficulty: float) -> dict[str, Any]:
    terms = max(3, round(3 + difficulty))
    return {"min_terms": terms, "max_terms": terms, "min_digits": 2, "max_digits": 3}


def _equations(difficulty: float) -> dict[str, Any]:
    products = 0.2 if difficulty > 1 else 0.0  # of constants: coefficients of four and five digits
    weights = [(1 - products) / 2, (1 - products) / 2, products]  # of + - *
    return {
        "min_terms": 2,
        "max_terms": 3,
        "max_value": max(10, round(60 * difficulty)),
        "operators_weights": weights,
    }


FAMILIES: dict[str, Callable[[float], dict[str, Any]]] = {
    "chain_sum": _sums,
    "simple_equations": _equations,
}  # the others have one difficulty
