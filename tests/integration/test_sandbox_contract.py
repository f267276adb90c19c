"""What every sandbox does alike: here, and on E2B (a stand-in on localhost: what it covers is in its docstring).

The E2B backends: sessions that share sandboxes, a sandbox each, and the SDK's debug mode on port 49999.
"""

import asyncio
import importlib.util
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conftest import missing
from tests.e2b_stand_in import StandIn
from tools.errors import SandboxError
from tools.sandbox.base import RESTARTED, ExecResult, ExecStop, Sandbox, SandboxLimits, Session
from tools.sandbox.e2b import E2BSandbox
from tools.sandbox.local import LocalSandbox
from tools.sandbox.pool import SessionPool
from tools.sandbox.settings import E2BConfig

pytestmark = pytest.mark.integration
LIMITS = SandboxLimits(exec_seconds=20, memory_mb=300, output_chars=500, file_mb=4)
SHARED = E2BConfig(wait_seconds=20, idle_seconds=5)
ALONE = E2BConfig(wait_seconds=20, idle_seconds=5, sessions_per_sandbox=1)


@asynccontextmanager
async def local() -> AsyncIterator[Sandbox]:
    sandbox = LocalSandbox(LIMITS)
    try:
        await (await sandbox.open()).close()
    except SandboxError as exc:
        missing(str(exc))
    yield sandbox


@asynccontextmanager
async def hosted(monkeypatch: pytest.MonkeyPatch, config: E2BConfig, debug: bool) -> AsyncIterator[Sandbox]:
    if importlib.util.find_spec("e2b_code_interpreter") is None:
        missing("the extra e2b is not installed")
    async with StandIn(debug=debug) as server:
        server.show_itself(monkeypatch)
        yield E2BSandbox(LIMITS, config)
        assert server.contexts == [] and len(server.sandboxes) == (1 if debug else 0), "something is left on E2B"


@pytest.fixture(params=["local", "e2b", "e2b-alone", "e2b-debug"])
async def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """A sandbox of each backend; whatever a test does, nothing is left when it is closed."""
    config = ALONE if request.param == "e2b-alone" else SHARED
    made = local() if request.param == "local" else hosted(monkeypatch, config, request.param == "e2b-debug")
    async with made as opened:
        yield opened
        await opened.aclose()


@pytest.fixture
async def session(sandbox: Sandbox) -> Session:
    return await sandbox.open()


async def test_it_is_a_notebook(session: Session) -> None:
    first = await session.run("x = 3\nprint('hi')\nx + 1")
    assert first == ExecResult(stop=ExecStop.OK, stdout="hi\n", value="4", seconds=first.seconds)
    assert 0 < first.seconds < 5
    assert (await session.run("x * 7")).value == "21"
    assert (await session.run("y = x")).value is None
    assert (await session.run("None")).value is None
    assert (await session.run("print('e', file=__import__('sys').stderr); None")).stderr == "e\n"
    assert (await session.run("import sys\ndef f():\n    return x\nf()")).value == "3"


async def test_a_value_is_shown_by_its_repr(session: Session) -> None:
    for code in ("'abc'", '"it\'s"', "'it is \"so\"'", "{'a': [1, 2.5], (1,): None}", "list(range(100))", "'\\n'"):
        assert (await session.run(code)).value == repr(eval(code))
    assert (await session.run("'\\ud800', chr(0x1F600)")).value == "('\\ud800', '😀')"
    printed = await session.run("print('ä😀', 'a\\tb')")
    assert (printed.stdout, printed.truncated) == ("ä😀 a\tb\n", False)
    lone = await session.run("print(chr(0xD800))")
    assert lone.stop is ExecStop.OK and lone.model_dump_json()


async def test_a_traceback_has_user_frames_and_the_error_last(session: Session) -> None:
    raised = await session.run("def f(n):\n    return 1 / n\nf(0)")
    assert (raised.stop, raised.value) == (ExecStop.RAISED, None)
    assert (raised.error or "").splitlines() == [
        'File "<cell 1>", line 3, in <module>',
        "    f(0)",
        'File "<cell 1>", line 2, in f',
        "    return 1 / n",
        "ZeroDivisionError: division by zero",
    ]
    syntax = await session.run("x = = 1")
    assert syntax.error == 'File "<cell 2>", line 1\n    x = = 1\nSyntaxError: invalid syntax'
    assert (await session.run("import json\njson.loads('{')")).error == (
        "File \"<cell 3>\", line 2, in <module>\n    json.loads('{')\n"
        "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )
    deep = await session.run("def g(n): return g(n + 1)\ng(0)")
    assert (deep.error or "").count("line 1, in g") == 4
    assert (await session.run("f(1)")).value == "1.0"


async def test_what_was_printed_before_an_error_stays(session: Session) -> None:
    raised = await session.run("print('before')\n1 / 0")
    assert (raised.stop, raised.stdout) == (ExecStop.RAISED, "before\n")


async def test_exit_ends_the_call_and_not_the_session(session: Session) -> None:
    await session.run("x = 1")
    for code in ("exit()", "quit()", "import sys; sys.exit(0)"):
        done = await session.run(code)
        assert (done.stop, done.error, done.stderr) == (ExecStop.OK, None, "")
    assert (await session.run("sys.exit('no')")).stop is ExecStop.RAISED
    assert (await session.run("x")).value == "1"


async def test_output_is_cut_and_marked(session: Session) -> None:
    fits = await session.run("print('ä' * 499)")
    assert (fits.stdout, fits.truncated) == ("ä" * 499 + "\n", False)
    flood = await session.run("print('ä' * 10**6)\n7")
    assert (flood.stop, flood.stdout, flood.value, flood.truncated) == (ExecStop.OK, "ä" * 500, "7", True)
    lines = await session.run("for i in range(10**5): print(i)")
    assert lines.truncated and lines.stdout == "".join(f"{i}\n" for i in range(200))[:500]
    value = await session.run("'z' * 10**6")
    assert (value.value, value.truncated) == ("'" + "z" * 499, True)
    error = await session.run("raise ValueError('a' * 10**5 + 'end')")
    assert error.truncated and error.error is not None and len(error.error) == 500 and error.error.endswith("aend")
    assert (await session.run("import sys; sys.stderr.write('w' * 501); None")).stderr == "w" * 500
    assert not (await session.run("1")).truncated


async def test_a_timeout_is_a_result_and_the_next_call_is_fresh(session: Session) -> None:
    await session.run("x = 1")
    begin = time.perf_counter()
    stopped = await session.run("while True: pass", seconds=0.4)
    assert stopped.stop is ExecStop.TIMEOUT and 0.4 <= stopped.seconds <= time.perf_counter() - begin < 5
    assert stopped.error == f"TimeoutError: no result within 0.4 s; {RESTARTED}"
    fresh = await session.run("x")
    assert fresh.stop is ExecStop.RAISED and (fresh.error or "").endswith("NameError: name 'x' is not defined")
    assert (await session.run("2")).value == "2"


async def test_code_that_catches_everything_is_stopped_as_well(session: Session) -> None:
    stubborn = "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass"
    assert (await session.run(stubborn, seconds=0.3)).stop is ExecStop.TIMEOUT
    assert (await session.run("1")).value == "1"


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)"])
async def test_a_session_that_dies_is_replaced(session: Session, code: str) -> None:
    await session.run("x = 1")
    died = await session.run(code)
    assert died.stop is ExecStop.DIED and died.error is not None and RESTARTED in died.error
    assert (await session.run("'x' in globals()")).value == "False"
    assert (await session.run("1 + 1")).value == "2"


async def test_too_much_memory_is_a_result_and_the_session_lives(session: Session) -> None:
    await session.run("kept = 5")
    big = await session.run("b = bytearray(10**9)")
    assert big.stop is ExecStop.MEMORY and (big.error or "").endswith("MemoryError")
    grown = await session.run("l = []\nwhile True: l.append(bytearray(10**6))")
    assert grown.stop is ExecStop.MEMORY
    assert (await session.run("del l\nkept")).value == "5"
    assert (await session.run("b = bytearray(10**8); len(b)")).value == str(10**8)


async def test_a_file_has_a_largest_size(session: Session) -> None:
    code = "import os\nf = open('/tmp/retort-big', 'wb')\ntry: f.write(b'0' * 2**23); f.flush()\nfinally:\n    "
    big = await session.run(code + "os.unlink('/tmp/retort-big')")
    assert big.stop is ExecStop.RAISED and (big.error or "").endswith("File too large")


async def test_sessions_do_not_share_variables(sandbox: Sandbox) -> None:
    one, two = await sandbox.open(), await sandbox.open()
    await one.run("x = 1\nimport math\nmath.pi = 3")
    assert (await two.run("'x' in globals()")).value == "False"
    assert (await two.run("import math\nround(math.pi, 2)")).value == "3.14"
    assert (await two.run("import os\nos._exit(0)")).stop is ExecStop.DIED
    assert (await one.run("x, math.pi")).value == "(1, 3)"


async def test_close_twice_and_no_calls_after(session: Session) -> None:
    await session.run("1")
    await session.close()
    await session.close()
    with pytest.raises(SandboxError, match="closed"):
        await session.run("1")


async def test_close_while_it_runs(session: Session) -> None:
    await session.run("1")
    call = asyncio.create_task(session.run("while True: pass"))
    await asyncio.sleep(0.2)
    await session.close()
    with pytest.raises(SandboxError, match="closed while it ran"):
        await asyncio.wait_for(call, 5)


async def test_a_cancelled_call_ends_its_interpreter_only(sandbox: Sandbox) -> None:
    one, two = await sandbox.open(), await sandbox.open()
    await one.run("x = 1")
    await two.run("y = 2")
    call = asyncio.create_task(one.run("while True: pass"))
    await asyncio.sleep(0.2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)
    assert (await one.run("'x' in globals()")).value == "False"
    assert (await two.run("y")).value == "2"


@pytest.mark.parametrize("after", [0.0, 0.005, 0.02, 0.05])
async def test_a_start_that_is_cancelled_leaves_the_sandbox_usable(sandbox: Sandbox, after: float) -> None:
    start = asyncio.create_task(sandbox.open())
    await asyncio.sleep(after)
    start.cancel()
    await asyncio.gather(start, return_exceptions=True)
    session = await sandbox.open()
    assert (await session.run("1 + 1")).value == "2"
    await session.close()


async def test_many_sessions_at_once(sandbox: Sandbox) -> None:
    async def one(number: int) -> tuple[str | None, str | None]:
        session = await sandbox.open()
        await session.run(f"x = {number}")
        await asyncio.sleep(0.05)
        value = (await session.run("x * x")).value
        twice = (await session.run("x += 1; x")).value
        await session.close()
        return value, twice

    values = await asyncio.gather(*(one(number) for number in range(14)))
    assert values == [(str(n * n), str(n + 1)) for n in range(14)]


async def test_aclose_closes_all_while_they_run(sandbox: Sandbox) -> None:
    sessions = [await sandbox.open() for _ in range(3)]
    calls = [asyncio.create_task(session.run("while True: pass")) for session in sessions]
    await asyncio.sleep(0.2)
    await sandbox.aclose()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [type(result) for result in results] == [SandboxError] * 3
    with pytest.raises(SandboxError, match="closed"):
        await sessions[0].run("1")


async def test_the_pool_works_over_it(sandbox: Sandbox) -> None:
    pool = SessionPool(sandbox, max_live=3, spares=1)

    async def trajectory(number: int) -> str | None:
        key = f"t{number}"
        await pool.run(key, f"x = {number}")
        result = await pool.run(key, "x * x")
        await pool.release(key)
        return result.value

    assert await asyncio.gather(*(trajectory(n) for n in range(6))) == [str(n * n) for n in range(6)]
    await pool.aclose()
