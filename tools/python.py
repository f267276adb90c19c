"""The `python` tool: code of the model, run in the sandbox session of its trajectory.

The observation is what was printed, then the value of a last expression, then the error, bounded and marked when cut.
"""

from typing import Any

from tools.base import MAX_CHARS, Tool, ToolResult, clip
from tools.sandbox.base import ExecResult, ExecStop
from tools.sandbox.pool import SessionPool

CUT = "[output cut]"


class PythonTool(Tool):
    """Runs Python code; variables live on between the calls of one trajectory."""

    name = "python"
    description = (
        "Run Python code in a stateful session, as in a notebook: variables stay, and what is printed and the value of "
        "the last expression come back. math, numpy and sympy can be imported. No network, no files of the user."
    )
    parameters = {  # noqa: RUF012
        "type": "object",
        "properties": {"code": {"type": "string", "description": "Python code to run."}},
        "required": ["code"],
        "additionalProperties": False,
    }

    example = {"code": "print(1 + 1)"}  # noqa: RUF012

    def __init__(self, pool: SessionPool, max_chars: int = MAX_CHARS) -> None:
        """Make the tool over a pool; an observation has at most `max_chars` characters and the marks of its cuts."""
        self._pool = pool
        self._max_chars = max_chars

    async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
        result = await self._pool.run(key, arguments["code"])
        content = observation(result, self._max_chars)
        return ToolResult(name=self.name, content=content, ok=result.stop is ExecStop.OK, seconds=result.seconds)

    async def release(self, key: str) -> None:
        """Close the session of `key`; safe to call twice."""
        await self._pool.release(key)


def observation(result: ExecResult, max_chars: int = MAX_CHARS) -> str:
    """Return what the model sees: output, value, error; where all are empty, stderr or "(no output)"."""
    stdout = result.stdout.rstrip("\n")
    if result.truncated:
        stdout = f"{stdout}\n{CUT}".lstrip("\n")
    parts = [part for part in (stdout, result.value, result.error) if part]
    return clip("\n".join(parts or [result.stderr.rstrip("\n") or "(no output)"]), max_chars)
