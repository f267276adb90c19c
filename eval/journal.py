"""A journal of refinements: one JSON line a round, appended as it comes; the last line on a round counts.

Purpose: a process that is killed at any moment loses no round that it has written, and the next one asks for none of
them again. One process writes at a time; the lock dies with it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from agents.types import Frozen, Round
from eval.line_file import LineFile, refused
from graphs.refine_state import record_rounds
from tools.errors import DataError

Key = tuple[str, str]  # critic, candidate


class Entry(Frozen):
    """A line: a round of the refinement of one candidate under one critic."""

    critic: str
    candidate: str
    round: Round


class Journal:
    """The journal in a file. A context manager; `rounds` holds what it has, by critic and candidate."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self.rounds: dict[Key, list[Round]] = {}
        self._file = LineFile(path)

    def __enter__(self) -> Self:
        """Open the file, read it, and drop a last line that was cut by a kill.

        Raises:
            DataError: another process writes it, it cannot be written, or a line is no round.
        """
        try:
            self._file.open()
        except BlockingIOError as error:
            raise DataError(
                f"{self.path} is being written by another process; wait, or choose another --out"
            ) from error
        except OSError as error:
            raise refused(self.path, error) from error
        try:
            for number, line in self._file:
                self._hold(self._entry(number, line))
        except BaseException:
            self._file.close()
            raise
        return self

    def _entry(self, number: int, line: bytes) -> Entry:
        try:
            return Entry.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{self.path}:{number}: no round of a refinement; choose another --out") from error

    def _hold(self, entry: Entry) -> None:
        key = entry.critic, entry.candidate
        self.rounds[key] = record_rounds(self.rounds.get(key, []), [entry.round])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, critic: str, candidate: str, made: Round) -> None:
        """Append a round.

        Raises:
            OSError: the disk is full, say.
        """
        entry = Entry(critic=critic, candidate=candidate, round=made)
        self._file.append(json.dumps(entry.model_dump(mode="json"), ensure_ascii=False))
        self._hold(entry)

    def of(self, critic: str, candidate: str) -> list[Round]:
        """Return the rounds held of a candidate under a critic, in order."""
        return self.rounds.get((critic, candidate), [])

    def first(self, candidate: str) -> Mapping[str, Round]:
        """Return the first rounds held of a candidate, by critic."""
        return {c: rounds[0] for (c, of), rounds in self.rounds.items() if of == candidate and rounds[0].index == 0}
