"""`python -m eval.judge`: how good a judge's scores are on a file of labelled candidates.

Output: a table over all and by benchmark (accuracy at 1/2, AUROC, ECE, Brier, rank correlation, cost), `judge.json`,
and `reliability.png`. Judgements are those of the folder, made where they are missing. What critiques are worth is
measured by `python -m eval.refinement --critic judge none`.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval import command_line

if TYPE_CHECKING:
    from agents.store import Row
    from eval.candidates import Problem
    from eval.judge_metrics import Judged, JudgeMetrics

NAME = "judge"


def options() -> command_line.Parser:
    """Return the command's parser."""
    parser = command_line.parser(NAME, "A judge's scores against outcomes: AUROC, calibration, rank correlation.")
    command_line.add_review_options(parser, "judge", "scripted-judge, a model's folder")
    command_line.add_bootstrap_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Judge, measure, report."""
    from eval.candidates import load_candidates
    from eval.judge_report import JudgeReport, sections, write
    from eval.judging import Judges, judge_problems
    from eval.report import show
    from eval.reviews import default_folder
    from eval.verifier import changed
    from graphs.judge_state import JudgeContext

    context = changed(JudgeContext(model=args.model, base_url=args.base_url), args.set, "judge")
    who = Judges(context, width=args.concurrency, max_outages=args.max_outages)
    loaded = load_candidates(args.candidates, args.limit)
    default = default_folder(args.candidates, args.model)
    folder = args.out or default.with_name(f"{default.name}-judged")
    made = judge_problems(loaded.problems, who, folder)
    report = JudgeReport(
        candidates=str(args.candidates),
        judge=who.identity,
        seed=args.seed,
        groups=groups(loaded.problems, made, args.bootstrap, args.seed),
    )
    write(report, folder, NAME)
    notes = [f"{loaded.repeated} records repeat a question; the last of each counts."] if loaded.repeated else []
    notes += [f"{loaded.unlabelled} candidates without a label are left out."] if loaded.unlabelled else []
    notes += [f"{args.model}: a program, not a language model."] if args.model.startswith("scripted-") else []
    show(sections(report), [*notes, f"numbers {folder / NAME}.json   picture {folder / 'reliability.png'}"])


def rows_of(problem: "Problem", made: "dict[str, Row]") -> "list[Judged]":
    """Return a row for each labelled candidate of a problem; one text has one judgement, which counts for each."""
    from eval.held_out import Pool, representatives
    from eval.judge_metrics import judged_of

    stands_for = representatives([Pool(problem.task, problem.candidates)])
    return [judged_of(problem.task.id, bool(c.correct), made[stands_for[c.id]].trajectory) for c in problem.candidates]


def groups(
    problems: "Sequence[Problem]", made: "Sequence[Row]", resamples: int, seed: int
) -> "dict[str, JudgeMetrics]":
    """Return the metrics of all rows and, where there are several, of each benchmark."""
    from eval.judge_metrics import judge_metrics

    def of(rows: "list[Judged]") -> "JudgeMetrics":
        return judge_metrics(rows, resamples=resamples, seed=seed)

    by_candidate = {row.candidate.id: row for row in made}
    of_problem = [(problem.benchmark, rows_of(problem, by_candidate)) for problem in problems]
    out = {"all": of([row for _, rows in of_problem for row in rows])}
    names = sorted({name for name, _ in of_problem})
    for name in names if len(names) > 1 else ():
        out[f"benchmark {name}"] = of([r for found, rows in of_problem if found == name for r in rows])
    return out


if __name__ == "__main__":
    sys.exit(main())
