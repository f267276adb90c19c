"""The interpreter of one session: reads code from its socket, runs it, writes results back.

It runs in a process that the nursery forked (`nursery.py`) and confined (`confine.py`), with the socket as descriptor
0, which it moves out of the way before any other code runs. Standard library only.

A frame is four bytes of length (big endian) and the payload. First comes JSON that names the layers of isolation; then
a request is 16 characters of id and the code (UTF-8), answered by JSON: the id and the fields of `ExecResult`.
"""

import _ast
import _signal  # pyright: ignore[reportMissingImports]
import io
import os
import resource
import sys
from _json import encode_basestring_ascii as quote

ID_CHARS = 16
CHANNEL_FD, SPILL_FD = 99, 98  # out of the way of user code that counts from 3
MIB = 1 << 20
RESERVE = 16 * MIB  # kept back so that a MemoryError can still be reported
USER_FRAMES = 4


class Capture(io.RawIOBase):
    """A bounded byte sink: keeps the first `limit` bytes and notes whether there were more."""

    name = "<captured>"

    def __init__(self, limit: int) -> None:
        """Make an empty sink of `limit` bytes."""
        self.limit = limit
        self.kept = bytearray()
        self.cut = False

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def fileno(self) -> int:
        """Descriptor 1, so that a child process can be given this stream."""
        return 1

    def close(self) -> None:
        """Stay open: code that closes its stdout must not silence the calls after it."""

    def write(self, data, /) -> int:
        """Keep what fits; claim to have written everything."""
        view = memoryview(data).cast("B")
        room = self.limit - len(self.kept)
        self.kept += view[:room]
        self.cut = self.cut or len(view) > room
        return len(view)

    def take(self) -> tuple[str, bool]:
        """Return the text kept and whether it was cut, and start afresh."""
        text, cut = self.kept.decode("utf-8", "replace"), self.cut
        self.kept, self.cut = bytearray(), False
        return text, cut


class Runner:
    """The namespace, the captured streams and the limits of one session."""

    def __init__(self, memory_mb: int, output_chars: int, exec_seconds: float) -> None:
        """Make an empty `__main__` module and the capturing streams."""
        self.output_chars = output_chars
        self.cpu_seconds = int(2 * exec_seconds) + 2
        self.captures = [Capture(4 * output_chars) for _ in range(2)]
        self.streams = [
            io.TextIOWrapper(c, "utf-8", "backslashreplace", newline="\n", write_through=True) for c in self.captures
        ]
        self.module = type(sys)("__main__")
        self.module.__dict__.update(exit=sys.exit, quit=sys.exit)
        sys.modules["__main__"] = self.module
        self.sources: dict[str, list[str]] = {}
        with open("/proc/self/statm") as file:
            self.address_space = int(file.read().split()[0]) * resource.getpagesize() + memory_mb * MIB

    def limit_memory(self) -> None:
        """Allow user code `memory_mb` over what the bare interpreter takes; the hard limit holds the reserve."""
        resource.setrlimit(resource.RLIMIT_AS, (self.address_space, self.address_space + RESERVE))

    def limit_time(self) -> None:
        """Allow this much processor time from here on: threads that outlive their call do not burn on for ever."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + self.cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))

    def free_reserve(self) -> None:
        """Let the runner itself use the reserve."""
        resource.setrlimit(resource.RLIMIT_AS, (self.address_space + RESERVE, self.address_space + RESERVE))

    def run(self, code: str) -> dict[str, str | bool | None]:
        """Run code in the session's namespace and return the fields of its result."""
        sys.stdout, sys.stderr = self.streams
        for fd in (1, 2):
            os.dup2(SPILL_FD, fd)
        name = f"<cell {len(self.sources) + 1}>"
        self.sources[name] = code.splitlines()
        stop, value, error = "ok", None, None
        self.limit_memory()
        self.limit_time()
        try:
            value = self.evaluate(code, name)
        except BaseException as exc:  # the boundary: whatever user code raises is its result
            self.free_reserve()
            if not (isinstance(exc, SystemExit) and exc.code in (None, 0)):
                stop = "memory" if isinstance(exc, MemoryError) else "raised"
                error = self.describe(exc)
        self.free_reserve()
        end_leftovers()
        return self.result(stop, value, error)

    def evaluate(self, code: str, name: str) -> str | None:
        """Run all statements; return the repr of a last expression, None where there is none or it is None."""
        tree = compile(code, name, "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
        assert isinstance(tree, _ast.Module)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, _ast.Expr):
            tree.body.pop()
        namespace = self.module.__dict__
        exec(compile(tree, name, "exec", dont_inherit=True), namespace)
        if not isinstance(last, _ast.Expr):
            return None
        value = eval(compile(_ast.Expression(last.value), name, "eval", dont_inherit=True), namespace)
        return None if value is None else repr(value)

    def describe(self, exc: BaseException) -> str:
        """Return a short traceback: the innermost frames of user code and the last line."""
        lines = []
        trace = exc.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if code.co_filename in self.sources:
                lines.append(self.frame(code.co_filename, trace.tb_lineno, f", in {code.co_name}"))
            trace = trace.tb_next
        if isinstance(exc, SyntaxError) and exc.filename in self.sources and exc.lineno:
            lines.append(self.frame(exc.filename, exc.lineno, ""))
        try:
            text = exc.msg if isinstance(exc, SyntaxError) else str(exc)
        except Exception as broken:  # __str__ is user code too
            text = f"<{type(broken).__name__} in __str__>"
        last = f"{type(exc).__qualname__}: {text}" if text else type(exc).__qualname__
        return "\n".join([*lines[-USER_FRAMES:], last])

    def frame(self, name: str, number: int, where: str) -> str:
        """Return one frame of a traceback with its line of source."""
        source = self.sources[name]
        shown = f"\n    {source[number - 1].strip()}" if 0 < number <= len(source) else ""
        return f'File "{name}", line {number}{where}{shown}'

    def result(self, stop: str, value: str | None, error: str | None) -> dict[str, str | bool | None]:
        """Collect the output and cut every text to the limit."""
        (stdout, cut_out), (stderr, cut_err) = (c.take() for c in self.captures)
        texts = {"stdout": stdout + self.spilled(), "stderr": stderr, "value": value, "error": error}
        cut = cut_out or cut_err
        fields: dict[str, str | bool | None] = {"stop": stop}
        for key, text in texts.items():
            cut = cut or (text is not None and len(text) > self.output_chars)
            fields[key] = None if text is None else self.clip(key, text)
        return {**fields, "truncated": cut}

    def clip(self, key: str, text: str) -> str:
        """Keep the head of a text, or the tail of an error, whose last line says what happened."""
        kept = text[-self.output_chars :] if key == "error" else text[: self.output_chars]
        return kept.encode("utf-8", "backslashreplace").decode()

    def spilled(self) -> str:
        """Return what child processes and C code wrote to descriptors 1 and 2, and empty the file."""
        raw = os.pread(SPILL_FD, 4 * self.output_chars + 4, 0)
        os.ftruncate(SPILL_FD, 0)
        os.lseek(SPILL_FD, 0, os.SEEK_SET)
        return raw.decode("utf-8", "replace")


def end_leftovers(kill=os.kill, getpid=os.getpid, wait=os.waitpid) -> None:
    """End what a call left running: timers, and (in a process namespace of its own only) every other process."""
    for timer in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
        _signal.setitimer(timer, 0)
    if getpid() != 1:
        return
    try:
        kill(-1, 9)
        while True:
            wait(-1, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def move_descriptors() -> None:
    """Take the socket off descriptors 0-2: stdin becomes empty, stdout and stderr a file in memory."""
    os.dup2(0, CHANNEL_FD, inheritable=False)
    spill, empty = os.memfd_create("output"), os.open(os.devnull, os.O_RDONLY)
    os.dup2(spill, SPILL_FD, inheritable=False)
    os.dup2(empty, 0)
    os.close(spill)
    os.close(empty)
    for fd in (1, 2):
        os.dup2(SPILL_FD, fd)


def read_exactly(size: int) -> bytes:
    """Read from the channel; the host's hanging up ends the process."""
    data = bytearray()
    while len(data) < size:
        part = os.read(CHANNEL_FD, size - len(data))
        if not part:
            os._exit(0)
        data += part
    return bytes(data)


def send(payload: bytes) -> None:
    """Write one frame."""
    view = memoryview(len(payload).to_bytes(4, "big") + payload)
    while view:
        view = view[os.write(CHANNEL_FD, view) :]


def encode(fields: dict[str, str | bool | None]) -> bytes:
    """Return the fields as JSON (texts, booleans and None only)."""
    words = {None: "null", True: "true", False: "false"}
    pairs = [f'"{key}":{quote(field) if isinstance(field, str) else words[field]}' for key, field in fields.items()]
    return ("{" + ",".join(pairs) + "}").encode()


def serve(runner: Runner, layers: dict[str, str | bool | None]) -> None:
    """Serve requests until the host hangs up."""
    me = os.getpid()
    send(encode(layers))
    while True:
        request = read_exactly(int.from_bytes(read_exactly(4), "big")).decode("utf-8", "surrogatepass")
        fields = runner.run(request[ID_CHARS:])
        if os.getpid() != me:  # user code forked and its child came back here
            os._exit(0)
        send(encode({"id": request[:ID_CHARS], **fields}))
