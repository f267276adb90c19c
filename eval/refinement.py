"""`python -m eval.refinement`: what rounds of critique and revision do to solutions, and what they cost.

Output: tables by round (accuracy, Δ↑ wrong to right, Δ↓ right to wrong, accepted, cost), `refinement.json`,
`refinement.png`, and every round in `rounds.jsonl`. Labels are worked out afterwards, from the reference answers:
neither critic nor refiner is near them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval import command_line
from tools.errors import ConfigError, DataError

if TYPE_CHECKING:
    from agents.types import Round
    from eval.candidates import Loaded, Problem
    from eval.refinement_metrics import Course
    from eval.refinement_report import Report
    from eval.refining import Refiners

NAME = "refinement"
CRITICS = ("verifier", "judge", "none")  # as in graphs/critics.py, which is not imported for --help
EPILOG = """A round: the verifier reviews a solution; accepted ones are left alone; the refiner is shown the others with
what the review found (never an answer of the review's own) and writes them again. Δ↑ is the share that goes from wrong
to right, Δ↓ from right to wrong. `--critic verifier judge none` compares with the judge's critique (Reagent-C; what it
scores above judge_accepts is left alone, 1: nothing) and with revision without one. --set takes refiner_temperature,
refiner_style, judge_accepts, max_critique and the like beside the verifier's settings. The same command resumes;
with more --rounds it goes on. Candidates of a problem with one text are refined once and count each."""


def options() -> command_line.Parser:
    """Return the command's parser."""
    parser = command_line.parser(NAME, "Rounds of critique and revision: accuracy and cost by round.", EPILOG)
    command_line.add_review_options(parser)
    add = parser.add_argument
    add("--rounds", type=command_line.at_least(1), default=3, metavar="K", help="reviews and revisions (default: 3)")
    add("--critic", nargs="+", choices=CRITICS, default=["verifier"], help="whose critique; several are compared")
    add("--refiner", metavar="MODEL", help="revises (default: the verifier; scripted-refiner for scripted-teacher)")
    add("--refiner-url", metavar="URL", help="of the refiner's endpoint")
    add(
        "--judge",
        metavar="MODEL",
        help="the critic `judge` (default: the verifier; scripted-judge for scripted-teacher)",
    )
    add("--judge-url", metavar="URL", help="of the judge's endpoint")
    add("--solver", metavar="MODEL", help="writes the first solutions (default: they are the file's)")
    add("--solver-url", metavar="URL", help="of the solver's endpoint")
    command_line.add_bootstrap_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Refine, label, report."""
    from eval.refinement_report import gains, sections, write
    from eval.refining import items_of, refine_items
    from eval.report import show

    who = _who(args)
    problems, notes = _problems(args)
    folder = args.out or _default_folder(args, who)
    items = items_of(problems, bool(args.solver))
    found = refine_items(items, who, folder)
    courses = {critic: _courses(problems, rounds, args) for critic, rounds in found.items()}
    report = _report(args, who, problems, courses, notes)
    write(report, folder, NAME)
    places = f"rounds {folder / 'rounds.jsonl'}   numbers {folder / NAME}.json   picture {folder / NAME}.png"
    show(sections(report), [*gains(report), *report.notes, places])


def _who(args: argparse.Namespace) -> "Refiners":
    """Return who refines, from the command line."""
    from eval.refining import Refiners
    from eval.verifier import changed
    from graphs.refine_state import RefineContext

    for option, url in (("refiner", args.refiner_url), ("solver", args.solver_url), ("judge", args.judge_url)):
        if url and not getattr(args, option):
            raise ConfigError(f"--{option}-url needs --{option}, the name that the server serves")
    for key in ("rounds", "critic", "model", "base_url", "refiner_model", "solver_model", "judge_model"):
        if any(text.partition("=")[0] == key for text in args.set):
            raise ConfigError(f"--set {key}=…: it has an option of its own; see --help")
    same = (args.model, args.base_url)
    scripted = args.model == "scripted-teacher"
    default = ("scripted-refiner", None) if scripted else same
    refiner, refiner_url = (args.refiner, args.refiner_url) if args.refiner else default
    default = ("scripted-judge", None) if scripted else same
    judge, judge_url = (args.judge, args.judge_url) if args.judge else default
    context = RefineContext(
        model=args.model,
        base_url=args.base_url,
        rounds=args.rounds,
        refiner_model=refiner,
        refiner_base_url=refiner_url,
        judge_model=judge,
        judge_base_url=judge_url,
        solver_model=args.solver or "scripted-solver",
        solver_base_url=args.solver_url,
    )
    return Refiners(changed(context, args.set), tuple(dict.fromkeys(args.critic)), args.concurrency, args.max_outages)


def _problems(args: argparse.Namespace) -> "tuple[list[Problem], list[str]]":
    """Return the problems that have a reference answer, and what was left out."""
    from eval.candidates import load_candidates, load_problems

    read = load_problems if args.solver else load_candidates
    loaded: Loaded = read(args.candidates, args.limit)
    kept = [problem for problem in loaded.problems if problem.task.answer is not None]
    if not kept:
        raise DataError(f"{args.candidates}: no reference answer; records need `ground_truth` (or `answer`)")
    left_out = {
        "records repeat a question; the last of each counts.": loaded.repeated,
        "problems without a reference answer are left out.": len(loaded.problems) - len(kept),
        "candidates without a label are left out.": 0 if args.solver else loaded.unlabelled,
    }
    return kept, [f"{count} {told}" for told, count in left_out.items() if count]


def _default_folder(args: argparse.Namespace, who: "Refiners") -> Path:
    from eval.reviews import default_folder

    folder = default_folder(args.candidates, args.model)
    refiner = default_folder(Path("refined"), who.context.refiner_model).name
    return folder.with_name(f"{folder.name}-{refiner}{'-solved' if args.solver else ''}")


def _courses(problems: "list[Problem]", rounds: "dict[str, list[Round]]", args: argparse.Namespace) -> "list[Course]":
    """Label what the rounds came to; a text that several candidates share counts for each."""
    from eval.answers import label
    from eval.held_out import Pool, representatives
    from eval.refinement_metrics import course_of
    from eval.refining import items_of

    stands_for = representatives(Pool(p.task, p.candidates) for p in problems)
    out = []
    for problem in problems:
        if args.solver:
            names = [item.name for item in items_of([problem], solver=True)]
        else:
            names = [stands_for[candidate.id] for candidate in problem.candidates]
        answer = problem.task.answer
        for name in names:
            is_right = lambda text, answer=answer: label(answer, text) is True  # noqa: E731
            out.append(course_of(problem.task.id, rounds[name], args.rounds, is_right))
    return out


def _report(
    args: argparse.Namespace,
    who: "Refiners",
    problems: "list[Problem]",
    courses: "dict[str, list[Course]]",
    notes: list[str],
) -> "Report":
    from eval.judge_metrics import useful_critics
    from eval.refinement_metrics import points
    from eval.refinement_report import Report
    from eval.refining import whole_identity

    first = next(iter(courses.values()))
    labels = [candidate.correct for problem in problems for candidate in problem.candidates]
    if not args.solver and (disputed := sum(c.right[0] != given for c, given in zip(first, labels, strict=True))):
        notes = [*notes, f"{disputed} labels of the file are not our checker's, which labels all rounds alike."]
    judge = [who.context.judge_model] if "judge" in who.critics else []
    scripted = [m for m in (who.context.model, *judge, who.context.refiner_model) if m.startswith("scripted-")]
    if scripted:
        notes = [*notes, f"{', '.join(scripted)}: programs, not language models."]
    return Report(
        candidates=str(args.candidates),
        first_solutions=args.solver or "the file's",
        verifier=whole_identity(who.context, bool(args.solver), "judge" in who.critics),
        refiner=who.context.refiner_model,
        problems=len(problems),
        solutions=len(first),
        rounds=args.rounds,
        seed=args.seed,
        curves={critic: points(of, args.bootstrap, args.seed) for critic, of in courses.items()},
        usefulness=useful_critics(courses, args.bootstrap, args.seed),
        notes=tuple(notes),
    )


if __name__ == "__main__":
    sys.exit(main())
