"""Benchmark: local sandbox sessions against a fresh interpreter and a Jupyter kernel, in one run on one machine.

`python -m eval.bench.sandbox` prints medians in milliseconds (opening a session, a short call in it, a first sympy
solve), calls a second with many sessions live, and the private memory of a session. The baselines are what one would
take otherwise: `subprocess.run([python, "-c", …])` a call (no state, no isolation), and a Jupyter kernel a session
(state, no isolation; `pip install jupyter-client ipykernel`, left out when missing). Run by hand, on a quiet machine.
"""

import argparse
import asyncio
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tools.sandbox.local import LocalSandbox, LocalSession

T = TypeVar("T")
SHORT = "x = 2 + 3\nprint(x)"
SOLVE = "import sympy\ns = sympy.symbols('s')\nprint(sympy.solve(s**2 - 7*s + 12, s))"


async def main() -> None:
    """Read the arguments, run every part, write a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=64, help="live at once in the throughput part")
    parser.add_argument("--rounds", type=int, default=40, help="sessions opened one after the other")
    args = parser.parse_args()
    rows = {"retort": await _ours(args.rounds, args.sessions), "fresh interpreter": _fresh(max(3, args.rounds // 8))}
    if importlib.util.find_spec("jupyter_client") and importlib.util.find_spec("ipykernel"):
        rows["jupyter kernel"] = await _jupyter(max(3, args.rounds // 8))
    columns = ("open ms", "short call ms", "first solve ms", "calls/s", "private MB")
    sys.stdout.write(f"{'':20}" + "".join(f"{c:>16}" for c in columns) + "\n")
    for name, values in rows.items():
        sys.stdout.write(f"{name:20}" + "".join(f"{values.get(c, float('nan')):16.1f}" for c in columns) + "\n")


async def _ours(rounds: int, live: int) -> dict[str, float]:
    sandbox = LocalSandbox()
    try:
        await (await sandbox.open()).close()  # the nursery is started once a run
        opened, calls, solves = [], [], []
        for _ in range(rounds):
            seconds, session = await _timed(sandbox.open)
            opened.append(seconds)
            calls += [(await _timed(lambda s=session: s.run(SHORT)))[0] for _ in range(5)]
            await session.close()
            fresh = await sandbox.open()
            solves.append((await _timed(lambda s=fresh: s.run(SOLVE)))[0])
            await fresh.close()
        sessions = [await sandbox.open() for _ in range(live)]
        begin, each = time.perf_counter(), 10
        await asyncio.gather(*(_many(s, each) for s in sessions))
        rate = live * each / (time.perf_counter() - begin)
        memory = statistics.median(private_mb(s.pid) for s in sessions if s.pid)
    finally:
        await sandbox.aclose()
    return _medians(opened, calls, solves) | {"calls/s": rate, "private MB": memory}


async def _many(session: LocalSession, calls: int) -> None:
    for _ in range(calls):
        await session.run(SHORT)


def private_mb(pid: int) -> float:
    """Return the memory of a process that no other process shares, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _fresh(rounds: int) -> dict[str, float]:
    def run(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - begin

    calls = [run(SHORT) for _ in range(rounds)]
    return _medians([0.0], calls, [run(SOLVE) for _ in range(rounds)]) | {"calls/s": 1 / statistics.median(calls)}


async def _jupyter(rounds: int) -> dict[str, float]:
    from jupyter_client.manager import AsyncKernelManager  # pyright: ignore[reportMissingImports]

    opened, calls, solves = [], [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        manager = AsyncKernelManager()
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready()
        opened.append(time.perf_counter() - begin)
        solves.append((await _timed(lambda c=client: c.execute_interactive(SOLVE, output_hook=_ignore)))[0])
        for _ in range(5):
            calls.append((await _timed(lambda c=client: c.execute_interactive(SHORT, output_hook=_ignore)))[0])
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    return _medians(opened, calls, solves) | {"calls/s": 1 / statistics.median(calls)}


def _ignore(message: object) -> None:
    """Take a kernel's output without printing it."""


async def _timed(work: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    begin = time.perf_counter()
    result = await work()
    return time.perf_counter() - begin, result


def _medians(opened: list[float], calls: list[float], solves: list[float]) -> dict[str, float]:
    parts = {"open ms": opened, "short call ms": calls, "first solve ms": solves}
    return {name: 1000 * statistics.median(values) for name, values in parts.items()}


if __name__ == "__main__":
    asyncio.run(main())
