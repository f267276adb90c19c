"""`python -m distill.rrm`: data that train a judge (Agent-RRM), from files of labelled work by several agents.

Input: candidate files (solutions as `eval.solve` writes them, trajectories as `eval.agent` does; one an agent) and a
teacher that judges. Output: a folder with `sft` (the teacher's judgements that passed the filters), `grpo` (prompts of
the recipe `rrm`, of other problems), `settings.yaml`, the chat template and a card: what `python -m train.sft` and
`train.grpo` train on as it is. The judgements are kept in `<out>.judged`; the same command resumes.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.types import content_id
from eval.command_line import at_least, parser, share
from tools.command_line import guarded
from tools.errors import ConfigError, DataError, NothingAcceptedError

if TYPE_CHECKING:
    from distill.select import Funnel
    from eval.candidates import Problem
    from graphs.judge_state import JudgeContext

EPILOG = """FILE is what eval.solve writes, or eval.agent (DIR/candidates.jsonl: trajectories, which are judged whole).
Problems are split: the teacher judges the solutions of a share of them for SFT; the labelled solutions of the others
are prompts of GRPO. Kept for SFT are judgements in the right form at the first try whose score is on the right side of
the outcome and whose critique gives no answer away, as many of right as of wrong solutions.
Then: python -m train.sft --data DIR --out runs/judge/sft
      python -m train.grpo --data DIR --student runs/judge/sft/model --out runs/judge/grpo"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    options = parser("rrm", "Judgements and prompts to train a judge with.", EPILOG)
    options.prog = "python -m distill.rrm"
    add = options.add_argument
    add("--candidates", required=True, nargs="+", type=Path, metavar="FILE", help="labelled solutions; a file an agent")
    add("--model", required=True, help="the teacher: scripted-judge, a model's folder, or what --base-url serves")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible endpoint; several: comma-separated")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="judge settings: style=full …")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to make")
    add("--samples", type=at_least(1), default=1, metavar="N", help="judgements a solution (default: 1)")
    add("--sft-share", type=share, default=0.5, metavar="P", help="share of the problems for SFT (default: 0.5)")
    add("--held-out", nargs="+", default=[], type=Path, metavar="FILE", help="problems that no row may stand in")
    add("--max-length", type=at_least(64), metavar="N", help="tokens of the student's conversation (default: 1024)")
    add("--max-examples", type=at_least(1), metavar="N", help="examples of SFT at the most (default: all)")
    add("--concurrency", type=at_least(1), default=32, metavar="N", help="judgements at once (default: 32)")
    add("--max-outages", type=at_least(1), default=16, metavar="N", help="stop after N failures in a row (default: 16)")
    add("--seed", type=int, default=0, help="of the split and the selection (default: 0)")
    return options.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parse(argv)

    def work() -> int:
        rows, funnel = make(args)
        sys.stdout.writelines(" ".join(cell.ljust(14) for cell in line) + "\n" for line in funnel.to_table())
        sys.stdout.writelines(f"{kind}: {len(found):,} rows\n" for kind, found in rows.items())
        sys.stdout.write(f"{args.out / 'README.md'}\n")
        return 0

    return guarded(work)


def make(args: argparse.Namespace) -> "tuple[dict[str, list[dict[str, Any]]], Funnel]":
    """Judge, select, write; returns the rows by kind and the funnel of `sft`.

    Raises:
        ConfigError: the folder is there already, or a setting is wrong.
        DataError: a file is wrong, or too few problems are left to split.
        ModelError: judgements failed; what is done is kept.
        NothingAcceptedError: the filters kept nothing.
    """
    from distill.export import sft_row
    from distill.judgements import select_judgements
    from distill.sections import SelectConfig
    from eval.judging import Judges, judge_problems

    if args.out.exists():
        raise ConfigError(f"{args.out} is there already; choose another folder with --out")
    select = SelectConfig(max_examples=args.max_examples)
    context = teacher_of(args)
    judged, prompted = parts(clean(merged(args.candidates), args.held_out, select), args.sft_share, args.seed)
    who = Judges(context, args.samples, args.concurrency, args.max_outages)
    made = judge_problems(judged, who, args.out.with_name(f"{args.out.name}.judged"))
    selected = select_judgements(made, select, seed=args.seed)
    if not selected.rows:
        raise NothingAcceptedError(
            f"nothing of {len(made)} judgements was accepted: most fell at {selected.funnel.worst or 'the start'}; "
            "use a stronger teacher (--model), more --samples, or more problems"
        )
    rows = {"sft": [sft_row(row) for row in selected.rows], "grpo": grpo_rows(prompted, context)}
    write(args, {kind: found for kind, found in rows.items() if found}, selected.funnel)
    return rows, selected.funnel


def teacher_of(args: argparse.Namespace) -> "JudgeContext":
    """Return the teacher's settings; it is shown as much of a trajectory as the student will be.

    Raises:
        ConfigError: unknown key, or a value of another type.
    """
    from eval.verifier import changed
    from graphs.judge_state import JudgeContext, transcript_for

    for key in ("max_transcript", "model", "base_url"):
        if any(text.partition("=")[0] == key for text in args.set):
            raise ConfigError(f"--set {key}=…: it follows from an option of its own; see --help")
    room = transcript_for(args.max_length or _student_length())
    return changed(JudgeContext(model=args.model, base_url=args.base_url, max_transcript=room), args.set, "judge")


def _student_length() -> int:
    from train.settings import StudentConfig

    return StudentConfig().max_length


def merged(files: Sequence[Path]) -> "list[Problem]":
    """Return the problems of several files, one a question, with the solutions of all of them numbered anew.

    Raises:
        DataError: a file is wrong.
    """
    from eval.candidates import load_candidates

    found: dict[str, Problem] = {}
    for file in files:
        for problem in load_candidates(file).problems:
            held = found.get(problem.task.id)
            before = held.candidates if held else ()
            more = [
                c.model_copy(update={"index": len(before) + i, "model": c.model or file.stem})
                for i, c in enumerate(problem.candidates)
            ]
            candidates = (*before, *more)
            none = tuple({} for _ in candidates)
            update = {"candidates": candidates, "scores": none, "steps": (), "first_error": None}
            found[problem.task.id] = (held or problem).model_copy(update=update)
    return list(found.values())


def clean(problems: "Sequence[Problem]", held_out: Sequence[Path], cfg: Any) -> "list[Problem]":
    """Return the problems that do not stand in those of the held-out files."""
    from distill.select import uncontaminated
    from eval.candidates import load_problems

    questions = [problem.task.question for file in held_out for problem in load_problems(file).problems]
    kept = {task.id for task in uncontaminated((problem.task for problem in problems), questions, cfg)}
    return [problem for problem in problems if problem.task.id in kept]


def parts(problems: "Sequence[Problem]", sft_share: float, seed: int) -> "tuple[list[Problem], list[Problem]]":
    """Split by problem: those whose solutions are judged for SFT, and those for GRPO, each in the order given.

    Raises:
        DataError: none is left for SFT.
    """
    order = sorted(problems, key=lambda p: content_id(seed, p.task.id))
    chosen = {p.task.id for p in order[: round(sft_share * len(order))]}
    if not chosen:
        raise DataError(f"rrm: no problem for SFT of {len(problems)}; give more, or raise --sft-share")
    return [p for p in problems if p.task.id in chosen], [p for p in problems if p.task.id not in chosen]


def grpo_rows(problems: "Sequence[Problem]", context: "JudgeContext") -> list[dict[str, Any]]:
    """Return the prompts of GRPO; the label is in no message."""
    from distill.judgements import judge_prompts, opening
    from distill.prompt_rows import solution_to_review

    sources = {problem.task.id: problem.task.source for problem in problems}
    prompts = judge_prompts((p.task, candidate) for p in problems for candidate in p.candidates)
    rows = [solution_to_review(prompt, opening(prompt, context.style, context.max_transcript)) for prompt in prompts]
    return [row | {"source": sources[row["task_id"]]} for row in rows]


def write(args: argparse.Namespace, rows: dict[str, list[dict[str, Any]]], funnel: "Funnel") -> None:
    """Write the folder, whole or not at all."""
    import yaml

    from distill.export import SETTINGS, TEMPLATE, write_rows
    from train.settings import GrpoConfig, StudentConfig, TrainingSettings
    from train.student import CHATML

    part = args.out.with_name(f"{args.out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for kind, found in rows.items():
        write_rows(found, part / kind)
    length = args.max_length or _student_length()
    settings = TrainingSettings(
        seed=args.seed,
        style=teacher_of(args).style,
        student=StudentConfig(max_length=length),
        grpo=GrpoConfig(recipe="rrm", max_tokens=max(1, length // 4)),
    )
    (part / SETTINGS).write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
    (part / TEMPLATE).write_text(CHATML.read_text(encoding="utf-8"), encoding="utf-8")
    (part / "README.md").write_text(card(args, {kind: len(found) for kind, found in rows.items()}, funnel), "utf-8")
    part.rename(args.out)


def card(args: argparse.Namespace, counts: dict[str, int], funnel: "Funnel") -> str:
    """Return the text of README.md."""
    import yaml

    configs = [
        {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/train-*.parquet"}]} for kind in counts
    ]
    head = yaml.safe_dump({"configs": configs, "tags": ["retort", "judge", "reward-model"]}, sort_keys=False)
    table = funnel.to_table()
    table.insert(1, ["---"] * len(table[0]))
    told = ", ".join(f"{n:,} rows in `{kind}`" for kind, n in counts.items())
    alike = len({file.name for file in args.candidates}) < len(args.candidates)  # their folders tell them apart
    files = ", ".join(f"`{'/'.join(file.parts[-2:]) if alike else file.name}`" for file in args.candidates)
    who = f"`{args.model}`{' (a program, not a language model)' if args.model.startswith('scripted-') else ''}"
    return (
        f"---\n{head}---\n\n# {args.out.name}\n\nMade by Retort (`python -m distill.rrm`): {told}.\n\n"
        f"- `sft`: judgements by {who} of the solutions in {files}; loss belongs on the assistant messages only\n"
        "- `grpo`: prompts of the recipe `rrm`, of other problems; `label` is for the reward alone\n\n"
        "## Funnel of `sft`\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n\n"
        "## Licence\n\nNot decided by Retort: problems, solutions and judgements keep the terms of their sources.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
