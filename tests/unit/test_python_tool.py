"""The python tool over a pool of fakes: arguments, and what the model sees of a result."""

from typing import Any, cast

import pytest

from tools.base import clip
from tools.errors import SandboxError
from tools.python import CUT, PythonTool, observation
from tools.sandbox.base import ExecResult, ExecStop
from tools.sandbox.pool import SessionPool


class FakePool:
    """Gives one result, notes its calls."""

    def __init__(self, result: ExecResult | None = None) -> None:
        self.result = result
        self.calls: list[tuple[str, str]] = []
        self.released: list[str] = []

    async def run(self, key: str, code: str) -> ExecResult:
        self.calls.append((key, code))
        if self.result is None:
            raise SandboxError("down")
        return self.result

    async def release(self, key: str) -> None:
        self.released.append(key)


def tool(pool: FakePool, **options: int) -> PythonTool:
    return PythonTool(cast(SessionPool, pool), **options)


async def test_code_runs_in_the_session_of_the_key() -> None:
    pool = FakePool(ExecResult(stop=ExecStop.OK, stdout="hello\n", value="42", seconds=0.5))
    result = await tool(pool).call({"code": "f()"}, key="t1")
    assert pool.calls == [("t1", "f()")]
    assert (result.name, result.content, result.ok, result.seconds) == ("python", "hello\n42", True, 0.5)
    await tool(pool).release("t1")
    assert pool.released == ["t1"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({}, 'needs the argument "code"'),
        ({"source": "1"}, 'needs the argument "code"'),
        ({"code": 3}, "must be of type string, not integer"),
        ({"code": " \n"}, "is empty"),
        ({"code": "1", "timeout": 3}, 'no argument "timeout"'),
    ],
)
async def test_wrong_arguments_become_an_observation_that_shows_a_right_call(
    arguments: dict[str, Any], hint: str
) -> None:
    pool = FakePool()
    result = await tool(pool).call(arguments, key="t")
    assert not result.ok and hint in result.content and '"arguments": {"code"' in result.content
    assert pool.calls == [] and len(result.content) < 200


async def test_code_that_raises_is_not_ok_and_an_outage_is_raised() -> None:
    pool = FakePool(ExecResult(stop=ExecStop.RAISED, stdout="a\n", error="ValueError: no"))
    result = await tool(pool).call({"code": "x"}, key="t")
    assert (result.content, result.ok) == ("a\nValueError: no", False)
    with pytest.raises(SandboxError):
        await tool(FakePool()).call({"code": "x"}, key="t")


def test_observations() -> None:
    ok = ExecStop.OK
    assert observation(ExecResult(stop=ok)) == "(no output)"
    assert observation(ExecResult(stop=ok, stderr="warned\n")) == "warned"
    assert observation(ExecResult(stop=ok, stdout="x\n", stderr="warned\n")) == "x"
    assert observation(ExecResult(stop=ok, stdout="ab", truncated=True, value="1")) == f"ab\n{CUT}\n1"


def test_a_long_observation_keeps_its_end() -> None:
    assert clip("abcdefghi", 9) == "abcdefghi"
    assert clip("abcdefghij", 9) == "abcdef\n[1 characters cut]\nhij"
    result = ExecResult(stop=ExecStop.RAISED, stdout="x" * 5000, error="ValueError: no")
    text = observation(result, max_chars=90)
    assert text.endswith("ValueError: no") and len(text) < 130


def test_the_schema_is_openai_form() -> None:
    schema = tool(FakePool()).schema
    assert schema["type"] == "function" and schema["function"]["parameters"]["required"] == ["code"]
