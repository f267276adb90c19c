"""The command behind `python -m eval.best_of_n`: review a file's candidates, run every selector at every N, report.

Two ways: review every candidate and work everything out from the records (selective verification is replayed over
them), or, with `--selective`, let the rule of `eval/selective.py` drive the graph and review only what it asks for.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval import command_line
from tools.errors import ConfigError

if TYPE_CHECKING:
    from eval.best_of_n_report import Report
    from eval.candidates import Problem
    from eval.curves import Curve, Plan
    from eval.held_out import Reviews
    from eval.methods import Recorded
    from eval.verifier import Verifier

NAME = "best_of_n"
EPILOG = """Selectors: pass@1, majority, ORM and PRM (scores of the file, or --orm), probe (--probe), verifier,
majority of the accepted, verifier-weighted majority, verify one per answer, selective, oracle; pools of N are
subsampled without replacement.
Another verifier beside it (a single pass, no tools, another model) is a second run of reviews:
  --compare genrm single_pass=true     --compare base model=smollm2-135m     --compare notool use_tools=false
The same command resumes; the folder holds reviews (store.sqlite), candidates.jsonl, best_of_n.json, best_of_n.png."""


def options() -> command_line.Parser:
    """Return the command's parser."""
    told = "Best-of-N with every selector: accuracy by N and by verification tokens."
    parser = command_line.parser(NAME, told, EPILOG)
    command_line.add_review_options(parser)
    command_line.add_sampling_options(parser, draws=64)
    command_line.add_selective_options(parser)
    command_line.add_probe_options(parser)
    add = parser.add_argument
    add("--n", type=command_line.sizes, metavar="N,N,…", help="sizes of pools (default: powers of two)")
    add("--selective", action="store_true", help="review only what selective verification asks for")
    add("--orm", metavar="MODEL", help="score with this reward model: a folder, a Hub id, or what --orm-url serves")
    add("--orm-url", metavar="URL", help="of a vLLM pooling server (--runner pooling)")
    add(
        "--compare",
        nargs="+",
        action="append",
        default=[],
        metavar=("LABEL", "KEY=VALUE"),
        help="review with other settings (or model=, base_url=) as well, and show its verdicts under LABEL",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Review, measure, report."""
    from eval import best_of_n_report as report
    from eval.candidates import load_candidates
    from eval.probes import with_probe
    from eval.report import show
    from eval.reviews import default_folder
    from eval.verifier import verifier_of

    verifier = verifier_of(args)
    loaded = load_candidates(args.candidates, args.limit)
    folder = args.out or default_folder(args.candidates, args.model)
    ns = pool_sizes(min(len(p.candidates) for p in loaded.problems), args.n)
    problems = _with_orm(loaded.problems, args, folder)
    verifier = with_probe(verifier, problems, args, folder)
    made = (_online if args.selective else _full)(problems, verifier, folder, ns, args)
    notes = [*made.notes, *(verifier.probed.notes if verifier.probed else ())]
    if loaded.repeated:
        notes.append(f"{loaded.repeated} records repeat a question; the last of each counts.")
    if loaded.unlabelled:
        notes.append(f"{loaded.unlabelled} candidates without a label are left out.")
    made = made.model_copy(update={"notes": tuple(notes)})
    report.write(made, folder, NAME)
    show(report.sections(made), [*notes, f"numbers {folder / NAME}.json   picture {folder / NAME}.png"])


def pool_sizes(smallest: int, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the Ns: those asked for, else powers of two up to the smallest pool, and that itself.

    Raises:
        ConfigError: a pool is smaller than what is asked for.
    """
    if asked and asked[-1] > smallest:
        raise ConfigError(
            f"--n {asked[-1]}: a problem has only {smallest} candidates; use at most --n {smallest}, "
            "or `python -m eval.simulate` for larger pools"
        )
    powers = [2**k for k in range(smallest.bit_length()) if 2**k <= smallest]
    return tuple(asked or sorted({*powers, smallest}))


def _with_orm(problems: "list[Problem]", args: argparse.Namespace, folder: Path) -> "list[Problem]":
    from eval.scorers import ScorerSource, score_problems

    if not args.orm:
        if args.orm_url:
            raise ConfigError("--orm-url needs --orm, the name that the server serves")
        return problems
    return score_problems(problems, ScorerSource(args.orm, args.orm_url), folder)


def _full(
    problems: "list[Problem]", verifier: "Verifier", folder: Path, ns: tuple[int, ...], args: argparse.Namespace
) -> "Report":
    """Review everything; every selector."""
    from eval.curves import curves, measure, savings
    from eval.methods import methods_for
    from eval.selective import Rule
    from tools.progress import Progress

    rule = Rule(args.risk, args.margin)
    recorded = _recorded(problems, verifier, folder)
    others = [_compared(words, problems, verifier, folder) for words in args.compare]
    methods, plan = methods_for(recorded, rule), _plan(ns, args)
    with Progress("select", len(recorded) * len(ns), "pools") as progress:
        table = measure(recorded, methods, plan, progress.advance)
    found = curves(table, methods, args.bootstrap, args.seed)
    for label, rows in others:
        found |= _beside(label, rows, plan, args)
    return _report("subsampled", args, verifier, len(recorded), plan, found).model_copy(
        update={"savings": tuple(savings(table, args.bootstrap, args.seed))}
    )


def _recorded(problems: "list[Problem]", verifier: "Verifier", folder: Path) -> "list[Recorded]":
    """Review every candidate, keep the rows, and return them by problem."""
    from eval.reviews import review_problems

    return _kept(problems, review_problems(problems, verifier, folder), verifier, folder)


def _kept(problems: "list[Problem]", reviews: "Reviews", verifier: "Verifier", folder: Path) -> "list[Recorded]":
    from eval.methods import Recorded
    from eval.rows import ROWS, rows_of, save_rows

    rows = rows_of(problems, reviews, verifier.context, verifier.probed)
    save_rows(rows, folder / ROWS)
    return [Recorded(tuple(of_problem)) for of_problem in rows]


def _compared(
    words: Sequence[str], problems: "list[Problem]", verifier: "Verifier", folder: Path
) -> "tuple[str, list[Recorded]]":
    """Review with the settings of a `--compare`, in a folder of its own; what it does not name is as before."""
    from eval.verifier import changed

    label, *settings = words
    if "=" in label or "/" in label:
        raise ConfigError(f"--compare {label!r}: give a label first, such as --compare notool use_tools=false")
    other = verifier._replace(context=changed(verifier.context, settings))
    return label, _recorded(problems, other, folder / label)


def _beside(label: str, rows: "list[Recorded]", plan: "Plan", args: argparse.Namespace) -> "dict[str, Curve]":
    """Return the curves of another verifier's own selectors, under its label."""
    from eval.curves import curves, measure
    from eval.methods import FULL, RANKS, VOTES

    methods = {"verifier": RANKS["verifier"], FULL: VOTES[FULL]}
    found = curves(measure(rows, methods, plan, lambda: None), methods, args.bootstrap, args.seed)
    return {
        f"{label}/{name}": curve.model_copy(update={"title": f"{label}: {curve.title}"})
        for name, curve in found.items()
    }


def _online(
    problems: "list[Problem]", verifier: "Verifier", folder: Path, ns: tuple[int, ...], args: argparse.Namespace
) -> "Report":
    """Let selective verification drive the graph; the selectors that read no verdicts beside it."""
    from eval.curves import curves, measure
    from eval.methods import SELECTIVE, methods_for
    from eval.online import online_curve, select_problems
    from eval.recorded import recorded
    from eval.selective import Rule

    rule = Rule(args.risk, args.margin)
    if args.compare:
        raise ConfigError("--compare reviews every candidate and --selective does not: use one of them")
    if args.probe_band:
        raise ConfigError("--probe-band and --selective both choose what is reviewed: use one of them")
    if recorded(verifier.model):
        raise ConfigError(
            f"--selective asks for reviews, and those of --model {verifier.model} are made already: "
            "leave --selective out (the table replays it), or give the model's folder"
        )
    outcomes, reviews = select_problems(problems, verifier, folder, rule, args.seed)
    kept = _kept(problems, reviews, verifier, folder)
    methods, plan = methods_for([_unreviewed(r) for r in kept], rule), _plan(ns, args)
    found = curves(measure(kept, methods, plan, lambda: None), methods, args.bootstrap, args.seed)
    found[SELECTIVE] = online_curve(kept, outcomes, ns[-1], args.bootstrap, args.seed)
    whole = sum(len(r.texts) for r in kept)
    asked = sum(len(outcome.texts) for outcome in outcomes.values())
    note = f"Selective verification asked for {asked} of {whole} distinct candidates ({asked / whole:.1%})."
    report = _report("subsampled; selective on whole pools", args, verifier, len(kept), plan, found)
    return report.model_copy(update={"notes": (note,)})


def _unreviewed(recorded: "Recorded") -> "Recorded":
    """Leave out what reviews said: they are those of some candidates only."""
    from eval.methods import Recorded

    return Recorded(tuple(row.model_copy(update={"reviewed": False}) for row in recorded.rows))


def _plan(ns: tuple[int, ...], args: argparse.Namespace) -> "Plan":
    from eval.curves import Plan
    from eval.pools import Subsample

    return Plan(ns, Subsample(), args.draws, args.seed)


def _report(
    kind: str,
    args: argparse.Namespace,
    verifier: "Verifier",
    problems: int,
    plan: "Plan",
    found: "dict[str, Curve]",
) -> "Report":
    from eval.best_of_n_report import Report
    from eval.selective import Rule
    from eval.verifier import identity

    return Report(
        kind=kind,
        candidates=str(args.candidates),
        verifier=identity(verifier),
        probe=dict(verifier.probed.identity) if verifier.probed else None,
        problems=problems,
        ns=plan.ns,
        draws=plan.draws,
        seed=plan.seed,
        rule=Rule(args.risk, args.margin),
        curves=found,
    )


if __name__ == "__main__":
    sys.exit(main())
