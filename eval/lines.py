"""A journal of records: one JSON line each, appended as they come; a kill at any moment loses no line that is written.

Input and output: pydantic models. A line cut off by a kill is dropped at the next start. One process writes at a time;
the lock dies with it.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from eval.line_file import LineFile, refused
from tools.errors import DataError

Record = TypeVar("Record", bound=BaseModel)


class Lines(Generic[Record]):
    """The journal in a file, and its records in memory (`rows`). A context manager."""

    def __init__(self, path: Path, kind: type[Record]) -> None:
        """Name the file and the kind of its records; nothing is opened yet."""
        self.path, self._kind = path, kind
        self.rows: list[Record] = []
        self._file = LineFile(path)

    def __enter__(self) -> Self:
        """Read what there is, and hold the file for writing.

        Raises:
            ConfigError: another process writes it.
            DataError: it cannot be written, or a line is damaged.
        """
        try:
            self._file.open()
        except OSError as error:
            raise refused(self.path, error) from error
        try:
            self.rows += [self._record(number, line) for number, line in self._file]
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full, say.
        """
        self._file.append(json.dumps(record.model_dump(mode="json"), ensure_ascii=False))
        self.rows.append(record)

    def _record(self, number: int, line: bytes) -> Record:
        try:
            return self._kind.model_validate_json(line)
        except ValidationError as error:
            raise DataError(f"{self.path}:{number}: damaged; remove the line, or choose another --out") from error
