"""Sessions on this machine: one process each, forked from a warm nursery, isolated, killed whole at a limit.

The nursery (`nursery.py`, under bubblewrap) is started at the first session and again when it has died. The host holds
one socket and one process descriptor a session (framing in `runner.py`) and trusts nothing that comes through: a reply
must carry the request's id, fit the result and stay below a size. Time is the host's own clock.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel

from tools.errors import SandboxError
from tools.sandbox import bwrap
from tools.sandbox.base import RESTARTED, ExecResult, ExecStop, Sandbox, SandboxLimits, Session
from tools.sandbox.runner import ID_CHARS

log = logging.getLogger(__name__)

READY = b"retort-nursery"  # the nursery's first message
START_SECONDS = 30.0
KILL_SECONDS = 5.0
CHUNK = 1 << 16


class _Reply(BaseModel):
    """A frame of the runner: the id of its request and the fields of the result."""

    id: str
    stop: ExecStop
    stdout: str
    stderr: str
    value: str | None
    error: str | None
    truncated: bool


class _Layers(BaseModel):
    """The first frame of a session: which layers of isolation it has."""

    namespaces: bool
    landlock: bool
    seccomp: bool


class _ProtocolError(Exception):
    """What came through the socket is not a frame of the runner."""


async def _readable(fd: int) -> None:
    """Wait until a descriptor can be read from (a process descriptor: until the process has ended)."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


class _Process:
    """The host's end of one session: its socket and its process."""

    def __init__(self, mine: socket.socket, pidfd: int, folder: str, max_frame: int) -> None:
        """Wrap a process that the nursery forked; `folder` is removed with it."""
        self._socket, self._pidfd, self._folder, self._max_frame = mine, pidfd, folder, max_frame
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id on this machine."""
        lines = Path(f"/proc/self/fdinfo/{self._pidfd}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))

    async def layers(self) -> _Layers:
        """Wait until the session is ready.

        Raises:
            SandboxError: it could not be confined, or died.
        """
        try:
            frame = await self._frame()
        except (EOFError, OSError, _ProtocolError) as exc:
            raise SandboxError("a sandbox session did not start: its process ended") from exc
        try:
            return _Layers.model_validate_json(frame)
        except ValueError as exc:
            raise SandboxError(f"a sandbox session did not start: {frame.decode(errors='replace')}") from exc

    async def request(self, code: str) -> _Reply:
        """Send code and wait for its result.

        Raises:
            EOFError, OSError: the process is gone.
            _ProtocolError: what came back is not the runner's reply.
        """
        token = secrets.token_hex(ID_CHARS // 2)
        payload = (token + code).encode("utf-8", "surrogatepass")
        await asyncio.get_running_loop().sock_sendall(self._socket, len(payload).to_bytes(4, "big") + payload)
        try:
            reply = _Reply.model_validate_json(await self._frame())
        except ValueError as exc:
            raise _ProtocolError("a frame that is not a result") from exc
        if reply.id != token:
            raise _ProtocolError("a result of another request")
        return reply

    async def _frame(self) -> bytes:
        size = int.from_bytes(await self._read(4), "big")
        if size > self._max_frame:
            raise _ProtocolError(f"a frame of {size} bytes")
        return await self._read(size)

    async def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(self._socket, min(size - len(data), CHUNK))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    async def end(self) -> None:
        """Kill the process with everything that it started. Safe to call twice, goes on when cancelled."""
        if self._ending is None:
            self._kill()
            self._ending = asyncio.create_task(self._gone())
        await asyncio.shield(self._ending)

    def _kill(self) -> None:
        """Kill the session's process 1: the kernel kills what it started. Whoever still reads sees the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _gone(self) -> None:
        """Wait for the end of the process (the nursery reaps it) and free what was held for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await _readable(self._pidfd)
        os.close(self._pidfd)
        self._socket.close()
        if self._folder:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


class _Nursery:
    """The host's end of the warm parent."""

    def __init__(self, command: bwrap.Command) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.
        """
        self.isolated = command.isolated
        self._lock = asyncio.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._users, asks = socket.socketpair() if command.maps_users else (None, None)
        args, passed = list(command.args), []
        with theirs, asks or contextlib.nullcontext():
            if asks is not None:
                passed = [asks.fileno(), os.dup(asks.fileno())]  # bubblewrap closes each when it is done with it
                args[1:1] = ["--info-fd", str(passed[0]), "--userns-block-fd", str(passed[1])]
            try:
                self._popen = _popen(args, theirs.fileno(), passed)
            except OSError:
                self._close()
                raise
            finally:
                for fd in passed[1:]:
                    os.close(fd)
        for mine in filter(None, (self._control, self._users)):
            mine.setblocking(False)

    @property
    def pid(self) -> int:
        """The process id: bubblewrap's where it is isolated."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._popen.poll() is None

    async def handshake(self) -> str:
        """Wait until it is warm; return "" or what was written instead, e.g. bubblewrap's complaint."""
        if self._users is not None:
            await self._map_users(self._users)
        message, _ = await self._receive()
        if message == READY:
            return ""
        while part := (await self._receive())[0]:
            message += part
        return message.decode(errors="replace").strip() or "the interpreter did not start"

    async def _map_users(self, asks: socket.socket) -> None:
        """Wait until bubblewrap has made the user namespace, map its users, and let it go on."""
        loop, info = asyncio.get_running_loop(), b""
        while b"}" not in info:
            part = await loop.sock_recv(asks, CHUNK)
            if not part:  # it failed before that; its complaint waits in the other socket
                return
            info += part
        bwrap.map_users(json.loads(info)["child-pid"])
        await loop.sock_sendall(asks, b"1")

    async def spawn(self, max_frame: int) -> _Process:
        """Fork a session; done to the end even when the caller is cancelled, and then ended.

        Raises:
            EOFError, OSError: the nursery is gone.
            SandboxError: it cannot fork.
        """
        work = asyncio.ensure_future(self._spawn(max_frame))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            with contextlib.suppress(EOFError, OSError, SandboxError):
                await (await work).end()
            raise

    async def _spawn(self, max_frame: int) -> _Process:
        folder = "" if self.isolated else await asyncio.to_thread(tempfile.mkdtemp, prefix="retort-")
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        try:
            with theirs:
                async with self._lock:
                    socket.send_fds(self._control, [b"S" + folder.encode()], [theirs.fileno()])
                    message, pidfd = await self._receive()
            if not message:
                raise EOFError
            if pidfd < 0:
                raise SandboxError(f"a sandbox session did not start: {message[1:].decode(errors='replace')}")
        except BaseException:
            mine.close()
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return _Process(mine, pidfd, folder, max_frame)

    async def _receive(self) -> tuple[bytes, int]:
        """Return the next message and the descriptor that came with it (-1: none); b"" at the end."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._control, CHUNK, 1)
            except BlockingIOError:
                await _readable(self._control.fileno())
            except ConnectionResetError:
                return b"", -1
            else:
                return message, fds[0] if fds else -1

    async def end(self) -> None:
        """Kill it, and with it all its sessions, and reap it."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not (self.isolated and _kill_child(self._popen.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        if not await self._exited():
            self._popen.kill()
            await self._exited()
        self._close()

    async def _exited(self) -> bool:
        """Wait for the process and reap it; False when it is still there after a while."""
        if self._popen.poll() is None:
            pidfd = os.pidfd_open(self._popen.pid)
            try:
                async with asyncio.timeout(KILL_SECONDS):
                    await _readable(pidfd)
            except TimeoutError:
                return False
            finally:
                os.close(pidfd)
        return self._popen.poll() is not None

    def _close(self) -> None:
        for mine in filter(None, (self._control, self._users)):
            mine.close()


async def _started(command: bwrap.Command) -> _Nursery:
    """Start a nursery in a thread, off the event loop; where the caller is cancelled meanwhile, it is ended.

    Raises:
        OSError: it cannot be started.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(_Nursery, command))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await (await starting).end()
        raise


def _popen(args: list[str], fd: int, passed: list[int]) -> "subprocess.Popen[bytes]":
    """Start the nursery with `fd` as its descriptors 0, 1 and 2, out of reach of a terminal's Ctrl-C."""
    return subprocess.Popen(
        args, stdin=fd, stdout=fd, stderr=fd, pass_fds=passed, env=bwrap.ENVIRONMENT, cwd="/", start_new_session=True
    )


def _kill_child(pid: int) -> bool:
    """Kill the only child of a bubblewrap process; False when it has none."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        child = int(children.read_text())
        pidfd = os.pidfd_open(child)
    except (OSError, ValueError):
        return False
    try:
        if int(children.read_text()) != child:  # the descriptor might be of a later process of that number
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (OSError, ValueError):
        return False
    finally:
        os.close(pidfd)
    return True


class LocalSession(Session):
    """One interpreter process; a process that was killed or died is replaced at the next call."""

    def __init__(self, sandbox: "LocalSandbox", process: _Process) -> None:
        """Wrap a process that is ready."""
        self._sandbox = sandbox
        self._process: _Process | None = process
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process id of the interpreter on this machine; None between one that died and the next."""
        return self._process.pid if self._process is not None else None

    async def run(self, code: str, seconds: float | None = None) -> ExecResult:
        """Run code; see `Session.run`. Cancelling a call ends the process, and with it the session's variables."""
        if self._closed:
            raise SandboxError("this sandbox session is closed: open another")
        limit = seconds if seconds is not None else self._sandbox.limits.exec_seconds
        process = self._process = self._process or await self._sandbox.start()
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(limit):
                reply = await process.request(code)
        except TimeoutError:
            return await self._lost(ExecStop.TIMEOUT, f"TimeoutError: no result within {limit:g} s", begin)
        except (EOFError, OSError) as exc:
            if self._closed:
                raise SandboxError("this sandbox session was closed while it ran") from exc
            return await self._lost(ExecStop.DIED, "the interpreter process ended", begin)
        except _ProtocolError as exc:
            return await self._lost(ExecStop.DIED, f"the interpreter process was ended: it sent {exc}", begin)
        except asyncio.CancelledError:
            self._process = None
            await process.end()
            raise
        return ExecResult(**reply.model_dump(exclude={"id"}), seconds=time.perf_counter() - begin)

    async def _lost(self, stop: ExecStop, reason: str, begin: float) -> ExecResult:
        """End the process and return the result that says so."""
        process, self._process = self._process, None
        seconds = time.perf_counter() - begin
        if process is not None:
            await process.end()
        return ExecResult(stop=stop, error=f"{reason}; {RESTARTED}", seconds=seconds)

    async def close(self) -> None:
        """End the process; see `Session.close`."""
        self._closed = True
        self._sandbox.forget(self)
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class LocalSandbox(Sandbox):
    """Opens isolated sessions on this machine.

    `allow_weak=True` accepts, where isolation cannot be had, sessions with resource limits only. These are no boundary:
    their code can read and write what this user can, and use the network.
    """

    def __init__(self, limits: SandboxLimits | None = None, allow_weak: bool = False) -> None:
        """Make a sandbox; nothing is started before the first `open`. It belongs to the event loop that opens it."""
        self.limits = limits or SandboxLimits()
        self._allow_weak = allow_weak
        self._sessions: set[LocalSession] = set()
        self._command: bwrap.Command | None = None
        self._nursery: _Nursery | None = None
        self._lock = asyncio.Lock()
        self._layers: _Layers | None = None

    @property
    def isolated(self) -> bool:
        """False when sessions run without isolation; known after the first `open`."""
        return self._command is None or self._command.isolated

    @property
    def pid(self) -> int | None:
        """The process id of the warm parent (bubblewrap's where it is isolated), None where there is none."""
        return self._nursery.pid if self._nursery is not None else None

    @property
    def layers(self) -> dict[str, bool]:
        """Which layers of isolation the sessions have; empty before the first `open`."""
        return {} if self._layers is None else self._layers.model_dump()

    async def open(self) -> LocalSession:
        """Open a session; see `Sandbox.open`."""
        session = LocalSession(self, await self.start())
        self._sessions.add(session)
        return session

    def forget(self, session: LocalSession) -> None:
        """Take note that a session is closed."""
        self._sessions.discard(session)

    async def aclose(self) -> None:
        """Close every session that was opened here, and the nursery."""
        await asyncio.gather(*(session.close() for session in list(self._sessions)))
        async with self._lock:
            nursery, self._nursery = self._nursery, None
            if nursery is not None:
                await nursery.end()

    async def start(self) -> _Process:
        """Start a session's process and wait until it is ready; a nursery that has died is replaced, once.

        Raises:
            SandboxError: isolation cannot be had, or the process does not start.
        """
        for _ in range(2):
            nursery = await self._warm()
            try:
                process = await nursery.spawn(CHUNK + 64 * self.limits.output_chars)
            except (EOFError, OSError) as exc:
                log.warning("the sandbox's warm parent died (%s); another is started", exc or "hung up")
                continue
            try:
                async with asyncio.timeout(START_SECONDS):
                    layers = await process.layers()
            except BaseException as exc:
                await process.end()
                if isinstance(exc, TimeoutError):
                    raise SandboxError(f"a sandbox session was not ready within {START_SECONDS:g} s") from exc
                if isinstance(exc, SandboxError) and not nursery.alive:
                    continue
                raise
            self._note(layers)
            return process
        raise SandboxError("the sandbox's warm parent died twice in a row: is the machine out of memory?")

    def _note(self, layers: _Layers) -> None:
        if self._layers is None and layers.namespaces and not (layers.landlock and layers.seccomp):
            log.info("sandbox: this kernel has %s", layers)
        self._layers = layers

    async def _warm(self) -> _Nursery:
        """Return the nursery, starting it where there is none; the first start finds out which isolation there is."""
        async with self._lock:
            if self._nursery is not None and self._nursery.alive:
                return self._nursery
            if self._nursery is not None:
                await self._nursery.end()
            self._nursery = await self._start_known() if self._command else await self._find()
            return self._nursery

    async def _start_known(self) -> _Nursery:
        assert self._command is not None
        nursery, problem = await self._try(self._command)
        if nursery is None:
            raise SandboxError(f"the sandbox did not start: {problem}")
        return nursery

    async def _find(self) -> _Nursery:
        """Try every bubblewrap that there is; without isolation only where that was allowed."""
        reason = "bubblewrap (bwrap) is not installed"
        for binary in await asyncio.to_thread(bwrap.binaries):
            self._command = await asyncio.to_thread(bwrap.isolated_command, binary, self.limits)
            nursery, problem = await self._try(self._command)
            if nursery is not None:
                return nursery
            reason = f"{binary} failed: {problem}"
        self._command = None
        if not self._allow_weak:
            raise SandboxError(f"no isolated sandbox on this machine: {reason}; {bwrap.HOW_TO_GET}")
        self._command = bwrap.weak_command(self.limits)
        log.warning("sandbox sessions run WITHOUT isolation (allow_weak): %s", reason)
        return await self._start_known()

    async def _try(self, command: bwrap.Command) -> tuple[_Nursery | None, str]:
        """Start one nursery and a first session in it; return it, or None and the first line of what went wrong."""
        try:
            nursery = await _started(command)
        except OSError as exc:
            return None, str(exc)
        try:
            async with asyncio.timeout(START_SECONDS):
                problem = await nursery.handshake()
                if not problem:
                    await self._try_session(nursery)
        except TimeoutError:
            problem = f"not ready within {START_SECONDS:g} s"
        except (OSError, EOFError, SandboxError) as exc:
            problem = str(exc) or "it hung up"
        except asyncio.CancelledError:
            await asyncio.shield(nursery.end())
            raise
        if not problem:
            return nursery, ""
        await nursery.end()
        return None, problem.splitlines()[-1]

    async def _try_session(self, nursery: _Nursery) -> None:
        """Open and end a session: namespaces within namespaces may be what a machine forbids."""
        process = await nursery.spawn(CHUNK)
        try:
            await process.layers()
        finally:
            await process.end()
