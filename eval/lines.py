"""A journal of records: one JSON line each, appended as they come; a kill at any moment loses no line that is written.

Input and output: pydantic models. A line cut off by a kill is dropped at the next start. One process writes at a time;
the lock dies with it.
"""

import fcntl
import json
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, Self, TypeVar

from pydantic import BaseModel, ValidationError

from tools.errors import ConfigError, DataError

Record = TypeVar("Record", bound=BaseModel)


class Lines(Generic[Record]):
    """The journal in a file, and its records in memory (`rows`). A context manager."""

    def __init__(self, path: Path, kind: type[Record]) -> None:
        """Name the file and the kind of its records; nothing is opened yet."""
        self.path, self._kind = path, kind
        self.rows: list[Record] = []
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Read what there is, and hold the file for writing.

        Raises:
            ConfigError: another process writes it.
            DataError: it cannot be written, or a line is damaged.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = file = self.path.open("ab+")
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}; choose another --out") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(file)
        except BlockingIOError as error:
            file.close()
            raise ConfigError(
                f"{self.path}: another process writes it; wait for it, or choose another --out"
            ) from error
        except BaseException:
            file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def add(self, record: Record) -> None:
        """Append a record.

        Raises:
            OSError: the disk is full, say.
        """
        assert self._file is not None
        text = json.dumps(record.model_dump(mode="json"), ensure_ascii=False)
        self._file.write(text.encode("utf-8", "replace") + b"\n")  # half a character of a model's text is in no file
        self._file.flush()
        self.rows.append(record)

    def _read(self, file: BinaryIO) -> None:
        file.seek(0)
        end = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):  # cut off by a kill
                file.truncate(end)
                break
            end += len(line)
            try:
                self.rows.append(self._kind.model_validate_json(line))
            except ValidationError as error:
                raise DataError(f"{self.path}:{number}: damaged; remove the line, or choose another --out") from error
