"""`python -m eval.ablations`: what each part of the verifier is worth, on one set of candidates.

Input: labelled candidates (a file, or the held-out problems of a run) and a verifier. Output: one row a variant with
its metrics and what a verdict costs, on stdout, in `ablations.json` and as a picture of balanced accuracy by tokens.

Variants that only leave out reviews (one direction alone, the cascade) are read off the reviews of `both`: greedy
decoding would give the same ones. The others are reviewed in a folder of their own, so the same command resumes.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from eval import command_line
from tools.errors import ConfigError

if TYPE_CHECKING:
    from agents.types import Trajectory
    from eval.candidates import Problem
    from eval.verdict_report import Group
    from eval.verifier import Verifier
    from graphs.state import BidirectionalContext

    Sides = Mapping[str, Trajectory]

NAME = "ablations"
BOTH = "both"
BAND = (0.2, 0.8)
EPILOG = """Variants: both, forward and backward (one direction alone), cascade (backward only where forward's
confidence lies in --band), reconcile (where they disagree each reads the other), early_stop, no_tools, no_plan,
single_pass.
  python -m eval.ablations --candidates runs/demo --model runs/demo/model --beside SFT=runs/demo/sft/model
The settings of --set hold for all of them. The same command resumes."""


class Variant(NamedTuple):
    """Settings that differ from those of `both`; `read_off` where no review of its own is needed."""

    settings: tuple[str, ...] = ()
    read_off: bool = False


VARIANTS: dict[str, Variant] = {
    BOTH: Variant(),
    "forward": Variant(("directions=forward",), read_off=True),
    "backward": Variant(("directions=backward",), read_off=True),
    "cascade": Variant(read_off=True),  # its setting is --band
    "reconcile": Variant(("reconcile=true",)),
    "early_stop": Variant(("early_stop=true",)),
    "no_tools": Variant(("use_tools=false",)),
    "no_plan": Variant(("use_plan=false",)),
    "single_pass": Variant(("single_pass=true",)),
}


def options() -> command_line.Parser:
    """Return the command's parser."""
    parser = command_line.parser(NAME, "What each part of the verifier is worth.", EPILOG)
    command_line.add_review_options(parser)
    add = parser.add_argument
    add(
        "--variants",
        type=variants,
        metavar="A,B,…",
        help="default: all (of recorded reviews: those that need no others)",
    )
    add("--band", type=command_line.band, default=BAND, metavar="LOW,HIGH", help="of the cascade (default: 0.2,0.8)")
    add("--beside", nargs="+", default=[], metavar="LABEL=MODEL", help="other models, with the settings of `both`")
    command_line.add_bootstrap_options(parser)
    return parser


def variants(text: str) -> tuple[str, ...]:
    """Read names of variants, comma-separated."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"no variant {name!r}; there are {', '.join(VARIANTS)}")
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Review, measure, report."""
    from eval import ablation_report as report
    from eval.candidates import load_candidates
    from eval.recorded import recorded
    from eval.report import show
    from eval.reviews import default_folder
    from eval.verifier import changed, identity, verifier_of

    verifier = verifier_of(args)
    others = {label: changed(verifier.context, [f"model={m}"]) for label, m in map(_labelled, args.beside)}
    problems = load_candidates(args.candidates, args.limit).problems
    folder = args.out or default_folder(args.candidates, args.model)
    needless = [name for name, variant in VARIANTS.items() if variant.read_off or name == BOTH]
    chosen = args.variants or (needless if recorded(args.model) else list(VARIANTS))
    settings = {name: changed(verifier.context, _settings(name, args.band)) for name in chosen}
    measure = _measure(problems, verifier, folder, args)
    found = {name: measure(name, context, VARIANTS[name].read_off) for name, context in settings.items()}
    found |= {label: measure(label, context, False) for label, context in others.items()}
    made = report.AblationReport(
        candidates=str(args.candidates),
        verifier=identity(verifier),
        band=args.band,
        seed=args.seed,
        variants=found,
    )
    report.write(made, folder, NAME)
    show([report.section(made)], [f"numbers {folder / NAME}.json   picture {folder / NAME}.png"])


def _labelled(text: str) -> tuple[str, str]:
    label, equals, model = text.partition("=")
    if not (label and equals and model) or label in VARIANTS or "/" in label:
        raise ConfigError(f"--beside {text!r}: expected LABEL=MODEL with a label that is no variant's name")
    return label, model


def _settings(name: str, limits: tuple[float, float]) -> tuple[str, ...]:
    return (f"cascade={list(limits)}",) if name == "cascade" else VARIANTS[name].settings


def _measure(
    problems: "Sequence[Problem]", verifier: "Verifier", folder: Path, args: argparse.Namespace
) -> "Callable[[str, BidirectionalContext, bool], Group]":
    """Return what measures one variant."""
    from eval.reviews import review_problems
    from eval.rows import rows_of
    from eval.verdict_report import group

    def measure(name: str, context: "BidirectionalContext", read_off: bool) -> "Group":
        own = verifier._replace(context=context)
        if read_off:
            whole = review_problems(problems, verifier, folder)
            reviews = {candidate: read_off_reviews(sides, context) for candidate, sides in whole.items()}
        else:
            reviews = review_problems(problems, own, folder if name == BOTH else folder / name)
        rows = [row for of_problem in rows_of(problems, reviews, context) for row in of_problem]
        return group(rows, args.bootstrap, args.seed)

    return measure


def read_off_reviews(sides: "Sides", context: "BidirectionalContext") -> "dict[str, Trajectory]":
    """Return those of the reviews in both directions that a verifier with other settings would have made.

    Args:
        sides: all reviews of a candidate.
        context: one direction alone, or a cascade.
    """
    from eval.held_out import ROLE_OF
    from graphs.bidirectional import after_forward, first_asked

    asked = {ROLE_OF[node] for node in first_asked(context)}
    kept = {side: review for side, review in sides.items() if review.role in asked}
    goes_on = context.cascade is not None and after_forward(list(kept.values()), context) != "aggregate"
    return dict(sides) if goes_on else kept


if __name__ == "__main__":
    sys.exit(main())
