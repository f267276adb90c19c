"""The session pool over a sandbox of fakes: bounds, order, eviction, spares, cancellation."""

import asyncio

import pytest

from tools.errors import SandboxError
from tools.sandbox.base import RESTARTED, ExecResult, ExecStop, Sandbox, Session
from tools.sandbox.pool import SessionPool


class FakeSession(Session):
    """Answers with its number and the codes it has run; code "wait" blocks until `go` is set, "fail" raises."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.codes: list[str] = []
        self.closed = 0
        self.go = asyncio.Event()

    async def run(self, code: str, seconds: float | None = None) -> ExecResult:
        assert not self.closed
        self.codes.append(code)
        if code == "wait":
            await self.go.wait()
        if code == "fail":
            raise SandboxError("the backend is down")
        return ExecResult(stop=ExecStop.OK, stdout=f"{self.number}: {' '.join(self.codes)}")

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class FakeSandbox(Sandbox):
    """Counts its sessions and holds `failures`, raised one by one by `open`."""

    def __init__(self) -> None:
        self.sessions: list[FakeSession] = []
        self.failures: list[SandboxError] = []
        self.closed = False

    @property
    def alive(self) -> int:
        return sum(not s.closed for s in self.sessions)

    async def open(self) -> FakeSession:
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        self.sessions.append(FakeSession(len(self.sessions)))
        return self.sessions[-1]

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def sandbox() -> FakeSandbox:
    return FakeSandbox()


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_key_keeps_its_session_and_shares_it_with_none(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, spares=0)
    assert (await pool.run("a", "x")).stdout == "0: x"
    assert (await pool.run("b", "y")).stdout == "1: y"
    assert (await pool.run("a", "z")).stdout == "0: x z"
    assert pool.live == 2


async def test_calls_of_one_key_run_one_after_the_other_in_one_session(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, spares=0)
    first = asyncio.create_task(pool.run("a", "wait"))
    second = asyncio.create_task(pool.run("a", "x"))
    await settle()
    assert sandbox.sessions[0].codes == ["wait"]
    sandbox.sessions[0].go.set()
    assert (await second).stdout == "0: wait x"
    await first


async def test_a_new_key_waits_in_order_while_the_pool_is_full(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=2, spares=0)
    await pool.run("a", "x")
    await pool.run("b", "x")
    third, fourth = (asyncio.create_task(pool.run(key, "x")) for key in "cd")
    await settle()
    assert not third.done() and len(sandbox.sessions) == 2
    await pool.release("b")
    assert (await third).stdout == "2: x"
    await settle()
    assert not fourth.done() and sandbox.alive == 2
    await pool.release("a")
    assert (await fourth).stdout == "3: x"
    assert [s.closed for s in sandbox.sessions] == [1, 1, 0, 0]


async def test_release_is_idempotent_and_starts_the_key_afresh(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, spares=0)
    await pool.release("never")
    await pool.run("a", "x")
    await pool.release("a")
    await pool.release("a")
    assert sandbox.sessions[0].closed == 1 and pool.live == 0
    result = await pool.run("a", "y")
    assert result.stdout == "1: y" and result.error is None


async def test_the_longest_idle_session_makes_room_and_its_key_is_told(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=2, idle_seconds=0.05, spares=0)
    await pool.run("old", "x")
    await pool.run("young", "x")
    async with asyncio.timeout(2):
        assert (await pool.run("new", "x")).error is None
    assert [s.closed for s in sandbox.sessions] == [1, 0, 0]
    await pool.release("young")
    again = await pool.run("old", "y")
    assert (again.stop, again.stdout, again.error) == (ExecStop.OK, "3: y", RESTARTED)
    assert (await pool.run("old", "z")).error is None


async def test_idle_sessions_stay_when_nobody_waits_and_busy_ones_always(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, idle_seconds=0.01, spares=0)
    await pool.run("a", "x")
    await asyncio.sleep(0.03)
    assert sandbox.alive == 1
    busy = asyncio.create_task(pool.run("a", "wait"))
    await settle()
    other = asyncio.create_task(pool.run("b", "x"))
    await asyncio.sleep(0.05)
    assert not other.done() and sandbox.sessions[0].closed == 0
    sandbox.sessions[0].go.set()
    assert (await busy).stdout == "0: x wait"
    async with asyncio.timeout(2):
        assert (await other).stdout == "1: x"


async def test_spares_are_started_ahead_and_used_once(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, spares=1)
    await pool.run("a", "x")
    await settle()
    assert len(sandbox.sessions) == 2 and sandbox.sessions[1].codes == []
    assert (await pool.run("b", "x")).stdout == "1: x"
    await settle()
    assert len(sandbox.sessions) == 3 and pool.live == 2
    await pool.aclose()
    assert [s.closed for s in sandbox.sessions] == [1, 1, 1]


async def test_cancelling_a_call_closes_its_session_and_frees_its_place(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, spares=0)
    call = asyncio.create_task(pool.run("a", "wait"))
    await settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sandbox.sessions[0].closed == 1 and pool.live == 0
    assert (await pool.run("a", "x")).error == RESTARTED


async def test_a_cancelled_wait_for_a_place_takes_none(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, spares=0)
    await pool.run("a", "x")
    waiting = asyncio.create_task(pool.run("b", "x"))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await pool.release("a")
    async with asyncio.timeout(2):
        assert (await pool.run("c", "x")).stdout == "1: x"


async def test_a_key_released_while_it_waits_opens_nothing(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, spares=0)
    await pool.run("a", "x")
    waiting = asyncio.create_task(pool.run("b", "x"))
    await settle()
    await pool.release("b")
    await pool.release("a")
    with pytest.raises(SandboxError, match="released"):
        await waiting
    assert len(sandbox.sessions) == 1
    assert (await pool.run("c", "x")).stdout == "1: x"


async def test_an_outage_is_raised_and_the_next_call_starts_afresh(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, spares=0)
    sandbox.failures = [SandboxError("no bubblewrap")]
    with pytest.raises(SandboxError, match="no bubblewrap"):
        await pool.run("a", "x")
    with pytest.raises(SandboxError, match="backend is down"):
        await pool.run("a", "fail")
    assert (await pool.run("a", "x")).stdout == "1: x" and sandbox.sessions[0].closed == 1


async def test_aclose_closes_all_wakes_who_waits_and_refuses_later_calls(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=1, spares=2)
    await pool.run("a", "x")
    waiting = asyncio.create_task(pool.run("b", "x"))
    await settle()
    await pool.aclose()
    await pool.aclose()
    assert sandbox.alive == 0 and sandbox.closed
    with pytest.raises(SandboxError):
        await waiting
    assert sandbox.alive == 0
    with pytest.raises(SandboxError, match="closed"):
        await pool.run("a", "x")


async def test_many_keys_never_exceed_the_bound(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, max_live=3, spares=0)
    most = 0

    async def one(key: str) -> None:
        nonlocal most
        await pool.run(key, "x")
        most = max(most, sandbox.alive)
        await pool.run(key, "y")
        await pool.release(key)

    await asyncio.gather(*(one(str(i)) for i in range(40)))
    assert most == 3 and len(sandbox.sessions) == 40 and sandbox.alive == 0


def test_a_pool_belongs_to_one_event_loop(sandbox: FakeSandbox) -> None:
    pool = SessionPool(sandbox, spares=0)
    asyncio.run(pool.run("a", "x"))
    with pytest.raises(SandboxError, match="another event loop"):
        asyncio.run(pool.run("a", "x"))
