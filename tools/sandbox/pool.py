"""Sessions by key (one a trajectory), bounded in number, with a few started ahead.

A session is opened at the first call of its key and lives until `release`. When `max_live` are open a new key waits, in
order of arrival, until one is released or has been idle for `idle_seconds`: that one is closed, and if its key comes
back it gets a fresh session and a result that says so. Sessions that nobody waits for keep their variables however long
they idle.
"""

import asyncio
import time
from collections.abc import Coroutine

from tools.errors import SandboxError
from tools.sandbox.base import RESTARTED, ExecResult, Sandbox, Session


class _Slot:
    """What belongs to one key: its place among the live ones, its session, the calls that use or wait for it."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.placed = False
        self.gone = False
        self.lock = asyncio.Lock()
        self.users = 0
        self.used_at = 0.0


class SessionPool:
    """At most `max_live` sessions by key, and `spares` more that are started and wait for a key.

    A session never serves two keys. The pool owns the sandbox and belongs to the event loop that first uses it.
    """

    def __init__(self, sandbox: Sandbox, max_live: int = 64, idle_seconds: float = 60.0, spares: int = 2) -> None:
        """Make a pool; nothing is opened before the first `run`."""
        self._sandbox = sandbox
        self._idle_seconds = idle_seconds
        self._spares = spares
        self._places = asyncio.Semaphore(max_live)
        self._waiting = 0
        self._slots: dict[str, _Slot] = {}
        self._lost: set[str] = set()  # keys whose session ended before they were released
        self._ready: list[Session] = []
        self._opening: set[asyncio.Task[None]] = set()  # spares under way
        self._closing: set[asyncio.Task[None]] = set()
        self._evictor: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def live(self) -> int:
        """Number of sessions that hold a place."""
        return sum(slot.placed for slot in self._slots.values())

    async def run(self, key: str, code: str, seconds: float | None = None) -> ExecResult:
        """Run code in the session of `key`; calls of one key run one after the other.

        A call that is cancelled ends its session.

        Args:
            key: whose session; it is opened at the first call.
            code: the code.
            seconds: wall-clock limit; None is the sandbox's own.

        Raises:
            SandboxError: the backend is out of order, the session was released meanwhile, or the pool is closed or
                belongs to another event loop.
        """
        result = None
        while result is None:
            self._check_open()
            slot = self._slots.setdefault(key, _Slot())
            slot.users += 1
            try:
                async with slot.lock:  # a slot that went while this call waited for it is tried anew
                    result = None if slot.gone else await self._run_in(slot, key, code, seconds)
            finally:
                slot.users -= 1
                slot.used_at = time.monotonic()
                if not slot.users and not slot.placed and self._slots.get(key) is slot:
                    del self._slots[key]
        if key not in self._lost:
            return result
        self._lost.discard(key)
        return result.model_copy(update={"error": "\n".join(filter(None, [RESTARTED, result.error]))})

    async def release(self, key: str) -> None:
        """Close the session of `key`, if it has one; done to the end even when the caller is cancelled."""
        slot = self._slots.get(key)
        self._lost.discard(key)
        if slot is not None:
            self._check_loop()
            await asyncio.shield(self._drop(key, slot))

    async def aclose(self) -> None:
        """Close every session and the sandbox; later calls raise SandboxError. Safe to call twice."""
        self._check_loop()
        self._closed = True
        background = [*self._opening, *([self._evictor] if self._evictor else [])]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        for key, slot in list(self._slots.items()):
            self._drop(key, slot)
        for session in self._ready:
            self._spawn(self._closing, session.close())
        self._ready.clear()
        await asyncio.gather(*self._closing)
        await self._sandbox.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("this session pool is closed: make a new SessionPool")
        self._check_loop()

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise SandboxError("this session pool belongs to another event loop: make one SessionPool for each loop")

    async def _run_in(self, slot: _Slot, key: str, code: str, seconds: float | None) -> ExecResult:
        """Run in the slot's session, opening it first; a failure or a cancellation gives the slot up."""
        try:
            session = slot.session or await self._open_in(slot)
            return await session.run(code, seconds)
        except (SandboxError, asyncio.CancelledError):
            if slot.session is not None and not slot.gone:
                self._lost.add(key)
            await asyncio.shield(self._drop(key, slot))
            raise

    async def _open_in(self, slot: _Slot) -> Session:
        """Wait for a place and put a session into the slot."""
        await self._place()
        slot.placed = True
        session = None if slot.gone else await self._take()
        if slot.gone or self._closed:
            if session is not None:
                await session.close()
            raise SandboxError("the sandbox session was released before it was open")
        slot.session = session
        assert session is not None
        return session

    async def _place(self) -> None:
        """Take one of the `max_live` places; while calls wait, sessions that idle too long are closed."""
        if not self._places.locked():
            await self._places.acquire()
            return
        self._waiting += 1
        if self._evictor is None or self._evictor.done():
            self._evictor = asyncio.create_task(self._evict())
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1

    async def _evict(self) -> None:
        """While calls wait for a place, close the session that has idled longest as soon as it has idled enough."""
        while self._waiting:
            now = time.monotonic()
            idle = [(slot.used_at, key) for key, slot in self._slots.items() if slot.placed and not slot.users]
            used_at, key = min(idle, default=(now, ""))
            if idle and used_at + self._idle_seconds <= now:
                self._lost.add(key)
                await asyncio.shield(self._drop(key, self._slots[key]))
            else:
                await asyncio.sleep(used_at + self._idle_seconds - now)

    async def _take(self) -> Session:
        """Return a session for a key: one that was started ahead, or a new one; and see to the next."""
        session = self._ready.pop() if self._ready else await self._sandbox.open()
        while not self._closed and len(self._ready) + len(self._opening) < self._spares:
            self._spawn(self._opening, self._prepare())
        return session

    async def _prepare(self) -> None:
        """Open a spare; where that fails the next call that needs a session meets the error itself."""
        try:
            self._ready.append(await self._sandbox.open())
        except SandboxError:
            return

    def _drop(self, key: str, slot: _Slot) -> asyncio.Task[None]:
        """Take the slot from its key and start to close its session; the place is free when that is done."""
        if self._slots.get(key) is slot:
            del self._slots[key]
        session, placed = slot.session, slot.placed
        slot.session, slot.placed, slot.gone = None, False, True
        return self._spawn(self._closing, self._close(session, placed))

    async def _close(self, session: Session | None, placed: bool) -> None:
        try:
            if session is not None:
                await session.close()
        finally:
            if placed:
                self._places.release()

    @staticmethod
    def _spawn(tasks: set[asyncio.Task[None]], work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a background task and hold it until it is done."""
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task
