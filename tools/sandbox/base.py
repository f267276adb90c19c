"""The sandbox interface: stateful sessions that run Python with limits on time, memory and output.

A backend is a `Sandbox`; `open()` gives a `Session` in which variables live on between calls, as in a notebook.
Backends: `local` (bubblewrap); the interface is also right for hosted ones.
"""

from abc import ABC, abstractmethod
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

RESTARTED = "session restarted: the variables of earlier calls are lost"


class ExecStop(StrEnum):
    """Why an execution ended."""

    OK = "ok"
    RAISED = "raised"  # the code raised
    TIMEOUT = "timeout"
    MEMORY = "memory"
    DIED = "died"  # the session's process is gone


class SandboxLimits(BaseModel):
    """Limits of one session (seconds, MiB, characters, counts)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exec_seconds: float = Field(default=5.0, gt=0)
    memory_mb: int = Field(default=512, ge=32)
    output_chars: int = Field(default=2000, ge=16)
    processes: int = Field(default=16, ge=1)
    file_mb: int = Field(default=16, ge=1)


class ExecResult(BaseModel):
    """What one execution gave: output, the value of a last expression as in a notebook, a short traceback."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stop: ExecStop
    stdout: str = ""
    stderr: str = ""
    value: str | None = None  # repr of a last expression, None if there was none or it was None
    error: str | None = None  # short traceback, None when the code did not raise
    truncated: bool = False
    seconds: float = 0.0


class Session(ABC):
    """One stateful interpreter. Not safe for concurrent calls."""

    @abstractmethod
    async def run(self, code: str, seconds: float | None = None) -> ExecResult:
        """Run code; a limit reached or a dead process is a result, not an exception.

        Raises:
            SandboxError: the backend itself is out of order (not the code).
        """

    @abstractmethod
    async def close(self) -> None:
        """End the session and free everything it held. Safe to call twice."""


class Sandbox(ABC):
    """A place that opens sessions."""

    @abstractmethod
    async def open(self) -> Session:
        """Open a fresh session.

        Raises:
            SandboxError: isolation cannot be had, with a line that says how to get it.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every session."""
