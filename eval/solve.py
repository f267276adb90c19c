"""`python -m eval.solve`: solutions of a benchmark's problems by a model, labelled: a file of candidates.

Input: a benchmark (of the Hub, or a local copy) and a solver: an endpoint, a model's folder, the embedded student, or
`scripted-solver`. Output: a file in AgentV-RL's form, which `eval.best_of_n` and `eval.verdicts` read as it is; beside
it `<file>.samples.jsonl` (every sample and grade as it came: the same command goes on from there) and
`<file>.report.json`; a table of pass@k on stdout.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import command_line
from tools.errors import ConfigError

EPILOG = """Benchmarks: {names}. NAME:FILE reads JSON lines, parquet or CSV for the Hub.
Mathematics is graded by math-verify, short texts by exact match after SQuAD's normalisation (F1 beside it), programs by
their tests in the sandbox. The same command resumes; a larger --k or --limit goes on from what there is."""


def options() -> command_line.Parser:
    """Return the command's parser."""
    from eval.benchmarks import BENCHMARKS

    told = "Solve a benchmark's problems k times each, label the solutions, report pass@k."
    parser = command_line.parser("solve", told, EPILOG.format(names=", ".join(BENCHMARKS)))
    add = parser.add_argument
    add("--benchmark", required=True, metavar="NAME[:FILE]", help="which problems, and a local copy of them")
    add("--limit", type=command_line.at_least(1), metavar="N", help="the first N problems (default: all)")
    add("--model", required=True, help="scripted-solver, smollm2-135m, a model's folder, or what --base-url serves")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible endpoint; several: comma-separated")
    add("--k", type=command_line.at_least(1), default=8, metavar="N", help="solutions a problem (default: 8)")
    add("--out", required=True, type=Path, metavar="FILE", help="JSON lines: question, ground_truth, samples, …")
    add("--temperature", type=command_line.not_negative, default=1.0, help="of sampling (default: 1)")
    add("--max-tokens", type=command_line.at_least(1), default=2048, metavar="N", help="of a solution (default: 2048)")
    add("--test-seconds", type=command_line.not_negative, default=6.0, help="limit of a program's test (default: 6)")
    add("--concurrency", type=command_line.at_least(1), default=32, metavar="N", help="solutions at once (default: 32)")
    add("--max-outages", type=command_line.at_least(1), default=16, metavar="N", help="stop after N failures in a row")
    command_line.add_bootstrap_options(parser, "sampling in this process, and of the resamples")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Sample, grade, write, report; what failed is told at the end."""
    from eval import solve_report
    from eval.benchmarks import choose, load_tasks
    from eval.report import show
    from eval.solve_journal import Journal
    from eval.solving import Solver, identity, solve_all

    if args.out.suffix != ".jsonl":
        raise ConfigError(f"--out {str(args.out)!r}: name a file that ends with .jsonl")
    chosen = choose(args.benchmark)
    solver = Solver(
        args.model,
        args.base_url,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        test_seconds=args.test_seconds,
        width=args.concurrency,
        max_outages=args.max_outages,
        seed=args.seed,
    )
    tasks = load_tasks(chosen, args.limit)
    with Journal(args.out, identity(solver, chosen)) as journal:
        failure = solve_all(tasks, args.k, solver, journal)
        solved = solve_report.complete(tasks, args.k, journal, args.test_seconds)
    if solved:
        report = solve_report.report(chosen, solver, solved, args.k, len(tasks), args.bootstrap, args.seed)
        solve_report.write(report, solved, chosen, args.out)
        shown = [f"candidates {args.out}   numbers {solve_report.report_path(args.out)}"]
        show(solve_report.sections(report), shown)
    if failure is not None:
        raise failure


if __name__ == "__main__":
    sys.exit(main())
