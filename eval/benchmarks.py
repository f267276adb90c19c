"""Benchmarks by name: `--benchmark NAME` reads the Hub, `--benchmark NAME:FILE` a local copy.

Input of a copy: JSON lines, parquet or CSV. Output: tasks with reference answers (programs: with their tests in
`metadata`), in the set's order. A new name needs a row of `BENCHMARKS`, where its answers are of a kind that there is.

How the rows came about. Checked against files with these very problems (question, answer, level; files whose fields
have our names): math500, gsm8k, gaokao2023en, aime24, hotpotqa. The Hub was never read here: its repositories,
configurations, splits and columns are from data set cards (MATH-500's and MuSiQue's by way of their copies, aime_2024,
hotpot_qa, bamboogle) and from other projects' loaders (Gaokao2023-Math-En, aime25, 2WikiMultihopQA,
code_generation_lite, GAIA, WebWalkerQA, xbench's DeepSearch); gsm8k's are those of its release, hle's of its card.
gaia and hle are gated: who has not accepted their terms on the Hub gives a copy of their own. gaia is the validation
split (the test split has no answers), with its files; hle is its text-only part. WebWalkerQA's answers are sentences:
the rule says little of them, a grader more (`eval.agent --grader`); the page that a question begins at is not told.
"""

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from agents.records import ANSWER_FIELDS, QUESTION_FIELDS, read_csv, read_records
from agents.types import Kind, Task
from eval.benchmark_rows import FILE, Row, gaia_row, hle_row, webwalker_row, xbench_row
from eval.hub import Asked, HubSet, asked_of, clean_question, hub_rows, reference_answer, text_of, value_of
from eval.program_tests import FIELDS as TEST_FIELDS
from tools.errors import ConfigError, DataError

_log = logging.getLogger(__name__)
_MISSING = object()


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is, how its answers are compared, and the column with other right answers.

    `prepare` makes plain columns of a row (`eval.benchmark_rows`); None where its question cannot be asked as text.
    """

    hub: HubSet
    kind: Kind = "math"
    aliases: str = ""
    prepare: Callable[[Row, str], Row | None] | None = None


BENCHMARKS: dict[str, Benchmark] = {
    "math500": Benchmark(HubSet("HuggingFaceH4/MATH-500", split="test", question="problem")),
    "gsm8k": Benchmark(HubSet("openai/gsm8k", config="main", split="test")),
    "gaokao2023en": Benchmark(HubSet("MARIO-Math-Reasoning/Gaokao2023-Math-En")),
    "aime24": Benchmark(HubSet("HuggingFaceH4/aime_2024", question="problem")),
    "aime25": Benchmark(HubSet("math-ai/aime25", split="test", question="problem")),
    "hotpotqa": Benchmark(HubSet("hotpotqa/hotpot_qa", config="distractor", split="validation"), "qa"),
    "2wiki": Benchmark(HubSet("framolfese/2WikiMultihopQA", split="validation", level="type"), "qa"),
    "musique": Benchmark(HubSet("dgslibisey/MuSiQue", split="validation"), "qa", aliases="answer_aliases"),
    "bamboogle": Benchmark(HubSet("chiayewken/bamboogle", split="test", question="Question", answer="Answer"), "qa"),
    "gaia": Benchmark(
        HubSet(
            "gaia-benchmark/GAIA",
            config="2023_all",
            split="validation",
            question="Question",
            answer="Final answer",
            level="Level",
        ),
        "short",
        prepare=gaia_row,
    ),
    "webwalkerqa": Benchmark(HubSet("callanwu/WebWalkerQA", split="main"), "qa", prepare=webwalker_row),
    "hle": Benchmark(HubSet("cais/hle", split="test", level="category"), prepare=hle_row),
    "xbench": Benchmark(HubSet("xbench/DeepSearch", question="prompt"), "short", prepare=xbench_row),
    # The newest problems (release 6, January to April 2025, 134 MB); the repository's script is not run.
    "livecodebench": Benchmark(
        HubSet(
            "livecodebench/code_generation_lite",
            split="test",
            question="question_content",
            answer="",
            level="difficulty",
            file="test6.jsonl",
        ),
        "program",
    ),
}


@dataclass(frozen=True)
class Chosen:
    """What `--benchmark` says: a name, and a file in place of the Hub."""

    name: str
    file: Path | None = None

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark of that name."""
        return BENCHMARKS[self.name]


def choose(text: str) -> Chosen:
    """Read `NAME` or `NAME:FILE`.

    Raises:
        ConfigError: no such benchmark; the nearest name is told.
        DataError: no such file.
    """
    name, colon, file = text.partition(":")
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name.lower(), BENCHMARKS, 1, 0.0)[0]
        raise ConfigError(
            f"--benchmark {text!r}: no benchmark {name!r}; did you mean {near}? There are {', '.join(BENCHMARKS)}"
        )
    if not colon:
        return Chosen(name)
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"--benchmark {text!r}: no such file {file!r}; check the path, or leave it out for the Hub")
    return Chosen(name, path)


def load_tasks(chosen: Chosen, limit: int | None = None) -> list[Task]:
    """Return the problems of a benchmark in its order, each once.

    Args:
        chosen: which, and where from.
        limit: the first so many; None: all.

    Raises:
        ConfigError: the Hub has no such set or field, or access is denied.
        DataError: the Hub cannot be reached; a file is damaged, has other columns, or holds no problem.
    """
    found: dict[str, Task] = {}
    for task in islice(_tasks(chosen), limit):
        found.setdefault(task.id, task)
    if not found:
        raise DataError(f"--benchmark {chosen.name}: {chosen.file or chosen.benchmark.hub.source} holds no problem")
    return list(found.values())


def hub_questions(name: str) -> list[str]:
    """Return the questions of a benchmark as the Hub has them, decrypted where they are released encrypted.

    Raises:
        ConfigError, DataError: see `eval.hub.hub_rows`.
    """
    benchmark = BENCHMARKS[name]
    hub, prepare = replace(benchmark.hub, answer=""), benchmark.prepare
    found = []
    for spot, raw in hub_rows(hub, asked_of(hub)):
        row = prepare(raw, spot) if prepare else raw
        question = clean_question(text_of(value_of(row, hub.question))) if row else ""
        if question:
            found.append(question)
    return found


def _tasks(chosen: Chosen) -> Iterator[Task]:
    """Yield the tasks of all rows that have a question and what it is graded by; the others are counted in the log."""
    benchmark, empty, unasked = chosen.benchmark, 0, 0
    for spot, raw in _rows(chosen):
        row = benchmark.prepare(raw, spot) if benchmark.prepare else raw
        if row is None:
            unasked += 1
            continue
        task = task_of_row(row, spot, benchmark, f"benchmark:{chosen.name}")
        if task is None:
            empty += 1
        else:
            yield task
    if empty:
        _log.warning("--benchmark %s: %d rows without question or answer were left out", chosen.name, empty)
    if unasked:
        _log.warning("--benchmark %s: %d questions about images were left out", chosen.name, unasked)


def _rows(chosen: Chosen) -> Iterator[tuple[str, dict[str, Any]]]:
    hub = chosen.benchmark.hub
    if chosen.file is None:
        yield from hub_rows(hub, Asked(f"--benchmark {chosen.name} ({hub.source})", f"--benchmark {chosen.name}:FILE"))
        return
    for number, (spot, row) in enumerate(_records(chosen.file)):
        names = (hub.question, hub.question.capitalize(), *QUESTION_FIELDS)
        if number == 0 and _first(row, names) is _MISSING:
            raise DataError(
                f"--benchmark {chosen.name}: {spot} has no question; give it a column {hub.question!r} or "
                f"{', '.join(QUESTION_FIELDS)}; there are {', '.join(map(str, row))}"
            )
        yield spot, row


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix == ".csv":
        return read_csv(file)
    return read_records(file, parquet=file.suffix == ".parquet")


def task_of_row(row: dict[str, Any], spot: str, benchmark: Benchmark, source: str) -> Task | None:
    """Return the task of a row, whose columns may have the Hub's names or those of our own files.

    Args:
        row: of the Hub or of a file.
        spot: where it stands, for errors.
        benchmark: which fields hold what.
        source: of the task.

    Returns:
        The task; None where the row has no question, or nothing to grade by.

    Raises:
        DataError: a program's tests are missing.
    """
    hub = benchmark.hub
    question = text_of(_found(row, (hub.question, *QUESTION_FIELDS)))
    level = text_of(value_of(row, hub.level))
    if benchmark.kind == "program":
        return _program(row, spot, question, level, source)
    held = _found(row, ("ground_truth", hub.answer, *ANSWER_FIELDS))
    answer, question = reference_answer(held), clean_question(question)
    if not question or not answer:
        return None
    others = _found(row, (benchmark.aliases, "aliases")) or ()
    aliases = tuple(str(a).strip() for a in others if str(a).strip()) if isinstance(others, Sequence) else ()
    told = Task(question=question, answer=answer, aliases=aliases, kind=benchmark.kind, level=level, source=source)
    return told.model_copy(update={"metadata": {FILE: row[FILE]}}) if row.get(FILE) else told


def _program(row: dict[str, Any], spot: str, question: str, level: str, source: str) -> Task | None:
    """Return a programming task: the problem as it is, with the starter code that its tests call by name."""
    if not question:
        return None
    if not row.get("public_test_cases") and not row.get("private_test_cases"):
        raise DataError(f"{spot}: no tests; a program's row needs public_test_cases or private_test_cases")
    if starter := text_of(row.get("starter_code")):
        question = f"{question}\n\nStarter code:\n```python\n{starter}\n```"
    tests = {field: row[field] for field in TEST_FIELDS if row.get(field)}
    return Task(question=question, kind="program", level=level, source=source, metadata=tests)


def _first(row: dict[str, Any], fields: Sequence[str]) -> Any:
    """Return the value of the first of some fields that a row has."""
    for field in fields:
        if field and (value := value_of(row, field, missing=_MISSING)) is not _MISSING and value is not None:
            return value
    return _MISSING


def _found(row: dict[str, Any], fields: Sequence[str]) -> Any:
    value = _first(row, fields)
    return None if value is _MISSING else value
