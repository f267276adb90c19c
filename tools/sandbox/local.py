"""Sessions on this machine: one process each, isolated by bubblewrap, killed whole when a limit is reached.

The host holds one socket a session (framing in `runner.py`) and trusts nothing that comes through it: a reply must
carry the request's id, fit the result and stay below a size. Memory, file size, open files and the number of processes
are rlimits; time is the host's own clock.
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
from tools.sandbox.runner import ID_CHARS, READY

log = logging.getLogger(__name__)

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


class _ProtocolError(Exception):
    """What came through the socket is not a frame of the runner."""


class _Process:
    """The host's end of one runner: its process, its socket, and its end."""

    def __init__(self, command: bwrap.Command, max_frame: int) -> None:
        """Start the process.

        Raises:
            OSError: it cannot be started.
        """
        self._isolated = command.isolated
        self._max_frame = max_frame
        self._ending: asyncio.Task[None] | None = None
        self._folder = None if command.isolated else tempfile.mkdtemp(prefix="retort-")
        self._socket, theirs = socket.socketpair()
        self._users, asks = socket.socketpair() if command.maps_users else (None, None)
        args, passed = list(command.args), []
        with theirs, asks or contextlib.nullcontext():
            if asks is not None:
                passed = [asks.fileno(), os.dup(asks.fileno())]  # bubblewrap closes each when it is done with it
                args[1:1] = ["--info-fd", str(passed[0]), "--userns-block-fd", str(passed[1])]
            try:
                self._popen = self._spawn(args, theirs.fileno(), passed)
            except OSError:
                self._free()
                raise
            finally:
                for fd in passed[1:]:
                    os.close(fd)
        for mine in filter(None, (self._socket, self._users)):
            mine.setblocking(False)

    def _spawn(self, args: list[str], fd: int, passed: list[int]) -> "subprocess.Popen[bytes]":
        """Start the process with `fd` as its descriptors 0, 1 and 2, out of reach of a terminal's Ctrl-C."""
        return subprocess.Popen(
            args,
            stdin=fd,
            stdout=fd,
            stderr=fd,
            pass_fds=passed,
            env=bwrap.ENVIRONMENT,
            cwd=self._folder or "/",
            start_new_session=True,
        )

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

    async def handshake(self) -> str:
        """Wait until the runner is ready; return "" or what was written instead, e.g. bubblewrap's complaint."""
        if self._users is not None:
            await self._map_users(self._users)
            self._users.close()
        head = await self._read(4, partial=True)
        if head == len(READY).to_bytes(4, "big"):
            rest = await self._read(len(READY), partial=True)
            return "" if rest == READY else rest.decode(errors="replace")
        text = head + await self._read(2000, partial=True)
        return text.decode(errors="replace").strip() or "the interpreter did not start"

    async def request(self, code: str) -> _Reply:
        """Send code and wait for its result.

        Raises:
            EOFError, OSError: the process is gone.
            _ProtocolError: what came back is not the runner's reply.
        """
        token = secrets.token_hex(ID_CHARS // 2)
        payload = (token + code).encode("utf-8", "surrogatepass")
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._socket, len(payload).to_bytes(4, "big") + payload)
        size = int.from_bytes(await self._read(4), "big")
        if size > self._max_frame:
            raise _ProtocolError(f"a frame of {size} bytes")
        try:
            reply = _Reply.model_validate_json(await self._read(size))
        except ValueError as exc:
            raise _ProtocolError("a frame that is not a result") from exc
        if reply.id != token:
            raise _ProtocolError("a result of another request")
        return reply

    async def _read(self, size: int, partial: bool = False) -> bytes:
        """Read `size` bytes; at the end of the stream raise EOFError, or return what there is if `partial`."""
        data = bytearray()
        while len(data) < size:
            part = await asyncio.get_running_loop().sock_recv(self._socket, min(size - len(data), CHUNK))
            if not part and not partial:
                raise EOFError
            if not part:
                break
            data += part
        return bytes(data)

    async def end(self) -> None:
        """Kill the process with everything that it started and reap it. Safe to call twice, goes on when cancelled."""
        if self._ending is None:
            self._kill()
            self._ending = asyncio.create_task(self._reap())
        await asyncio.shield(self._ending)

    def _kill(self) -> None:
        """Kill all: in isolation the namespace's process 1 (bubblewrap, its parent, reaps it and ends)."""
        for mine in filter(None, (self._socket, self._users)):
            with contextlib.suppress(OSError):
                mine.shutdown(socket.SHUT_RDWR)  # whoever still reads from it sees the end
        if self._isolated and _kill_child(self._popen.pid):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    async def _reap(self) -> None:
        """Wait for the end of the process and free what was held for it."""
        if not await self._exited(KILL_SECONDS):
            self._popen.kill()
            await self._exited(KILL_SECONDS)
        self._free()

    async def _exited(self, seconds: float) -> bool:
        """Wait for the process and reap it; False when it is still there after `seconds`."""
        if self._popen.poll() is not None:
            return True
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        pidfd = os.pidfd_open(self._popen.pid)
        loop.add_reader(pidfd, gone.set)
        try:
            async with asyncio.timeout(seconds):
                await gone.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return self._popen.poll() is not None

    def _free(self) -> None:
        """Close the sockets and remove the working folder of a session without isolation."""
        self._socket.close()
        if self._users is not None:
            self._users.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


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
        """Make a sandbox; nothing is started before the first `open`."""
        self.limits = limits or SandboxLimits()
        self._allow_weak = allow_weak
        self._sessions: set[LocalSession] = set()
        self._command: bwrap.Command | None = None

    @property
    def isolated(self) -> bool:
        """False when sessions run without isolation; known after the first `open`."""
        return self._command is None or self._command.isolated

    async def open(self) -> LocalSession:
        """Open a session; see `Sandbox.open`."""
        session = LocalSession(self, await self.start())
        self._sessions.add(session)
        return session

    def forget(self, session: LocalSession) -> None:
        """Take note that a session is closed."""
        self._sessions.discard(session)

    async def aclose(self) -> None:
        """Close every session that was opened here."""
        await asyncio.gather(*(session.close() for session in list(self._sessions)))

    async def start(self) -> _Process:
        """Start a runner and wait until it is ready; the first start finds out which isolation this machine has.

        Raises:
            SandboxError: isolation cannot be had, or the process does not start.
        """
        if self._command is not None:
            process, problem = await self._try(self._command)
            if process is None:
                raise SandboxError(f"a sandbox session did not start: {problem}")
            return process
        reason = "bubblewrap (bwrap) is not installed"
        for binary in await asyncio.to_thread(bwrap.binaries):
            command = await asyncio.to_thread(bwrap.isolated_command, binary, self.limits)
            process, problem = await self._try(command)
            if process is not None:
                self._command = command
                return process
            reason = f"{binary} failed: {problem}"
        return await self._start_weak(reason)

    async def _start_weak(self, reason: str) -> _Process:
        """Start without isolation where that was allowed."""
        if not self._allow_weak:
            raise SandboxError(f"no isolated sandbox on this machine: {reason}; {bwrap.HOW_TO_GET}")
        self._command = bwrap.weak_command(self.limits)
        log.warning("sandbox sessions run WITHOUT isolation (allow_weak): %s", reason)
        return await self.start()

    async def _try(self, command: bwrap.Command) -> tuple[_Process | None, str]:
        """Start one process; return it, or None and the first line of what went wrong."""
        max_frame = CHUNK + 64 * self.limits.output_chars
        try:
            process = await _spawned(command, max_frame)
        except OSError as exc:
            return None, str(exc)
        try:
            async with asyncio.timeout(START_SECONDS):
                problem = await process.handshake()
        except TimeoutError:
            problem = f"not ready within {START_SECONDS:g} s"
        except OSError as exc:
            problem = str(exc)
        except asyncio.CancelledError:
            await process.end()
            raise
        if not problem:
            return process, ""
        await process.end()
        return None, problem.splitlines()[-1]


async def _spawned(command: bwrap.Command, max_frame: int) -> _Process:
    """Start a process in a thread, off the event loop; where the caller is cancelled meanwhile, it is ended.

    Raises:
        OSError: it cannot be started.
    """
    spawning = asyncio.ensure_future(asyncio.to_thread(_Process, command, max_frame))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await (await spawning).end()
        raise
