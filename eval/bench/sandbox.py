"""Benchmark: local sandbox sessions against a fresh interpreter and a Jupyter kernel, in one run on one machine.

`python -m eval.bench.sandbox` prints a table: medians in milliseconds (opening a session, a short call in it, a first
sympy solve in a session that has run nothing), calls a second with many sessions live and calling at once, and the
memory of a session that no other process shares, after short calls and after a solve. The baselines are what one would
take otherwise: `subprocess.run([python, "-c", …])` a call (no state, no isolation), and a Jupyter kernel a session
(state, no isolation; `pip install jupyter-client ipykernel`, left out when missing). Run by hand, on a quiet machine.
"""

import argparse
import asyncio
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tools.sandbox.base import ExecStop, Session
from tools.sandbox.local import LocalSandbox

T = TypeVar("T")
SHORT = "x = 2 + 3\nprint(x)"
SOLVE = "import sympy\ns = sympy.symbols('s')\nprint(sympy.solve(s**2 - 7*s + 12, s))"
COLUMNS = ("open ms", "short call ms", "first solve ms", "calls/s", "private MB", "after a solve MB")


async def main() -> None:
    """Read the arguments, run every part, write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=64, help="live at once in the throughput part")
    parser.add_argument("--kernels", type=int, default=8, help="Jupyter kernels live at once in it")
    parser.add_argument("--rounds", type=int, default=40, help="sessions opened one after the other; others: an eighth")
    args = parser.parse_args()
    few = max(3, args.rounds // 8)
    rows = {f"Retort, {args.sessions} live": await _ours(args.rounds, args.sessions)}
    rows["fresh interpreter a call"] = await _fresh(few)
    if importlib.util.find_spec("jupyter_client") and importlib.util.find_spec("ipykernel"):
        rows[f"Jupyter kernel, {args.kernels} live"] = await _jupyter(few, args.kernels)
    sys.stdout.write("| p50 | " + " | ".join(COLUMNS) + " |\n" + "|---" * (1 + len(COLUMNS)) + "|\n")
    for name, values in rows.items():
        cells = (f"{values[c]:.1f}" if c in values else "–" for c in COLUMNS)
        sys.stdout.write(f"| {name} | " + " | ".join(cells) + " |\n")


async def _ours(rounds: int, live: int) -> dict[str, float]:
    sandbox = LocalSandbox()
    out = _Times()
    solved = []
    try:
        await (await sandbox.open()).close()  # the warm parent is started once a run
        for _ in range(rounds):
            session = await out.time("open ms", sandbox.open)
            for _ in range(5):
                await out.time("short call ms", lambda s=session: _run(s, SHORT))
            await session.close()
            fresh = await sandbox.open()
            await out.time("first solve ms", lambda s=fresh: _run(s, SOLVE))
            solved.append(private_mb(fresh.pid or 0))
            await fresh.close()
        sessions = [await sandbox.open() for _ in range(live)]
        rate = await _rate([lambda s=s: _run(s, SHORT) for s in sessions])
        short = statistics.median(private_mb(s.pid or 0) for s in sessions)
    finally:
        await sandbox.aclose()
    return out.medians() | {"calls/s": rate, "private MB": short, "after a solve MB": statistics.median(solved)}


async def _run(session: Session, code: str) -> None:
    result = await session.run(code)
    if result.stop is not ExecStop.OK:
        raise RuntimeError(f"the session failed on {code!r}: {result.error}")


async def _fresh(rounds: int) -> dict[str, float]:
    async def run(code: str) -> None:
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, capture_output=True)

    out = _Times()
    for _ in range(rounds):
        await out.time("short call ms", lambda: run(SHORT))
        await out.time("first solve ms", lambda: run(SOLVE))
    return out.medians() | {"calls/s": await _rate([lambda: run(SHORT)] * (os.cpu_count() or 1))}


async def _jupyter(rounds: int, live: int) -> dict[str, float]:
    out = _Times()
    solved = []
    for _ in range(rounds):
        manager, client = await out.time("open ms", _kernel)
        await out.time("first solve ms", lambda c=client: _execute(c, SOLVE))
        solved.append(private_mb(manager.provisioner.pid))
        for _ in range(5):
            await out.time("short call ms", lambda c=client: _execute(c, SHORT))
        await _end(manager, client)
    kernels = [await _kernel() for _ in range(live)]
    calls = [lambda c=client: _execute(c, SHORT) for _, client in kernels]
    rate = await _rate(calls)
    short = statistics.median(private_mb(manager.provisioner.pid) for manager, _ in kernels)
    for manager, client in kernels:
        await _end(manager, client)
    return out.medians() | {"calls/s": rate, "private MB": short, "after a solve MB": statistics.median(solved)}


async def _kernel() -> tuple[Any, Any]:
    """Start a kernel and wait until it answers."""
    from jupyter_client.manager import AsyncKernelManager  # pyright: ignore[reportMissingImports]

    manager = AsyncKernelManager()
    await manager.start_kernel(stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready()
    return manager, client


async def _end(manager: Any, client: Any) -> None:
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


async def _execute(client: Any, code: str) -> None:
    reply = await client.execute_interactive(code, output_hook=lambda message: None)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"the kernel failed on {code!r}")


def private_mb(pid: int) -> float:
    """Return the memory of a process that no other process shares, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


async def _rate(sessions: Sequence[Callable[[], Awaitable[object]]], calls: int = 10) -> float:
    """Return the calls a second when all sessions call at once, each one after the other."""

    async def many(call: Callable[[], Awaitable[object]]) -> None:
        for _ in range(calls):
            await call()

    begin = time.perf_counter()
    await asyncio.gather(*(many(call) for call in sessions))
    return len(sessions) * calls / (time.perf_counter() - begin)


class _Times:
    """The times of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    async def time(self, part: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work and note how long it took."""
        begin = time.perf_counter()
        result = await work()
        self.seconds.setdefault(part, []).append(time.perf_counter() - begin)
        return result

    def medians(self) -> dict[str, float]:
        """Return the median of each part in milliseconds."""
        return {part: 1000 * statistics.median(values) for part, values in self.seconds.items()}


if __name__ == "__main__":
    asyncio.run(main())
