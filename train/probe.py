"""`python -m train.probe`: a linear head on a student's hidden state that says whether a solution is right.

Input: labelled solutions, of a run's store (its held-out problems are kept apart) or of a file. Output: a folder with
the probe, and a table of how good it is. What it reads of a solution is the problem and the solution, nothing else; the
labels come in where the head is fitted. The same command goes on after a kill.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tools.command_line import guarded
from tools.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from agents.types import Candidate, Task
    from train.probe_features import Reader, Reading, Solution
    from train.probe_file import Measured, Probe
    from train.probe_fit import Labelled


class Example(NamedTuple):
    """A labelled solution: the texts that are read, and apart from them its problem's id and its label."""

    solution: "Solution"
    problem: str
    right: bool


class Examples(NamedTuple):
    """What a probe learns from, and what is only measured on."""

    train: list[Example]
    held_out: list[Example]


def options() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m train.probe",
        description="Train a linear head on a model's hidden states that says whether a solution is right.",
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--store", type=Path, metavar="FILE", help="store.sqlite of a run: what it holds out stays apart")
    data.add_argument("--candidates", type=Path, metavar="FILE", help="JSON lines: question, ground_truth, samples")
    add = parser.add_argument
    add("--model", required=True, help="whose hidden states: smollm2-135m, a folder or a Hub id")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the probe")
    add("--batch", type=_positive, default=8, metavar="N", help="texts read at once (default: 8)")
    add("--seed", type=int, default=0, help="of the folds and the intervals (default: 0)")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = options().parse_args(argv)

    def work() -> int:
        from eval.report import show
        from train.probe_features import read_all, reader_of
        from train.probe_file import CARD, READINGS, save_probe, section

        examples = from_store(args.store) if args.store else from_file(args.candidates)
        reader = reader_of(args.model, batch=args.batch)
        check_folder(args.out, reader)
        both = [*examples.train, *examples.held_out]
        readings = read_all([e.solution for e in both], reader, args.out / READINGS)
        probe = train_probe(examples, readings, reader, str(args.store or args.candidates), args.seed)
        save_probe(probe, args.out)
        show([section(probe)], [f"probe {args.out}   numbers {args.out / CARD}"])
        return 0

    return guarded(work)


def from_store(path: Path) -> Examples:
    """Return the labelled solutions of a run, those of its held-out problems apart.

    Raises:
        DataError: no store, or one that does not say what is held out.
    """
    from agents.store import Store

    with Store(path, readonly=True) as store:
        held_out = store.held_out()
        if held_out is None:
            raise DataError(
                f"{path} does not say which problems are held out, so nothing can be trained on it; run the same "
                "`python -m distill.run` once more, which notes them"
            )
        found = [(task, store.candidates(task.id) or []) for task in store.tasks()]
    return Examples(
        examples_of([pair for pair in found if pair[0].id not in held_out]),
        examples_of([pair for pair in found if pair[0].id in held_out]),
    )


def from_file(path: Path) -> Examples:
    """Return the labelled solutions of a file of candidates; nothing is held out.

    Raises:
        DataError: no such file, or a malformed one.
    """
    from eval.candidates import load_candidates

    return Examples(examples_of([(p.task, p.candidates) for p in load_candidates(path).problems]), [])


def examples_of(found: "Sequence[tuple[Task, Sequence[Candidate]]]") -> list[Example]:
    """Return the labelled solutions; those of problems whose solutions are all right or all wrong are among them."""
    from train.probe_features import Solution

    return [
        Example(Solution(task.question, candidate.text.strip()), task.id, candidate.correct)
        for task, candidates in found
        for candidate in candidates
        if candidate.correct is not None
    ]


def check_folder(folder: Path, reader: "Reader") -> None:
    """Make the folder, or make sure that no other model's probe lies there.

    Raises:
        ConfigError: one does.
    """
    from train.probe_file import CARD, load_probe

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CARD).is_file() and load_probe(folder).card.weights != reader.weights:
        raise ConfigError(f"{folder} holds a probe of other weights than those of {reader.model}; choose another --out")


def train_probe(examples: Examples, readings: "Sequence[Reading]", reader: "Reader", source: str, seed: int) -> "Probe":
    """Choose, fit and measure a probe.

    Args:
        examples: those to learn from, and those to measure on.
        readings: of all of them, in this order.
        reader: who read.
        source: of the examples, for the record.
        seed: of folds and intervals.

    Raises:
        DataError: there are too few problems, or one label only.
    """
    from tools.progress import Progress
    from train import probe_fit
    from train.probe_file import Card, Probe

    k, started = probe_fit.FOLDS, time.monotonic()
    right = [e.right for e in examples.train]
    if all(right) or not any(right):
        raise DataError(f"{source}: {len(right)} labelled solutions, not both right and wrong ones; give more")
    data = labelled(examples.train, readings[: len(examples.train)])
    total = probe_fit.rounds(len(reader.layers), k)
    with Progress("fit", total, "layers and folds") as progress, probe_fit.one_thread():
        chances_N = probe_fit.cross_validated(data, k, seed, progress.advance)
        choice = probe_fit.choose(data, k, seed, progress.advance)
        head = probe_fit.train_head(data, choice)
    held_out = None
    if examples.held_out:
        rest = labelled(examples.held_out, readings[len(examples.train) :])
        held_out = measured(rest, head.probabilities(rest.hidden_NLD[:, choice.layer]), seed)
    distinct = {e.solution: r.seconds for e, r in zip([*examples.train, *examples.held_out], readings, strict=True)}
    card = Card(
        model=reader.model,
        weights=reader.weights,
        layer=reader.layers[choice.layer],
        layers=reader.layers,
        strength=choice.strength,
        source=source,
        problems=len(set(data.problem_N)),
        right=sum(right),
        wrong=len(right) - sum(right),
        seed=seed,
        folds=k,
        cross_validated=measured(data, chances_N, seed),
        held_out=held_out,
        seconds={"read": sum(distinct.values()), "fit": time.monotonic() - started},
    )
    return Probe(card, head)


def labelled(examples: Sequence[Example], readings: "Sequence[Reading]") -> "Labelled":
    """Put readings and labels together, a row a distinct solution; it counts as often as it is there."""
    import numpy as np

    from train.probe_fit import Labelled

    copies = Counter(examples)
    distinct = dict(zip(examples, readings, strict=True))
    return Labelled(
        np.stack([reading.hidden_LD for reading in distinct.values()]).astype(float),
        np.array([e.right for e in distinct], dtype=bool),
        np.array([e.problem for e in distinct]),
        np.array([copies[e] for e in distinct]),
    )


def measured(data: "Labelled", chances_N: "np.ndarray", seed: int) -> "Measured":
    """Work out how good probabilities are, over all copies; a verdict is true above 0.5."""
    import numpy as np

    from eval.calibration import verdict_metrics
    from train.probe_file import Measured
    from train.probe_fit import auroc_within

    right, chances, problem = (np.repeat(part, data.copies_N) for part in (data.right_N, chances_N, data.problem_N))
    metrics = verdict_metrics(right.tolist(), (chances > 0.5).tolist(), chances.tolist(), problem.tolist(), seed=seed)
    return Measured(metrics=metrics, within=auroc_within(right, chances, problem))


if __name__ == "__main__":
    sys.exit(main())
