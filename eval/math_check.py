"""A bounded math-verify: symbolic equality in one killable process, safe from any thread.

math-verify's own time limit is a signal of the main thread, and sympy can hang in C code, so the comparison runs in
`eval/math_worker.py`, which bounds its own CPU time and memory. The process starts at the first comparison (about
1.5 s), is shared, and is started again after a comparison that ended it.
"""

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from tools.errors import RetortError

_WORKER = Path(__file__).with_name("math_worker.py")
_log = logging.getLogger(__name__)


class MathChecker:
    """The parent's side of the worker. One comparison at a time; callers in other threads wait."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def equal(self, a: str, b: str, seconds: float) -> bool:
        """Compare two answers in LaTeX.

        Args:
            a: one answer, without dollar signs.
            b: the other.
            seconds: limit on the worker's CPU time, so that a busy machine does not change the outcome.

        Returns:
            True when math-verify finds them equal; False when not, when one does not parse, or past a limit.

        Raises:
            RetortError: the worker does not start.
        """
        request = json.dumps({"a": a, "b": b, "seconds": seconds})
        with self._lock:
            reply = self._ask(request)
        if not reply:
            _log.warning("answers not compared within %.1f s, counted as different: %.80r and %.80r", seconds, a, b)
        return bool(reply) and json.loads(reply)["equal"]

    def close(self) -> None:
        """End the worker, if this process started one. Safe to call twice."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, request: str) -> str:
        """Send a request line and return the reply line, empty when the worker ended itself."""
        process = self._running()
        reply = ""
        try:
            process.stdin.write(request + "\n")  # pyright: ignore[reportOptionalMemberAccess]
            process.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            reply = process.stdout.readline()  # pyright: ignore[reportOptionalMemberAccess]
        except BrokenPipeError:
            reply = ""
        finally:
            if not reply:  # ended, or the caller was interrupted: a late reply must not answer the next request
                self.close()
        return reply

    def _running(self) -> subprocess.Popen[str]:
        """Return the worker of this process; after a fork the child starts its own."""
        if self._process is not None and self._owner == os.getpid():
            return self._process
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if process.stdout is None or process.stdout.readline() != "ready\n":
            process.kill()
            process.communicate()
            code = process.returncode
            raise RetortError(
                f"{_WORKER}: the answer checker does not start (exit code {code}): is math-verify installed?"
            )
        self._process, self._owner = process, os.getpid()
        return process


CHECKER = MathChecker()
atexit.register(CHECKER.close)
