"""The `python` tool: code of the model, run in the sandbox session of its trajectory.

The observation is what was printed, then the value of a last expression, then the error, bounded and marked when cut.
"""

from typing import Any

from tools.base import Tool, ToolResult
from tools.sandbox.base import ExecResult, ExecStop
from tools.sandbox.pool import SessionPool

MAX_CHARS = 2000
USAGE = 'Call it with {"name": "python", "arguments": {"code": "print(1 + 1)"}}.'
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

    def __init__(self, pool: SessionPool, max_chars: int = MAX_CHARS) -> None:
        """Make the tool over a pool; an observation has at most `max_chars` characters and the marks of its cuts."""
        self._pool = pool
        self._max_chars = max_chars

    async def call(self, arguments: dict[str, Any], key: str) -> ToolResult:
        """Run `arguments["code"]` in the session of `key`; see `Tool.call`."""
        problem = argument_problem(arguments)
        if problem:
            return ToolResult(name=self.name, content=f"Error: {problem} {USAGE}", ok=False)
        result = await self._pool.run(key, arguments["code"])
        content = observation(result, self._max_chars)
        return ToolResult(name=self.name, content=content, ok=result.stop is ExecStop.OK, seconds=result.seconds)

    async def release(self, key: str) -> None:
        """Close the session of `key`; safe to call twice."""
        await self._pool.release(key)


def argument_problem(arguments: dict[str, Any]) -> str:
    """Return what is wrong with the arguments of a call, "" when nothing is."""
    if "code" not in arguments:
        return 'python needs the argument "code".'
    if not isinstance(arguments["code"], str):
        return f'the argument "code" must be a string, not {type(arguments["code"]).__name__}.'
    if not arguments["code"].strip():
        return 'the argument "code" is empty.'
    unknown = sorted(set(arguments) - {"code"})
    return f'python has no argument "{unknown[0]}", only "code".' if unknown else ""


def observation(result: ExecResult, max_chars: int = MAX_CHARS) -> str:
    """Return what the model sees: output, value, error; where all are empty, stderr or "(no output)"."""
    stdout = result.stdout.rstrip("\n")
    if result.truncated:
        stdout = f"{stdout}\n{CUT}".lstrip("\n")
    parts = [part for part in (stdout, result.value, result.error) if part]
    return clip("\n".join(parts or [result.stderr.rstrip("\n") or "(no output)"]), max_chars)


def clip(text: str, max_chars: int) -> str:
    """Cut a long text in its middle, where it says how much is missing: an error at the end stays in sight."""
    if len(text) <= max_chars:
        return text
    tail = max_chars // 3
    head = max_chars - tail
    return f"{text[:head]}\n[{len(text) - max_chars} characters cut]\n{text[-tail:]}"
