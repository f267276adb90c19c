"""Outages of a model, a sandbox or a tool: when many in a row stop the work, and which error a user is shown."""

from typing import NoReturn

from agents.types import ErrorInfo
from tools.errors import ModelError, RetortError, RolloutError, SandboxError, ToolError

ERRORS: dict[str, type[RolloutError]] = {"SandboxError": SandboxError, "ToolError": ToolError}


def raise_first(group: BaseExceptionGroup) -> NoReturn:
    """Raise the first error that has a line for the user, else the group as it is."""
    ours, others = group.split(RetortError)
    while isinstance(ours, BaseExceptionGroup):
        ours = ours.exceptions[0]
    raise group if others is not None or ours is None else ours


def failure(failed: int, what: str, last: ErrorInfo) -> RolloutError:
    """Return what to tell when work has ended of which some failed, of the kind of the last failure.

    Args:
        failed: How many.
        what: Of what, in the plural.
        last: The last failure.
    """
    kind = ERRORS.get(last.kind, ModelError)
    return kind(f"{failed} {what} failed; the others are kept: run the same command again. The last: {last.message}")


class Circuit:
    """Counts the failures in a row of one party, and stops the work when they are too many."""

    def __init__(self, limit: int) -> None:
        """Allow fewer than `limit` failures in a row."""
        self.limit, self.in_a_row = limit, 0
        self.last: ErrorInfo | None = None

    def worked(self) -> None:
        """Note a success."""
        self.in_a_row = 0

    def failed(self, error: ErrorInfo) -> None:
        """Note a failure; raises like `check`."""
        self.in_a_row, self.last = self.in_a_row + 1, error
        self.check()

    def check(self) -> None:
        """Let work begin.

        Raises:
            ModelError, SandboxError, ToolError: too many failures in a row; of the kind of the last one.
        """
        if self.last is not None and self.in_a_row >= self.limit:
            kind = ERRORS.get(self.last.kind, ModelError)
            raise kind(f"{self.in_a_row} failures in a row; what is done is kept. The last: {self.last.message}")
