"""What the evaluation commands share on the command line: options of a review, and the boundary for errors.

Light: `--help` imports nothing heavy. Exit codes: 0 done; 2 bad input or an outage, in one line; 130 interrupted (the
same command resumes).
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.command_line import guarded

Parser = argparse.ArgumentParser


def parser(command: str, description: str, epilog: str = "") -> Parser:
    """Return a parser of `python -m eval.<command>`."""
    return Parser(
        prog=f"python -m eval.{command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


VERIFIERS = "scripted-teacher, a model's folder, RUN:STAGE (its reviews)"


def add_review_options(options: Parser, who: str = "verifier", models: str = VERIFIERS) -> None:
    """Add the options that say what is reviewed, by whom, and where the reviews are kept.

    Args:
        options: The command's.
        who: What the model is here.
        models: What may stand for a model, besides one that an endpoint serves.
    """
    add = options.add_argument
    add("--candidates", required=True, type=Path, metavar="FILE", help="JSON lines: question, ground_truth, samples")
    add("--limit", type=at_least(1), metavar="N", help="the first N problems of the file (default: all)")
    add("--model", required=True, help=f"the {who}: {models}, or what --base-url serves")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible endpoint; several: comma-separated")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=f"{who} settings: style=full …")
    add("--out", type=Path, metavar="DIR", help="folder of reviews and results (default: runs/eval/<file>-<model>)")
    add("--concurrency", type=at_least(1), default=32, metavar="N", help="candidates at once (default: 32)")
    add("--max-outages", type=at_least(1), default=16, metavar="N", help="stop after N failures in a row (default: 16)")


def add_sampling_options(options: Parser, draws: int) -> None:
    """Add the options of resampling: draws, bootstrap, seed."""
    add = options.add_argument
    add("--draws", type=at_least(1), default=draws, metavar="N", help=f"draws of pools (default: {draws})")
    add_bootstrap_options(options, "draws and resamples")


def add_bootstrap_options(options: Parser, seeded: str = "the resamples") -> None:
    """Add the options of intervals: resamples, and the seed (`seeded`: of what)."""
    add = options.add_argument
    add("--bootstrap", type=at_least(0), default=1000, metavar="N", help="resamples of problems (default: 1000)")
    add("--seed", type=int, default=0, help=f"of {seeded} (default: 0)")


def add_selective_options(options: Parser) -> None:
    """Add the options of selective verification (see `eval/selective.py`)."""
    add = options.add_argument
    add("--risk", type=share, default=0.1, help="of selective verification: chance that the rest changes it")
    add("--margin", type=share, default=0.3, help="of selective verification: votes by which another must lead")


def add_probe_options(options: Parser) -> None:
    """Add the options of a probe (see `eval/probes.py`)."""
    add = options.add_argument
    add("--probe", type=Path, metavar="DIR", help="score the candidates with this probe (of train.probe) as well")
    add(
        "--probe-band",
        type=band,
        metavar="LOW,HIGH",
        help="review only where the probe's probability lies within; elsewhere the verdict is the probe's",
    )


def at_least(low: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` on."""

    def read(text: str) -> int:
        value = int(text) if text.strip().lstrip("-").isdigit() else low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} on, got {text!r}")
        return value

    return read


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def band(text: str) -> tuple[float, float]:
    """Read two numbers from 0 to 1, the lower first."""
    low, comma, high = text.partition(",")
    if not comma or share(low) > share(high):
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH with the lower first, such as 0.2,0.8, got {text!r}")
    return share(low), share(high)


def not_negative(text: str) -> float:
    """Read a finite number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return value


def sizes(text: str) -> tuple[int, ...]:
    """Read whole numbers, comma-separated, without repeats and in order."""
    read = at_least(1)
    return tuple(sorted({read(part) for part in text.split(",")}))


def run(options: Parser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
    """Run a command; what goes wrong is one line on stderr. Returns the exit code."""
    args = options.parse_args(argv)

    def done() -> int:
        work(args)
        return 0

    return guarded(done)
