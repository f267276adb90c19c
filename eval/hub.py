r"""Rows of data sets of the Hugging Face Hub, in a split's order or shuffled, and what their fields hold.

Input: a `HubSet` (`hf:org/name?question=…&answer=…`, a preset of `distill.presets`, a benchmark of `eval.benchmarks`);
output: rows as they are, or plain records (`question`, `answer`, `level`) for `distill.tasks`. Rows are streamed: no
more of a set is read than is asked for. A field may be dotted (`reward_model.ground_truth`), a list (its first entry
counts) or a conversation (its last user message counts).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from eval.answers import extract_answer
from tools.errors import ConfigError, DataError, RetortError

SHUFFLE_BUFFER = 10_000  # rows read ahead of the first one, so that a part of a sorted set is a fair part
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubSet:
    """Where a data set is and which of its fields hold what; each is an option of `hf:NAME?option=value`."""

    name: str
    config: str = ""
    split: str = "train"
    question: str = "question"
    answer: str = "answer"
    level: str = "level"
    file: str = ""  # of the repository, where its files differ in their columns
    revision: str = ""  # a branch, tag or commit; a run that must be repeatable names one

    @property
    def source(self) -> str:
        """What a task's `source` says."""
        return f"hf:{self.name}"


class Asked(NamedTuple):
    """How the user named a set, and how a local copy of it is named: for errors."""

    where: str
    copy: str


KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
OPTIONS = tuple(f.name for f in fields(HubSet) if f.name != "name")
# What some sets wrap around a problem: the markers of a chat template, and the order to put the answer in a box.
_MARKERS = re.compile(r"<[|｜][^|｜<>]{1,40}[|｜]>(?:(?:user|assistant|system)\n)?|<think>")
_ORDER = re.compile(
    r"\s*(?:please|let'?s)\s+(?:reason|think)\s+step[ -]by[ -]step[^\n]{0,40}?(?:put|output)\s+(?:your|the)\s+final\s+"
    r"answer\s+within\s+\\boxed\s*\{\}\.?\s*$",
    re.IGNORECASE,
)


def hub_set(where: str, presets: Mapping[str, HubSet]) -> HubSet:
    """Return the set that `NAME?option=value&…` stands for; options change a preset too.

    Raises:
        ConfigError: no name, or an unknown option.
    """
    name, _, query = where.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in OPTIONS:
            raise ConfigError(f"tasks.source='hf:{where}': unknown option {option!r}; there are {', '.join(OPTIONS)}")
    if not name:
        raise ConfigError(f"tasks.source='hf:{where}': no name; use one of {', '.join(presets)}, or org/name")
    if name not in presets and "/" not in name:
        raise ConfigError(
            f"tasks.source='hf:{where}': no preset {name!r}; there are {', '.join(presets)}, or give org/name"
        )
    return replace(presets.get(name, HubSet(name)), **options)


def read_hub(hub: HubSet, seed: int | None = None, expected: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield records with their places; rows without question or answer are left out and counted in the log.

    Args:
        hub: which set and fields.
        seed: see `hub_rows`.
        expected: see `hub_rows`.

    Raises:
        ConfigError, DataError: see `hub_rows`.
    """
    empty = 0
    for spot, row in hub_rows(hub, asked_of(hub), seed, expected):
        question = clean_question(text_of(value_of(row, hub.question)))
        answer = reference_answer(value_of(row, hub.answer)) if hub.answer else None
        if not question or (hub.answer and not answer):
            empty += 1
            continue
        yield spot, {"question": question, "answer": answer, "level": text_of(value_of(row, hub.level))}
    if empty:
        _log.warning("%s: %d rows without question or answer were left out", hub.source, empty)


def asked_of(hub: HubSet) -> Asked:
    """Return how a run's settings name a set."""
    return Asked(f"tasks.source='{hub.source}'", "tasks.source=jsonl:PATH")


def hub_rows(
    hub: HubSet, asked: Asked, seed: int | None = None, expected: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows as they are, with their places. They are loaded as they are asked for: who wants few stops early.

    Args:
        hub: which set and fields.
        asked: how the user named it.
        seed: shuffles through a buffer of rows that is filled before the first one comes; None: in the set's order.
        expected: how many will be asked for: the buffer holds four times as many, `SHUFFLE_BUFFER` at most.

    Raises:
        ConfigError: no such set, configuration, split or field, or access is denied.
        DataError: the Hub cannot be reached, or a file is damaged.
    """
    rows = _open(hub, asked)
    if seed is not None:
        rows = rows.shuffle(seed=seed, buffer_size=min(SHUFFLE_BUFFER, 4 * expected) if expected else SHUFFLE_BUFFER)
    return _placed(hub, asked, rows)


def _placed(hub: HubSet, asked: Asked, rows: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows with their places; an error of the stream is told in one line."""
    try:
        for number, row in enumerate(rows, 1):
            if number == 1:
                _check_fields(hub, asked, row)
            yield f"{hub.source} row {number}", row
    except _errors() as error:
        if isinstance(error, RetortError):
            raise
        raise _explained(hub, asked, error) from error


def _open(hub: HubSet, asked: Asked) -> Any:
    """Open the set for streaming: nothing but its list of files is loaded yet."""
    from datasets import load_dataset
    from datasets.utils.logging import set_verbosity
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # its retries: what they come to is told in one line
    set_verbosity(logging.CRITICAL)
    if hub.file:
        where = {"path": KINDS.get(Path(hub.file).suffix, "json"), "data_files": {hub.split: _address(hub)}}
    else:
        where = {"path": hub.name, "name": hub.config or None, "revision": hub.revision or None}
    try:
        return load_dataset(split=hub.split, streaming=True, **where)
    except _errors() as error:
        raise _explained(hub, asked, error) from error


def _address(hub: HubSet) -> str:
    """Return where the named file of a repository, or of a folder here, is."""
    if Path(hub.name).is_dir():
        return str(Path(hub.name) / hub.file)
    return f"hf://datasets/{hub.name}{f'@{hub.revision}' if hub.revision else ''}/{hub.file}"


def _errors() -> tuple[type[Exception], ...]:
    """Return what `datasets` and the clients below it raise; they have no common base class of their own."""
    from aiohttp import ClientError
    from datasets.exceptions import DatasetsError
    from httpx import HTTPError
    from pyarrow import ArrowException

    return (DatasetsError, ArrowException, HTTPError, ClientError, OSError, ValueError, RuntimeError)


def _explained(hub: HubSet, asked: Asked, error: Exception) -> RetortError:
    """Return our error for one of theirs: denied, out of reach, damaged, or wrongly named."""
    from aiohttp import ClientError
    from datasets.exceptions import DatasetGenerationError
    from httpx import TransportError
    from pyarrow import ArrowException

    told = (str(error).splitlines() or [""])[0][:200]
    where = asked.where
    if "gated" in told or "401" in told or "403" in told:
        return ConfigError(
            f"{where}: access is denied; accept its terms on huggingface.co/datasets/{hub.name} and set HF_TOKEN, "
            f"or use your own copy: {asked.copy}"
        )
    if isinstance(error, ConnectionError | TimeoutError | TransportError | ClientError):
        return DataError(f"{where}: the Hub cannot be reached ({told}); see to the network or use a copy: {asked.copy}")
    if isinstance(error, DatasetGenerationError | ArrowException | UnicodeDecodeError):
        return DataError(f"{where}: a file cannot be read ({told}); name another with file=…")
    return ConfigError(f"{where}: {told}; check the name, config=, split= and file=")


def _check_fields(hub: HubSet, asked: Asked, row: dict[str, Any]) -> None:
    """Make sure that the first row has the fields.

    Raises:
        ConfigError: it has not; the columns that there are are named.
    """
    for option in ("question", "answer"):
        field = getattr(hub, option)
        if field and value_of(row, field, missing=_MISSING) is _MISSING:
            raise ConfigError(
                f"{asked.where}: no column {field!r} for {option}=…; there are {', '.join(map(str, row))}"
            )


_MISSING = object()


def value_of(row: dict[str, Any], field: str, missing: Any = None) -> Any:
    """Return the value of a field of a row, dots going into mappings."""
    value: Any = row
    for part in field.split(".") if field not in row else [field]:
        if not isinstance(value, dict) or part not in value:
            return missing
        value = value[part]
    return value


def text_of(value: Any) -> str:
    """Return a value as text: of a conversation the last user message, of another list its first entry."""
    if isinstance(value, list):
        said = [m["content"] for m in value if isinstance(m, dict) and m.get("role") == "user"]
        value = said[-1] if said else next(iter(value), None)
    return "" if value is None else str(value).strip()


def clean_question(text: str) -> str:
    """Return a problem without chat markers around it and without the order to box the answer at its end."""
    return _ORDER.sub("", _MARKERS.sub("", text).strip()).strip()


def reference_answer(value: Any) -> str | None:
    r"""Return the final answer that a field holds: after `####`, inside the last `\boxed{}`, else the text itself."""
    text = text_of(value)
    if "####" in text:
        text = text.rsplit("####", 1)[1].strip()
    elif "boxed" in text:
        return extract_answer(text)
    return text or None
