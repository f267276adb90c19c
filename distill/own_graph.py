"""`python -m distill.own_graph`: data for SFT from a graph of one's own, run by a named model.

Input: a graph and a reward as `python -m train.grpo --graph --reward` takes them (see `train/own_graph.py`), problems
with their answers, a teacher (an endpoint, a model's folder, a scripted one). Output in a folder: `rollouts.jsonl`
(every rollout as it came: the same command goes on from there), `sft` (the rewarded ones, a row a conversation),
`settings.yaml`, the chat template and a card: what `python -m train.sft` trains on as it is.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.command_line import at_least, not_negative, parser
from tools.command_line import guarded
from tools.errors import ConfigError, DataError, NothingAcceptedError

if TYPE_CHECKING:
    from distill.own_rows import Harvest

ROLLOUTS, IDENTITY = "rollouts.jsonl", "own-graph.json"
EPILOG = """build() returns the compiled graph, which is given {"problem": question} and takes its chat model from the
context; fn(task, state) rewards its last state (None: dropped). The same command resumes; more --samples or problems go
on from what there is, and --keep may change.
Then: python -m train.sft --data DIR --student MODEL --out runs/mine/sft
      python -m train.grpo --graph … --reward … --tasks … --student runs/mine/sft/model --out runs/mine/grpo"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    options = parser("own_graph", "Rollouts of a graph of your own, and SFT data of the rewarded ones.", EPILOG)
    options.prog = "python -m distill.own_graph"
    add = options.add_argument
    add("--graph", required=True, metavar="MODULE:BUILD", help="returns the compiled graph")
    add("--reward", required=True, metavar="MODULE:FN", help="of a task and the graph's last state")
    add("--tasks", required=True, metavar="SOURCE", help="problems with their answers: jsonl:PATH or parquet:PATH")
    add("--model", required=True, help="the teacher: a model's folder, a scripted one, or what --base-url serves")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible endpoint; several: comma-separated")
    add("--samples", type=at_least(1), default=4, metavar="K", help="rollouts a problem (default: 4)")
    add("--keep", type=float, default=1.0, metavar="R", help="the least reward of what is learned (default: 1)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the rollouts and the data")
    add("--temperature", type=not_negative, default=1.0, help="of sampling (default: 1)")
    add("--max-tokens", type=at_least(1), default=2048, metavar="N", help="of a reply (default: 2048)")
    add("--max-length", type=at_least(64), metavar="N", help="tokens of the student's conversation (default: 1024)")
    add("--concurrency", type=at_least(1), default=16, metavar="N", help="rollouts at once (default: 16)")
    add("--max-outages", type=at_least(1), default=16, metavar="N", help="stop after N failures in a row (default: 16)")
    add("--seed", type=int, default=0, help="of sampling in this process, and of the training (default: 0)")
    return options.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parse(argv)

    def work() -> int:
        harvest_graph(args)
        return 0

    return guarded(work)


def harvest_graph(args: argparse.Namespace) -> "Harvest":
    """Roll out, select, write, tell; what failed is told at the end.

    Raises:
        ConfigError: graph, reward or model cannot be had, or the folder holds something else.
        DataError: there is no problem, or the folder cannot be written.
        RolloutError: rollouts failed; the others are kept, and data are made of them.
        NothingAcceptedError: no rollout is worth `--keep`.
    """
    from distill import own_rows
    from distill.own_rollouts import Rollout, Teacher, finished, roll_all
    from eval.lines import Lines
    from train.graph_runs import compiled, named
    from train.inputs import read_problems
    from train.settings import StudentConfig

    teacher = Teacher(
        compiled(args.graph),
        named(args.reward),
        args.model,
        args.base_url,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        room=args.max_length or StudentConfig().max_length,  # a longer conversation would not be learned
        width=args.concurrency,
        max_outages=args.max_outages,
        seed=args.seed,
    )
    where = Path(args.tasks.partition(":")[2]).name
    tasks = [p.task.model_copy(update={"source": where}) for p in read_problems(args)]
    if not tasks:
        raise DataError(f"--tasks {args.tasks}: no problem in it; give some")
    mark(args)
    origin = own_rows.Origin(args.graph, args.reward, args.model)
    with Lines(args.out / ROLLOUTS, Rollout) as lines:
        failure = roll_all(tasks, args.samples, teacher, lines)
        made = finished(lines)
    harvest = own_rows.select(tasks, args.samples, made, args.keep, origin)
    if harvest.rows:
        own_rows.write(args.out, harvest, origin, max_length=args.max_length, seed=args.seed)
    show(args, harvest)
    if failure is not None:
        raise failure
    if not harvest.rows:
        raise NothingAcceptedError(f"{args.out}: nothing to learn, see above; lower --keep, or raise --samples")
    return harvest


def mark(args: argparse.Namespace) -> None:
    """Make sure that the folder is this harvest's, and mark it so: what is in it depends on the code as well.

    Raises:
        ConfigError: it holds rollouts of another graph, reward or model, or something else.
        DataError: it cannot be written.
    """
    from eval.reviews import mark_folder
    from eval.verifier import weights_of

    if args.out.is_dir() and any(args.out.iterdir()) and not (args.out / IDENTITY).is_file():
        raise ConfigError(f"{args.out} is there already and holds no rollouts of a graph; choose another --out")
    ours = {
        "graph": args.graph,
        "graph_code": code_of(args.graph),
        "reward": args.reward,
        "reward_code": code_of(args.reward),
        "model": args.model,
        "weights": weights_of(args.model, args.base_url),
        "temperature": args.temperature,
        "max_tokens": args.max_tokens,
    }
    mark_folder(args.out, IDENTITY, ours, "rollouts of another graph, reward or model")


def code_of(where: str) -> str:
    """Return the hash of the file that a function's module is in (what that imports is not looked at)."""
    from agents.types import content_id

    file = getattr(sys.modules[where.partition(":")[0]], "__file__", None)
    return content_id(Path(file).read_text(encoding="utf-8")) if file else ""


def show(args: argparse.Namespace, harvest: "Harvest") -> None:
    """Tell the funnel, and where the data are."""
    sys.stdout.writelines(f"{stage:<8}{left:>8,}  {what}\n" for stage, left, what in harvest.funnel)
    if harvest.rows:
        sys.stdout.write(f"conversations of a kept rollout: {harvest.conversations} at the most\n")
        sys.stdout.write(f"{args.out / 'README.md'}\n")


if __name__ == "__main__":
    sys.exit(main())
