"""The process in which math-verify runs: JSON lines in, JSON lines out.

Started by `eval.math_check`, as a script that imports nothing of Retort. Input: one `{"a", "b", "seconds"}` a line;
output: the line "ready" once, then `{"equal": bool}` for each input. The process bounds itself: past `seconds` of CPU
time on one comparison the kernel ends it (SIGPROF), in C code too, and past `MEMORY_MB` allocations fail.

Only math-verify's LaTeX reader is used: its plain-expression reader evaluates Python.
"""

import json
import logging
import resource
import signal
import sys

from math_verify import LatexExtractionConfig, parse, verify

MEMORY_MB = 2048
_READER = (LatexExtractionConfig(),)


def equal(a: str, b: str) -> bool:
    """Return whether two answers in LaTeX are equal, read either way round (math-verify is not symmetric)."""
    left, right = (
        parse(f"${x}$", extraction_config=_READER, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for x in (a, b)
    )
    if not left or not right:
        return False
    return verify(left, right, timeout_seconds=None) or verify(right, left, timeout_seconds=None)


def main() -> None:
    """Answer until standard input ends."""
    logging.disable(logging.CRITICAL)
    limit = MEMORY_MB << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; this ends with its input
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        found = equal(request["a"], request["b"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps({"equal": found}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
