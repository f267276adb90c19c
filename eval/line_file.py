"""A file of JSON lines that one process at a time appends to; a kill at any moment loses no line that is written.

What is in a line is the caller's: `eval/lines.py`, `eval/journal.py` and `eval/solve_journal.py` are journals over it.
"""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tools.errors import ConfigError, DataError, RetortError


class LineFile:
    """The file. The lock dies with the process."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.path = path
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Hold the file for writing.

        Raises:
            BlockingIOError: another process writes it.
            OSError: it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Let the file go. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Iterate over the whole lines with their numbers, from 1; one that a kill cut off is dropped from the file."""
        assert self._file is not None
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                return
            end += len(line)
            yield number, line

    def append(self, text: str) -> None:
        """Write a line.

        Raises:
            OSError: the disk is full, say.
        """
        assert self._file is not None
        self._file.write(text.encode("utf-8", "replace") + b"\n")  # half a character of a model's text is in no file
        self._file.flush()


def refused(path: Path, error: OSError) -> RetortError:
    """Return what to tell a user who cannot have a file."""
    if isinstance(error, BlockingIOError):
        return ConfigError(f"{path}: another process writes it; wait for it, or choose another --out")
    return DataError(f"cannot write {path}: {error.strerror}; choose another --out")
