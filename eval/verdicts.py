"""`python -m eval.verdicts`: how good a verifier's verdicts and confidences are on a file of labelled candidates.

Output: a table over all, by benchmark and by level; first-error localisation where the file says where mistakes are;
`verdicts.json`, and `reliability.png`. Reviews are those of the folder, made where they are missing.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval import command_line

if TYPE_CHECKING:
    from eval.rows import Row
    from eval.verdict_report import Group

NAME = "verdicts"


def options() -> command_line.Parser:
    """Return the command's parser."""
    parser = command_line.parser(NAME, "Accuracy and calibration of verdicts, by benchmark and level.")
    command_line.add_review_options(parser)
    command_line.add_probe_options(parser)
    command_line.add_bootstrap_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Review, measure, report."""
    from eval.candidates import load_candidates
    from eval.localisation import localisation, located
    from eval.probes import with_probe
    from eval.report import show
    from eval.reviews import default_folder, review_problems
    from eval.rows import ROWS, rows_of, save_rows
    from eval.verdict_report import VerdictReport, disagreements, probe_group, sections, write
    from eval.verifier import identity, verifier_of

    verifier = verifier_of(args)
    loaded = load_candidates(args.candidates, args.limit)
    folder = args.out or default_folder(args.candidates, args.model)
    verifier = with_probe(verifier, loaded.problems, args, folder)
    reviews, probed = review_problems(loaded.problems, verifier, folder), verifier.probed
    by_problem = rows_of(loaded.problems, reviews, verifier.context, probed)
    save_rows(by_problem, folder / ROWS)
    rows = [row for of_problem in by_problem for row in of_problem]
    traces = located(loaded.problems, reviews, verifier.context)
    report = VerdictReport(
        candidates=str(args.candidates),
        verifier=identity(verifier),
        probe=dict(probed.identity) if probed else None,
        seed=args.seed,
        groups=groups(rows, args.bootstrap, args.seed),
        probe_alone=probe_group(rows, args.bootstrap, args.seed) if probed else None,
        localisation=localisation(traces, args.bootstrap, args.seed) if traces else None,
        disagreements=disagreements(loaded.problems),
    )
    write(report, folder, NAME)
    notes = [f"{loaded.repeated} records repeat a question; the last of each counts."] if loaded.repeated else []
    notes += [f"{loaded.unlabelled} candidates without a label are left out."] if loaded.unlabelled else []
    notes += probed.notes if probed else []
    show(sections(report), [*notes, f"numbers {folder / NAME}.json   picture {folder / 'reliability.png'}"])


def groups(rows: "Sequence[Row]", resamples: int, seed: int) -> "dict[str, Group]":
    """Return the metrics of all rows and, where there are several, of each benchmark and each level."""
    from eval.verdict_report import group

    out = {"all": group(rows, resamples, seed)}
    for key in ("benchmark", "level"):
        names = sorted({getattr(row, key) for row in rows} - {""})
        if len(names) > 1:
            out |= {f"{key} {n}": group([r for r in rows if getattr(r, key) == n], resamples, seed) for n in names}
    return out


if __name__ == "__main__":
    sys.exit(main())
