"""What a model did in roles other than the verifiers': one JSON line each, kept as it comes, resumed after a kill.

Input: rounds of refinements, judgements, an agent's trajectories. Output: the same by task and candidate, read back. An
outage is a line too, with its typed error: it is never a score or an answer, and is tried again by the next run.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from agents.types import Frozen, Round, StopReason, Trajectory
from eval.lines import Lines
from graphs.refine_state import record_rounds

Kind = Literal["course", "judgement", "agent"]


class RoleRecord(Frozen):
    """A line: rounds of the course of a task (a later line on a round counts), a judgement, an agent's trajectory."""

    kind: Kind
    task_id: str
    candidate_id: str = ""
    rounds: tuple[Round, ...] = ()
    trajectory: Trajectory | None = None


class RoleLines:
    """The lines in a file. A context manager.

    `courses` holds the rounds by task, `judgements` the judge's trajectories by candidate, `agents` the agent's by
    task; trajectories that an outage ended are not among them.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is opened yet."""
        self.courses: dict[str, list[Round]] = {}
        self.judgements: dict[str, Trajectory] = {}
        self.agents: dict[str, Trajectory] = {}
        self._lines = Lines(path, RoleRecord)

    def __enter__(self) -> Self:
        """Read what there is, and hold the file for writing. Raises as `Lines`."""
        self._lines.__enter__()
        for record in self._lines.rows:
            self._hold(record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._lines.__exit__(kind, error, trace)

    def add_rounds(self, task_id: str, *made: Round) -> None:
        """Keep rounds of a task's course."""
        self._add(RoleRecord(kind="course", task_id=task_id, rounds=made))

    def add_judgement(self, made: Trajectory) -> None:
        """Keep a judge's trajectory; a failed one too."""
        self._add(RoleRecord(kind="judgement", task_id=made.task_id, candidate_id=made.candidate_id, trajectory=made))

    def add_agent(self, made: Trajectory) -> None:
        """Keep an agent's trajectory; a failed one too."""
        self._add(RoleRecord(kind="agent", task_id=made.task_id, trajectory=made))

    def _add(self, record: RoleRecord) -> None:
        self._lines.add(record)
        self._hold(record)

    def _hold(self, record: RoleRecord) -> None:
        made = record.trajectory
        if made is None:
            self.courses[record.task_id] = record_rounds(self.courses.get(record.task_id, []), record.rounds)
        elif made.stop_reason is not StopReason.ERROR and record.kind == "judgement":
            self.judgements[record.candidate_id] = made
        elif made.stop_reason is not StopReason.ERROR:
            self.agents[record.task_id] = made


class Courses:
    """The courses of some lines as what `eval.refining.Driver` writes: there is one critic, and a course has a name."""

    def __init__(self, lines: RoleLines, task_of: Mapping[str, str]) -> None:
        """Take the lines, and the id of the task of each course by name."""
        self.lines, self.task_of = lines, task_of

    def of(self, critic: str, candidate: str) -> list[Round]:
        """Return the rounds of a course."""
        return self.lines.courses.get(self.task_of[candidate], [])

    def first(self, candidate: str) -> Mapping[str, Round]:
        """Return the first rounds by other critics: there are none."""
        return {}

    def add(self, critic: str, candidate: str, made: Round) -> None:
        """Keep a round of a course."""
        self.lines.add_rounds(self.task_of[candidate], made)
