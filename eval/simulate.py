"""`python -m eval.simulate`: Best-of-N for N beyond what was recorded, by resampling recorded candidates.

Input: `candidates.jsonl` of a folder in which every candidate was reviewed (`eval.best_of_n`, `eval.verdicts`). For
each problem, pools of N rows (answer, label, verdict, scores, costs) are drawn with replacement, each draw standing
for a new solution with a review of its own. Output: the tables and the picture of `eval.best_of_n`, as
`simulation.json` and `.png`.

What it shows and what not: how selectors and their costs behave as pools grow, given the recorded mix of answers and
verdicts of each problem. No answer appears that was not sampled, so the oracle stays where the recorded pool has it; a
row drawn twice brings the same verdict twice, so errors of the verifier average out less than with fresh solutions; a
problem recorded with few candidates has few distinct rows. These are simulated figures and are named so wherever they
show.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval import command_line
from tools.errors import DataError

NAME = "simulation"


def options() -> command_line.Parser:
    """Return the command's parser."""
    parser = command_line.parser("simulate", "Best-of-N for large N, simulated from recorded verdicts.")
    add = parser.add_argument
    add("--reviews", required=True, type=Path, metavar="DIR", help="folder of eval.best_of_n or eval.verdicts")
    add("--n", type=command_line.sizes, default=(32, 64, 128), metavar="N,N,…", help="default: 32,64,128")
    command_line.add_sampling_options(parser, draws=20)
    command_line.add_selective_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Resample, measure, report."""
    from eval import best_of_n_report as report
    from eval.curves import Plan, curves, measure, savings
    from eval.methods import Recorded, methods_for
    from eval.pools import Resample
    from eval.report import show
    from eval.reviews import read_identity
    from eval.rows import ROWS, load_rows
    from eval.selective import Rule
    from tools.progress import Progress

    recorded = [Recorded(tuple(rows)) for rows in load_rows(args.reviews / ROWS)]
    if not all(row.reviewed for problem in recorded for row in problem.rows):
        path = args.reviews / ROWS
        raise DataError(f"{path}: not every candidate was reviewed; run eval.best_of_n without --selective")
    rule, plan = Rule(args.risk, args.margin), Plan(args.n, Resample(), args.draws, args.seed)
    methods = methods_for(recorded, rule)
    with Progress("simulate", len(recorded) * len(args.n), "pools") as progress:
        table = measure(recorded, methods, plan, progress.advance)
    sizes = [len(problem.rows) for problem in recorded]
    made = report.Report(
        kind="simulated",
        candidates=str(args.reviews / ROWS),
        verifier=read_identity(args.reviews),
        problems=len(recorded),
        ns=plan.ns,
        draws=plan.draws,
        seed=plan.seed,
        rule=rule,
        curves=curves(table, methods, args.bootstrap, args.seed),
        savings=tuple(savings(table, args.bootstrap, args.seed)),
        notes=(f"Simulated: drawn with replacement from {min(sizes)} to {max(sizes)} recorded candidates a problem.",),
    )
    report.write(made, args.reviews, NAME)
    show(report.sections(made), [*made.notes, f"numbers {args.reviews / NAME}.json"])


if __name__ == "__main__":
    sys.exit(main())
