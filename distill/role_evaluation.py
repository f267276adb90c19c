"""The evaluation of a run in the roles other than the verifiers': each model as solver, refiner, judge and agent.

Input: a `Run` whose harvest is done; output: `RoleMetrics` of each stage's model on the held-out problems. Everything
is greedy. What a model did stands in `roles_<stage>.jsonl` of the run's folder, so a process that was killed goes on
where it was. Models are sent questions and solutions; reference answers grade what they wrote afterwards.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from langchain_core.language_models import BaseChatModel

from agents.outages import failure
from agents.store import Row
from agents.types import ErrorInfo, Round, Task, Trajectory
from distill.evaluation import opened_student
from distill.pipeline import open_tools, run_async
from distill.sections import RunConfig
from eval.agent_grades import grade_trajectory
from eval.agent_runs import Job, Work
from eval.candidates import Problem
from eval.checkers import grade
from eval.judge import rows_of
from eval.judge_metrics import Judged
from eval.judging import Judging, items_of
from eval.refining import Driver, Refiners, is_done
from eval.refining import items_of as courses_of
from eval.results import Stage
from eval.role_metrics import Acted, Answered, RoleMetrics, acted_of, answered_of, role_metrics
from eval.role_records import Courses, RoleLines
from graphs.judge_state import transcript_for
from graphs.react_state import ReactContext
from graphs.refine_state import Critic, RefineContext
from tools.progress import Progress

if TYPE_CHECKING:
    from distill.pipeline import Run


def refine_context(cfg: RunConfig, name: str) -> RefineContext:
    """Return the settings of a first answer, its critique and its revision, every one by the model of that name."""
    return RefineContext(
        rounds=int("refiner" in cfg.mixture.roles),
        agent=agent_context(cfg, name) if cfg.mixture.answerer == "agent" else None,
        critic="judge",
        judge_accepts=1.0,  # no score is above it: every first answer is refined
        judge_model=name,
        refiner_model=name,
        solver_model=name,
        style=cfg.teacher.style,
        judge_max_tokens=cfg.eval.max_tokens,
        refiner_max_tokens=cfg.eval.max_tokens,
        solver_max_tokens=cfg.eval.max_tokens,
        max_trajectory_tokens=cfg.student.max_length,
        max_transcript=transcript_for(cfg.student.max_length),
    )


def agent_context(cfg: RunConfig, name: str) -> ReactContext:
    """Return the settings of the agent."""
    return ReactContext(
        model=name,
        style=cfg.teacher.style,
        max_turns=cfg.mixture.agent_turns,
        max_tool_calls=cfg.eval.max_tool_calls,
        max_tokens=cfg.eval.max_tokens,
        max_trajectory_tokens=cfg.student.max_length,
    )


@asynccontextmanager
async def _opened_critic(cfg: RunConfig) -> AsyncIterator[Critic | None]:
    """Open the critic of first answers; None: it is the student itself."""
    if not cfg.mixture.needs_critic:
        yield None
        return
    from train.reagent import open_judge  # torch is heavy

    async with open_judge(cfg.judge) as critic:
        yield critic


class RoleWork:
    """One model at work in the roles that it learns; `lines` takes what it does, and holds what it did before."""

    def __init__(self, cfg: RunConfig, problems: Sequence[Problem], lines: RoleLines) -> None:
        """Take the settings, the held-out problems with their labelled candidates, and the lines, open."""
        self.cfg, self.problems, self.lines = cfg, problems, lines
        self.width, self.max_outages = cfg.eval.batch, cfg.teacher.max_outages

    @cached_property
    def answerable(self) -> list[Problem]:
        """The problems whose answers a rule can grade."""
        return [p for p in self.problems if p.task.answer is not None and p.task.kind != "program"]

    async def make(self, chat: BaseChatModel, progress: Progress) -> None:
        """Do what is not done yet, one role after the other.

        Raises:
            ModelError, SandboxError, ToolError: something failed; at once after many failures in a row (then inside an
                exception group), else at the end. What is done is kept.
        """
        roles = self.cfg.mixture.roles
        answerer = self.cfg.mixture.answerer
        kinds = {answerer: self._answer, "judge": self._judge} | ({"agent": self._act} if answerer != "agent" else {})
        ended = [await work(chat, progress) for role, work in kinds.items() if role in roles]
        last = next((error for _, error in reversed(ended) if error is not None), None)
        if last is not None:
            raise failure(sum(failed for failed, _ in ended), "rollouts of other roles", last)

    async def _answer(self, chat: BaseChatModel, progress: Progress) -> tuple[int, ErrorInfo | None]:
        """Write first answers and refine them; return how many failed, and the last failure."""
        context = refine_context(self.cfg, getattr(chat, "model_id", ""))
        items = courses_of(self.answerable, solver=True)
        task_of = {item.name: problem.task.id for item, problem in zip(items, self.answerable, strict=True)}
        journal = Courses(self.lines, task_of)
        left = [i for i in items if not is_done(journal.of(context.critic, i.name), context.rounds)]
        progress.expect(len(left))
        async with _opened_critic(self.cfg) as critic, self._opened_agent(context, chat) as agent:
            live = {"solver": chat, "refiner": chat, "judge": chat, "critique": critic, "agent": agent}
            who = Refiners(context.model_copy(update=live), (context.critic,), self.width, self.max_outages)
            driver = Driver(who, journal, progress.advance)
            await driver.drive(left)
        return driver.failed, driver.last

    @asynccontextmanager
    async def _opened_agent(self, context: RefineContext, chat: BaseChatModel) -> AsyncIterator[ReactContext | None]:
        """Open the tools of the agent that answers; None: the solver answers."""
        if context.agent is None:
            yield None
            return
        async with open_tools(self.cfg) as tools:
            yield context.agent.model_copy(update={"chat": chat, "tools": tools})

    async def _judge(self, chat: BaseChatModel, progress: Progress) -> tuple[int, ErrorInfo | None]:
        """Judge every distinct candidate, as first answers are judged."""
        context = refine_context(self.cfg, getattr(chat, "model_id", "")).judging.model_copy(update={"chat": chat})
        work = Judging(context, self.lines.add_judgement, width=self.width, max_outages=self.max_outages)
        left = work.missing(items_of(self.problems), {made.key for made in self.lines.judgements.values()})
        progress.expect(len(left))
        await work.judge_all(left, progress.advance)
        return work.failed, work.last

    async def _act(self, chat: BaseChatModel, progress: Progress) -> tuple[int, ErrorInfo | None]:
        """Let the agent answer with the run's tools."""
        jobs = [Job(p.task, 0) for p in self.answerable if p.task.id not in self.lines.agents]
        work = Work(self.lines.add_agent, width=self.width, max_outages=self.max_outages)
        progress.expect(len(jobs))
        if not jobs:
            return 0, None
        context = agent_context(self.cfg, getattr(chat, "model_id", ""))
        async with open_tools(self.cfg) as tools:
            await work.run(jobs, context.model_copy(update={"chat": chat, "tools": tools}), progress.advance)
        return work.failed, work.last


class RoleEvaluation:
    """The held-out problems of a run, and how models do on them in the roles other than the verifiers'."""

    def __init__(self, run: "Run") -> None:
        """Take the run."""
        self.run, self.cfg = run, run.cfg

    @cached_property
    def problems(self) -> list[Problem]:
        """The held-out problems with their labelled candidates."""
        found = []
        for task in self.run.parts["eval"]:
            labelled = tuple(c for c in self.run.store.candidates(task.id) or [] if c.correct is not None)
            scores = tuple({} for _ in labelled)
            found.append(Problem(task=task, candidates=labelled, benchmark="", scores=scores))
        return found

    def evaluate(self, stage: Stage, model: str) -> RoleMetrics:
        """Measure a model in the roles that the student learns.

        Raises:
            DataError: the lines cannot be written, or one is damaged.
            ModelError, SandboxError, ToolError: something failed: an outage is no score. What is done is kept.
        """
        name = f"eval/{stage}_roles"
        with RoleLines(self.run.dir / f"roles_{stage}.jsonl") as lines:
            if not self.run.done(name):
                with self.run.stage(name), Progress(f"eval {stage} roles", 0, "rollouts") as progress:
                    self._work(f"{self.cfg.student.model}:{stage}", model, lines, progress)
            return self._metrics(lines)

    def _work(self, name: str, model: str, lines: RoleLines, progress: Progress) -> None:
        with opened_student(self.cfg, model, name) as chat:
            run_async(RoleWork(self.cfg, self.problems, lines).make(chat, progress))

    def _metrics(self, lines: RoleLines) -> RoleMetrics:
        """Grade what was done, here where no event loop waits for it: grading an answer may take seconds."""
        refines = "refiner" in self.cfg.mixture.roles
        tasks = [problem.task for problem in self.problems]
        return role_metrics(
            [_answered(task, lines.courses[task.id], refines) for task in tasks if task.id in lines.courses],
            [row for problem in self.problems for row in _judged(problem, lines)],
            [_acted(task, lines.agents[task.id]) for task in tasks if task.id in lines.agents],
            answerer=self.cfg.mixture.answerer,
            resamples=self.cfg.eval.bootstrap,
            seed=self.cfg.seed,
        )


def _answered(task: Task, rounds: list[Round], refines: bool) -> Answered:
    return answered_of(task.id, rounds, refines, lambda text: grade(task, text).correct is True)


def _judged(problem: Problem, lines: RoleLines) -> list[Judged]:
    """Return a row for each labelled candidate, where the judge was asked at all."""
    made = {c.id: Row(problem.task, c, lines.judgements[c.id]) for c in problem.candidates if c.id in lines.judgements}
    return rows_of(problem, made) if made else []


def _acted(task: Task, made: Trajectory) -> Acted:
    graded = grade_trajectory(task, made)
    return acted_of(task.id, graded is not None and graded.correct is True, made)
