"""`python -m eval.agent`: a tool-using agent on a benchmark: pass@1 and pass@k over repeats, and what it costs.

Input: a benchmark (of the Hub, or a local copy), a model (an endpoint's, a folder, the embedded student, or the offline
`scripted-agent`), tools. Output in a folder: `trajectories.jsonl` (every trajectory as it came: the same command goes
on from there), `candidates.jsonl` (what `eval.judge` and `distill.rrm` read), `agent.json`, with `--grader` also
`grades.jsonl`, with `--rounds` also `rounds.jsonl`; tables on stdout. The agent is shown the question alone, in a round
also what it did before, and the judge's critique.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval import command_line
from tools.errors import ConfigError

if TYPE_CHECKING:
    from agents.types import Round, Task, Trajectory
    from eval.agent_report import AgentReport, Answered
    from eval.agent_round_report import RoundsReport
    from eval.agent_runs import Place
    from eval.agent_settings import Agent
    from eval.benchmarks import Chosen
    from eval.grader import Graded, Grader
    from eval.refining import Refiners

NAME = "agent"
TRAJECTORIES, GRADES, IDENTITY = "trajectories.jsonl", "grades.jsonl", "agent-of.json"
EPILOG = """Benchmarks: {names}. NAME:FILE reads JSON lines, parquet or CSV in place of the Hub; gaia and hle are gated:
accept their terms there and set HF_TOKEN, or give your own copy. Final answers are compared by the kind of the task:
mathematics by math-verify, short texts after SQuAD's normalisation, numbers and lists by value; never by containment.
--grader asks a language model as well; its failures are counted. With --rounds a judge reads every
trajectory, and unless its score is above --judge-accepts the agent answers anew with the critique; --set takes
judge_max_tokens and the like. The same command resumes; more --repeats or --rounds go on."""


def options() -> command_line.Parser:
    """Return the command's parser."""
    from eval.benchmarks import BENCHMARKS

    names = ", ".join(name for name, benchmark in BENCHMARKS.items() if benchmark.kind != "program")
    parser = command_line.parser(NAME, "Run a tool-using agent on a benchmark.", EPILOG.format(names=names))
    add, least = parser.add_argument, command_line.at_least
    add("--benchmark", required=True, metavar="NAME[:FILE]", help="which problems, and a local copy of them")
    add("--limit", type=least(1), metavar="N", help="the first N problems (default: all)")
    add("--without-files", action="store_true", help="leave out the problems that come with a file (gaia)")
    add("--model", required=True, help="scripted-agent, smollm2-135m, a model's folder, or what --base-url serves")
    add("--base-url", metavar="URL", help="of an OpenAI-compatible endpoint; several: comma-separated")
    add("--tools", default="python", metavar="A,B", help="python, search, browse, files, vision, audio, mcp")
    add("--corpus", type=Path, metavar="PATH", help="of search, offline: JSON lines, or a folder of texts")
    add("--folder", type=Path, metavar="DIR", help="what files, vision and audio read: the benchmark's files")
    add("--repeats", type=least(1), default=1, metavar="K", help="trajectories a problem (default: 1)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder of the trajectories and the report")
    add("--temperature", type=command_line.not_negative, default=0.6, help="of sampling (default: 0.6)")
    add("--max-turns", type=least(1), default=40, metavar="N", help="steps of a trajectory (default: 40)")
    add("--style", choices=("compact", "full"), default="compact", help="of the prompts; full: Qwen3-class models")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="max_tokens=1024 search.results=3 …")
    add("--skill", type=command_line.share, default=0.7, help="of scripted-agent: share without a lapse (default: 0.7)")
    add("--grader", metavar="MODEL", help="a language model that compares answers as well")
    add("--grader-url", metavar="URL", help="of the grader's endpoint")
    add("--rounds", type=least(0), default=0, metavar="N", help="critiques and new answers, at most (default: 0)")
    add("--judge", metavar="MODEL", help="whose critiques: scripted-judge, a folder, or what --judge-url serves")
    add("--judge-url", metavar="URL", help="of the judge's endpoint")
    add("--judge-accepts", type=command_line.share, default=0.5, metavar="S", help="let stand above it (default: 0.5)")
    add("--concurrency", type=least(1), default=16, metavar="N", help="trajectories at once (default: 16)")
    add("--max-outages", type=least(1), default=16, metavar="N", help="stop after N failures in a row (default: 16)")
    command_line.add_bootstrap_options(parser, "sampling in this process, and of the resamples")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return command_line.run(options(), work, argv)


def work(args: argparse.Namespace) -> None:
    """Run, grade, report; what failed is told at the end."""
    from agents.types import Trajectory
    from eval import agent_report, agent_round_report
    from eval.agent_candidates import CANDIDATES, candidate_lines
    from eval.agent_rounds import First, opened_journal, refine_all, refiners_of
    from eval.agent_runs import finished, outages, run_all
    from eval.agent_settings import agent_of, identity
    from eval.benchmarks import choose
    from eval.lines import Lines
    from eval.report import show
    from eval.reviews import mark_folder
    from tools.whole import write_whole

    if args.grader_url and not args.grader:
        raise ConfigError("--grader-url needs --grader, the name that the server serves")
    chosen, agent = choose(args.benchmark), agent_of(args)
    who = refiners_of(args, agent)
    tasks, notes = _tasks(chosen, agent, args)
    mark_folder(args.out, IDENTITY, identity(agent, chosen), "trajectories of another agent")
    places = {(task.id, i): task.question for task in tasks for i in range(args.repeats)}
    with Lines(args.out / TRAJECTORIES, Trajectory) as lines, opened_journal(args.out, who) as journal:
        failure, courses = run_all(tasks, args.repeats, agent, lines), {}
        made, lost = finished(lines), outages(lines, list(places))
        if who is not None and journal is not None:
            firsts = {place: First(question, made[place]) for place, question in places.items() if place in made}
            courses, later = refine_all(firsts, agent, who, journal)
            failure = failure or later
    whole = [task for task in tasks if all((task.id, i) in made for i in range(args.repeats))]
    if whole:
        answered, graded = _answered(whole, made, args)
        found = _report(args, agent, chosen, answered, len(tasks))
        failures = dict(graded.failures) if graded else {}
        rounds = _rounds(whole, courses, who, args)
        notes += agent_round_report.notes(rounds) if rounds else []
        more = {"rounds": rounds, "outages": lost, "grader_failures": failures, "notes": tuple(notes)}
        found = found.model_copy(update=more)
        write_whole(args.out / CANDIDATES, candidate_lines(answered, chosen.name))
        write_whole(args.out / f"{NAME}.json", found.model_dump_json(indent=1) + "\n")
        places = f"trajectories {args.out / TRAJECTORIES}   for a judge {args.out / CANDIDATES}"
        show(agent_report.sections(found), [*notes, f"{places}   numbers {args.out / NAME}.json"])
    if failure is not None:
        raise failure


def _tasks(chosen: "Chosen", agent: "Agent", args: argparse.Namespace) -> "tuple[list[Task], list[str]]":
    """Return the problems, and what is to be known about their files."""
    from eval.agent_settings import WITH_FOLDER
    from eval.benchmark_rows import FILE
    from eval.benchmarks import load_tasks

    if chosen.benchmark.kind == "program":
        raise ConfigError(f"--benchmark {chosen.name}: programs are written by eval.solve; choose another benchmark")
    tasks = load_tasks(chosen, args.limit)
    named = {task.id: str(task.metadata[FILE]) for task in tasks if FILE in task.metadata}
    scripted = [m for m in (agent.context.model, args.judge or "") if m.startswith("scripted-")]
    notes = [f"{model}: a program, not a language model." for model in scripted]
    if args.without_files:
        tasks = [task for task in tasks if task.id not in named]
        if not tasks:
            raise ConfigError("--without-files leaves no problem; leave it out, or raise --limit")
        return tasks, [*notes, f"{len(named)} problems with a file are left out."] if named else notes
    if named and not set(WITH_FOLDER) & set(agent.tools.enabled):
        notes.append(
            f"{len(named)} problems come with a file, and no tool reads files: see --tools and --without-files."
        )
    elif named and args.folder:
        lacking = sorted(name for name in named.values() if not (args.folder / name).is_file())
        if lacking:
            notes.append(f"{len(lacking)} files are not in {args.folder}, such as {lacking[0]}.")
    return tasks, notes


def _answered(
    tasks: "list[Task]", made: "dict[Place, Trajectory]", args: argparse.Namespace
) -> "tuple[list[Answered], Graded | None]":
    """Grade by the rule, and by a language model where one is named."""
    from agents.final_answer import answer_of
    from eval.agent_grades import grade_trajectory
    from eval.agent_report import Answered

    answered = []
    for task in tasks:
        trajectories = tuple(made[task.id, i] for i in range(args.repeats))
        grades = [grade_trajectory(task, t) for t in trajectories]
        answered.append(Answered(task, trajectories, tuple(g for g in grades if g is not None)))
    if not args.grader:
        return answered, None
    graded, grader = _graded(answered, args)
    return [
        a._replace(verdicts=tuple(graded.of(grader, a.task, answer_of(t)) for t in a.trajectories)) for a in answered
    ], graded


def _graded(answered: "list[Answered]", args: argparse.Namespace) -> "tuple[Graded, Grader]":
    from agents.final_answer import answer_of
    from eval.grader import Compared, Grader, grade_all
    from eval.lines import Lines

    grader = Grader(args.grader, args.grader_url, args.concurrency, args.max_outages)
    asked = [(a.task, answer) for a in answered for t in a.trajectories if (answer := answer_of(t)) is not None]
    with Lines(args.out / GRADES, Compared) as lines:
        return grade_all(asked, grader, lines), grader


def _rounds(
    tasks: "list[Task]", courses: "dict[Place, list[Round]]", who: "Refiners | None", args: argparse.Namespace
) -> "RoundsReport | None":
    from eval.agent_round_report import Rated, rounds_report
    from eval.agent_rounds import identity

    if who is None:
        return None
    return rounds_report(tasks, courses, identity(who.context), Rated(args.rounds, args.bootstrap, args.seed))


def _report(
    args: argparse.Namespace, agent: "Agent", chosen: "Chosen", answered: "list[Answered]", asked: int
) -> "AgentReport":
    from eval.agent_report import AgentReport, agreement, doubts, groups, tool_use
    from eval.agent_settings import identity

    return AgentReport(
        benchmark=chosen.name,
        kind=chosen.benchmark.kind,
        read_from=str(chosen.file or chosen.benchmark.hub.source),
        agent=identity(agent, chosen),
        repeats=args.repeats,
        asked=asked,
        groups=groups(answered, args.repeats, args.bootstrap, args.seed),
        tools=tool_use(answered),
        grader=args.grader,
        agreement=agreement(answered),
        doubts=tuple(doubts(answered)),
    )


if __name__ == "__main__":
    sys.exit(main())
