"""`python -m distill.run`: harvest → select → SFT → GRPO → evaluation → a model, in one resumable command.

Results go to stdout, progress to stderr, everything else into `runs/<name>/`. Exit codes: 0 done; 2 bad input or an
outage, in one line; 3 the rejection filter accepted nothing; 130 interrupted (the same command resumes).
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tools.command_line import guarded

if TYPE_CHECKING:
    from distill.pipeline import Run
    from distill.sections import RunConfig
    from eval.results import Results, Stage

EPILOG = """With no arguments everything is embedded: SmolLM2-135M-Instruct, problems of reasoning_gym, a scripted
solver and teacher (programs, not language models), the local sandbox. Settings come from the defaults, then the
profile, then --set. Examples:
  python -m distill.run --set name=more tasks.n_harvest=200
  python -m distill.run --set tasks.source=jsonl:candidates.jsonl eval.k=4
  python -m distill.run --set teacher.model=Qwen/Qwen3-32B teacher.base_url=http://host:8000/v1 teacher.style=full
The same command resumes a run that was stopped."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m distill.run",
        description="Distil verifier graphs into one small model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", help="a file of distill/profiles/ or a path (default: default)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change settings")
    parser.add_argument("--keys", action="store_true", help="list every setting with its value, and stop")
    parser.add_argument("--data-only", action="store_true", help="stop when the data are made: harvest and selection")
    parser.add_argument("--dry-run", action="store_true", help="say what a run takes and what is missing, and stop")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = parse(argv)
    from distill.config import load_config

    def work() -> int:
        cfg = load_config(args.profile, args.set)
        if args.keys:
            return _list_keys(cfg)
        return _plan(cfg) if args.dry_run else _run(cfg, args.data_only)

    return guarded(work)


def _list_keys(cfg: "RunConfig") -> int:
    from distill.config import describe, flatten

    values = flatten(cfg)
    sys.stdout.writelines(f"{key} = {values[key]!r}  # {text}\n" for key, text in describe().items())
    return 0


def _plan(cfg: "RunConfig") -> int:
    from distill.plan import lines

    sys.stdout.writelines(f"{line}\n" for line in lines(cfg))
    return 0


def _run(cfg: "RunConfig", data_only: bool) -> int:
    from agents.store import Store
    from distill.config import check_run_dir, save_config
    from tools.sandbox.factory import check_sandbox

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    check_sandbox(cfg.sandbox)
    check_run_dir(cfg.run_dir, cfg)
    from distill.contexts import eval_context
    from distill.inputs import keep_inputs, load_benchmarks, load_parts
    from distill.pipeline import Run
    from train.student import check_student

    check_student(cfg.student.model)
    eval_context(cfg)
    _reach(cfg)
    parts, benchmarks = load_parts(cfg), load_benchmarks(cfg)  # bad input is found before anything is written
    save_config(cfg, cfg.run_dir)
    keep_inputs(cfg, parts, benchmarks)
    with Store(cfg.run_dir / "store.sqlite") as store:
        run = Run(cfg, parts, store, benchmarks)
        if data_only:
            run.harvest()
            sys.stdout.writelines(f"{name}: {n:,}\n" for name, n in run.select().funnel.counts.items())
        else:
            _show(distil(run), cfg)
    return 0


def _reach(cfg: "RunConfig") -> None:
    """Make sure that tools, endpoints and a hosted sandbox answer, before anything is written."""
    from agents.chat import EndpointChat
    from agents.models import open_chat
    from distill.pipeline import run_async, try_tools
    from tools.sandbox.factory import try_hosted

    run_async(try_tools(cfg))
    for section in (cfg.solver, cfg.teacher, *((cfg.judge,) if cfg.asks_judge else ())):
        chat = open_chat(section.model, section.base_url)
        if isinstance(chat, EndpointChat):
            run_async(chat.check())
    run_async(try_hosted(cfg.sandbox))


def distil(run: "Run") -> "Results":
    """Take a run through all its stages and write its results."""
    from distill.pipeline import publish
    from eval.report import write_report
    from eval.results import Results, Stage
    from train.student import student_path

    cfg = run.cfg
    run.harvest()
    selected = run.select()
    run.check_prompts()
    base = student_path(cfg.student.model)
    sft = run.sft(selected)
    final = run.grpo(sft)
    models: dict[Stage, str] = {"base": base, "sft": str(sft)}
    if final != sft:
        models["grpo"] = str(final)
    found = measured(run, models)
    publish(run, final)
    results = Results(
        name=cfg.name,
        student=cfg.student.model,
        teacher=cfg.teacher.model,
        seed=cfg.seed,
        **found,
        funnel=dict(selected.funnel.counts),
        wall_s=run.wall_s,
        peak_memory_mb=run.peak_memory_mb,
        config=cfg.model_dump(mode="json"),
    )
    results.save(run.dir / "results.json")
    write_report(results, run.dir, run.dir / "grpo" / "metrics.jsonl")
    return results


def measured(run: "Run", models: Mapping["Stage", str]) -> dict[str, Any]:
    """Measure each stage's model in the roles that the student learns; return the fields of `Results`.

    Best-of-N is by the last stage's verdicts. Where no verifier is learned there are none.
    """
    from agents.types import ROLES
    from distill.evaluation import Evaluation
    from distill.role_evaluation import RoleEvaluation
    from eval.best_of_n import best_of_n

    cfg, learned = run.cfg, set(run.cfg.mixture.roles)
    evaluation, roles = Evaluation(run), RoleEvaluation(run)
    out: dict[str, Any] = {"held_out": {}, "roles": {}}
    rows = []
    for stage, model in models.items():
        if learned & set(ROLES):
            out["held_out"][stage], rows = evaluation.evaluate(stage, model)
        if learned - set(ROLES):
            out["roles"][stage] = roles.evaluate(stage, model)
    if learned & set(ROLES):
        pools = evaluation.best_of_n_pools(rows)
        out["best_of_n"] = best_of_n(pools, resamples=cfg.eval.bootstrap, seed=cfg.seed)
    return out


def _show(results: "Results", cfg: "RunConfig") -> None:
    from rich.console import Console

    from eval.report import results_tables, teacher_line

    console = Console(soft_wrap=True)
    console.print(f"\nStudent {results.student}, teacher {teacher_line(results)}, measured on {results.measured_on}\n")
    for table in results_tables(results):
        console.print(table)
        console.print()
    folder = cfg.run_dir
    console.print(f"model {folder / 'model'}   report {folder / 'report.md'}   numbers {folder / 'results.json'}")


if __name__ == "__main__":
    sys.exit(main())
