"""The harvest of roles that are no verifiers: judgements of solutions, revisions on them, and agents' trajectories.

Input: tasks whose candidates are in the store, the run's settings. Output: trajectories in the store, each once; a
later call makes those that are missing or were lost to an outage. The graphs are those that serve and train the model.

A judgement is of one candidate; a revision is of a candidate with its judgement, whatever that says of it (Reagent's
refiner is shown every answer again), and is made where there is a judgement; an agent is given the question alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from langchain_core.language_models.chat_models import BaseChatModel

from agents.final_answer import as_solution, gives_answer
from agents.models import open_chat
from agents.outages import Circuit, raise_first
from agents.plain_roles import ACT, AGENT, JUDGE, REFINER, agent_tools, agent_version, refiner_version
from agents.store import Store
from agents.types import Candidate, ErrorInfo, Role, Round, StopReason, Task, Trajectory, Turn, content_id
from distill.harvest import distinct
from distill.sections import RunConfig
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext, JudgeInput, transcript_for
from graphs.react import build_react
from graphs.react_state import ReactContext, ReactInput
from graphs.refine import build_refine
from graphs.refine_state import Attempt, Critique, RefineContext, RefineInput
from tools.base import Tool
from tools.progress import Progress


class Job(NamedTuple):
    """A trajectory to make: what is known of it before, and how."""

    planned: Trajectory
    make: Callable[[], Awaitable[Trajectory]]


class Teachers(NamedTuple):
    """Who is asked in which role."""

    judge: BaseChatModel
    refiner: BaseChatModel
    agent: BaseChatModel


def open_teachers(cfg: RunConfig) -> Teachers:
    """Open the judge's model, and the teacher's as refiner and as agent; offline each is a program of its own."""
    teacher = cfg.teacher
    if not teacher.model.startswith("scripted-"):
        asked = open_chat(teacher.model, teacher.base_url)
        return Teachers(open_chat(cfg.judge.model, cfg.judge.base_url), asked, asked)
    judge = open_chat(cfg.judge.model, cfg.judge.base_url, seed=cfg.seed)
    programs = [open_chat(f"scripted-{r}", error_rate=teacher.error_rate, seed=cfg.seed) for r in (REFINER, AGENT)]
    return Teachers(judge, *programs)


async def harvest_roles(
    tasks: Sequence[Task], store: Store, cfg: RunConfig, who: Teachers, tools: Mapping[str, Tool], progress: Progress
) -> int:
    """Fill the store with the trajectories of the mixture's other roles; return how many failed.

    Args:
        tasks: problems, their candidates in the store.
        store: open for writing.
        cfg: `mixture` says which roles, `teacher` (and `judge`) within which limits.
        who: the models.
        tools: of the agent.
        progress: counts trajectories.

    Raises:
        ModelError, SandboxError, ToolError: `teacher.max_outages` failures in a row. What is done is kept.
    """
    work = RoleHarvest(store, cfg, who, tools)
    roles, found = cfg.mixture.roles, [(task, distinct(store.candidates(task.id) or [])) for task in tasks]
    judged = JUDGE in roles or REFINER in roles
    failed = await work.run([work.judgement(t, c) for t, own in found for c in own] if judged else [], progress)
    if REFINER in roles:
        said = {row.trajectory.candidate_id: row.trajectory for row in store if row.trajectory.role == JUDGE}
        heard = [(t, c, said[c.id]) for t, own in found for c in own if c.id in said and said[c.id].verdict]
        failed += await work.run([work.revision(*given) for given in heard], progress)
    if AGENT in roles and cfg.mixture.answerer != AGENT:  # else its trajectories are the candidates
        jobs = [work.answer(task, i) for task in tasks for i in range(cfg.teacher.samples)]
        failed += await work.run(jobs, progress)
    return failed


class RoleHarvest:
    """The harvest at work: contexts of the graphs, and how much runs at once."""

    def __init__(self, store: Store, cfg: RunConfig, who: Teachers, tools: Mapping[str, Tool]) -> None:
        """Set out from what the store holds."""
        t, length = cfg.teacher, cfg.student.max_length
        self.store, self.done = store, store.done_keys()
        self.slots, self.circuit = asyncio.Semaphore(t.concurrency), Circuit(t.max_outages)
        self.judging = JudgeContext(
            model=cfg.judge.model,
            chat=who.judge,
            style=t.style,
            temperature=cfg.judge.temperature,
            max_tokens=cfg.judge.max_tokens,
            max_trajectory_tokens=cfg.judge.max_trajectory_tokens,
            max_transcript=transcript_for(length),
            max_seconds=cfg.judge.max_seconds,
        )
        self.refining = RefineContext(
            style=t.style,
            rounds=1,
            max_transcript=transcript_for(length),
            refiner=who.refiner,
            refiner_temperature=t.temperature,
            refiner_max_tokens=cfg.solver.max_tokens,
            max_seconds=t.max_seconds,
        )
        self.acting = acting(cfg, who.agent, tools)
        if cfg.mixture.answerer == AGENT:
            self.refining = self.refining.model_copy(update={"agent": self.acting})

    @property
    def shown_tools(self) -> str:
        """What the agent is told of its tools."""
        return agent_tools(self.acting.style, (self.acting.tools or {}).values())

    async def run(self, jobs: Sequence[Job], progress: Progress) -> int:
        """Make the trajectories that the store lacks; return how many failed."""
        missing = [job for job in jobs if job.planned.key not in self.done]
        progress.expect(len(missing))
        try:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(self._one(job, progress)) for job in missing]
        except BaseExceptionGroup as errors:
            raise_first(errors)
        return sum(task.result() for task in made)

    async def _one(self, job: Job, progress: Progress) -> bool:
        async with self.slots:
            self.circuit.check()
            made = await job.make()
        given = ("task_id", "candidate_id", "sample_index", "model", "prompt_version")
        self.store.add_trajectory(made.model_copy(update={name: getattr(job.planned, name) for name in given}))
        failed = made.stop_reason is StopReason.ERROR
        progress.advance(failed=failed)
        if failed:
            self.circuit.failed(made.error or ErrorInfo(kind="RolloutError", message="no reason given"))
        else:
            self.circuit.worked()
        return failed

    def judgement(self, task: Task, candidate: Candidate) -> Job:
        """Judge a candidate."""
        planned = _planned(JUDGE, task, candidate.id, 0, self.judging.chat, self.judging.version)
        given = JudgeInput(problem=task.question, solution=candidate.text, trajectory_id=planned.key)
        if candidate.turns:
            given["turns"] = candidate.turns

        async def make() -> Trajectory:
            return (await build_judge().ainvoke(given, context=self.judging))["trajectory"]

        return Job(planned, make)

    def revision(self, task: Task, candidate: Candidate, judged: Trajectory) -> Job:
        """Revise a candidate on its judgement."""
        acts, style = self.refining.agent is not None, self.refining.style
        own = agent_version(style, self.shown_tools) if acts else refiner_version(style)
        version = content_id(own, judged.model, judged.prompt_version)
        chat = self.acting.chat if acts else self.refining.refiner
        planned = _planned(REFINER, task, candidate.id, 0, chat, version)
        before = Round(index=0, solution=_solution(candidate), made=candidate.turns)
        given = RefineInput(problem=task.question, rounds=[before], trajectory_id=planned.key)

        async def critique(attempt: Attempt, context: RefineContext) -> Critique:
            assert judged.verdict is not None
            return Critique(accepted=False, text=judged.verdict.critique)

        async def make() -> Trajectory:
            context = self.refining.model_copy(update={"critique": critique})
            rounds = (await build_refine().ainvoke(given, context=context))["rounds"]
            return _of_round(planned, rounds[-1].made, rounds[-1].error)

        return Job(planned, make)

    def answer(self, task: Task, sample: int) -> Job:
        """Have the agent answer."""
        version = agent_version(self.acting.style, self.shown_tools)
        planned = _planned(AGENT, task, "", sample, self.acting.chat, version)
        given = ReactInput(problem=task.question, trajectory_id=f"{task.id}:{sample}")

        async def make() -> Trajectory:
            return (await build_react().ainvoke(given, context=self.acting))["trajectory"]

        return Job(planned, make)


def acting(cfg: RunConfig, chat: BaseChatModel, tools: Mapping[str, Tool]) -> ReactContext:
    """Return the settings of the teacher as the agent."""
    t = cfg.teacher
    return ReactContext(
        model=t.model,
        chat=chat,
        style=t.style,
        temperature=t.temperature,
        max_tokens=t.max_tokens,
        max_turns=cfg.mixture.agent_turns,
        max_tool_calls=t.max_tool_calls,
        max_trajectory_tokens=t.max_trajectory_tokens,
        max_seconds=t.max_seconds,
        tools=dict(tools),
    )


def sampling_agent(cfg: RunConfig, tools: Mapping[str, Tool]) -> ReactContext:
    """Return the settings of the agent whose trajectories are the candidates: the solver's model, within its limits."""
    s, name = cfg.solver, cfg.answering_model
    chat = open_chat(name, s.base_url, error_rate=s.error_rate, seed=cfg.seed)
    limits = {"model": name, "temperature": s.temperature, "max_tokens": s.max_tokens}
    return acting(cfg, chat, tools).model_copy(update=limits)


def _solution(candidate: Candidate) -> str:
    """Return a solution as a round of the refinement holds it: of an agent's trajectory the final answer."""
    if not candidate.turns:
        return candidate.text
    return as_solution(candidate.answer)


def _planned(role: Role, task: Task, candidate: str, sample: int, chat: object, version: str) -> Trajectory:
    """Return what is known of a trajectory before it is made: what its key is made of."""
    return Trajectory(
        role=role,
        task_id=task.id,
        candidate_id=candidate,
        sample_index=sample,
        model=str(getattr(chat, "model_id", "")),
        prompt_version=version,
        stop_reason=StopReason.ERROR,
    )


def _of_round(planned: Trajectory, made: tuple[Turn, ...], error: ErrorInfo | None) -> Trajectory:
    """Return a revision as a trajectory."""
    if error is not None:
        return planned.model_copy(update={"error": error})
    if not made:
        return planned.model_copy(update={"stop_reason": StopReason.MAX_SECONDS})
    stop = StopReason.LENGTH if made[-1].finish_reason == "length" else StopReason.COMPLETED
    if made[-1].stage == ACT and stop is StopReason.COMPLETED and not gives_answer(made[-1]):
        stop = StopReason.UNPARSED
    seconds = sum(turn.seconds for turn in made)
    return planned.model_copy(update={"turns": made, "stop_reason": stop, "seconds": seconds})
