"""The store: whole rows, once; failures replaced; order; damage, full disk and a second writer in one line."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agents.store import Store
from agents.types import Candidate, ErrorInfo, Message, StopReason, Task, Trajectory, Turn, Verdict
from tools.errors import DataError


def task(question: str = "1 + 1?") -> Task:
    return Task(question=question, answer="2", metadata={"terms": 2})


def candidates(of: Task, *labels: bool | None) -> list[Candidate]:
    return [Candidate(task_id=of.id, index=i, text=f"answer {i}", correct=c) for i, c in enumerate(labels)]


def trajectory(
    of: Candidate, stop: StopReason = StopReason.COMPLETED, passed: bool = True, sample: int = 0, **more: object
) -> Trajectory:
    turn = Turn(stage="verdict", prompt=(Message(role="user", content="?"),), content="é<verdict>true</verdict>")
    done = stop is StopReason.COMPLETED
    settings = {
        "role": "forward_verifier",
        "task_id": of.task_id,
        "candidate_id": of.id,
        "sample_index": sample,
        "turns": (turn,),
        "stop_reason": stop,
        "verdict": Verdict(passed=passed, score=0.9) if done else None,
        "error": ErrorInfo(kind="ModelError", message="down") if stop is StopReason.ERROR else None,
    }
    return Trajectory.model_validate(settings | more)


def fill(store: Store) -> tuple[Task, list[Candidate]]:
    problem = task()
    proposed = candidates(problem, True, False)
    assert store.add_task(problem)
    assert store.add_candidates(problem.id, proposed)
    return problem, proposed


def test_rows_come_back_equal_after_reopening(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        problem, proposed = fill(store)
        assert store.add_trajectory(trajectory(proposed[1]))
    with Store(tmp_path / "s.db") as store:
        assert store.tasks() == [problem]
        assert store.candidates(problem.id) == proposed
        assert list(store) == [(problem, proposed[1], trajectory(proposed[1]))]


def test_everything_is_added_once(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        problem, proposed = fill(store)
        assert not store.add_task(problem)
        assert not store.add_candidates(problem.id, candidates(problem, False))
        assert store.candidates(problem.id) == proposed
        assert store.add_trajectory(trajectory(proposed[0]))
        assert not store.add_trajectory(trajectory(proposed[0], passed=False))
        assert not store.add_trajectory(trajectory(proposed[0], StopReason.ERROR))
        assert [row.trajectory.verdict.passed for row in store if row.trajectory.verdict] == [True]


def test_a_failure_is_a_row_that_a_later_attempt_replaces(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        _, proposed = fill(store)
        failed = trajectory(proposed[0], StopReason.ERROR)
        assert store.add_trajectory(failed)
        assert store.done_keys() == set()
        assert store.counts()["stop/error"] == 1
        assert store.add_trajectory(trajectory(proposed[0]))
        assert store.done_keys() == {failed.key}
        assert store.counts() == {
            "tasks": 1,
            "candidates": 2,
            "trajectories": 1,
            "trivial": 0,
            "stop/completed": 1,
        }


def test_limits_are_final(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        _, proposed = fill(store)
        store.add_trajectory(trajectory(proposed[0], StopReason.LENGTH))
        assert len(store.done_keys()) == 1
        assert not store.add_trajectory(trajectory(proposed[0]))


def test_candidates_none_until_added_and_trivial_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        problem = task()
        store.add_task(problem)
        assert store.candidates(problem.id) is None and store.dropped(problem.id) is None
        assert store.candidates("unknown") is None
        store.add_candidates(problem.id, candidates(problem, True, True), dropped="trivial")
        assert store.dropped(problem.id) == "trivial"
        assert len(store.candidates(problem.id) or []) == 2
        assert store.counts()["trivial"] == 1


def acted(of: Task, stop: StopReason = StopReason.COMPLETED, sample: int = 0) -> Trajectory:
    """An agent's trajectory: of a task, of no candidate."""
    said = Turn(stage="act", prompt=(Message(role="user", content="?"),), content=f"<answer>{sample}</answer>")
    error = ErrorInfo(kind="ModelError", message="down") if stop is StopReason.ERROR else None
    turns = () if error else (said.model_copy(update={"content": "a call"}), said)
    given: dict = {"role": "agent", "task_id": of.id, "sample_index": sample, "model": "m", "stop_reason": stop}
    return Trajectory(turns=turns, error=error, **given)


def test_an_agents_trajectory_is_of_no_candidate(tmp_path: Path) -> None:
    """Its candidate is what it wrote last; the task's own candidates are as they were."""
    with Store(tmp_path / "s.db") as store:
        problem, proposed = fill(store)
        store.add_trajectory(trajectory(proposed[1]))
        assert store.add_trajectory(acted(problem, sample=1)) and store.add_trajectory(acted(problem))
        assert not store.add_trajectory(acted(problem))
    with Store(tmp_path / "s.db", readonly=True) as store:
        written = [
            Candidate(task_id=problem.id, index=i, text=f"<answer>{i}</answer>", model="m", correct=None)
            for i in (0, 1)
        ]
        assert list(store) == [
            (problem, written[0], acted(problem)),
            (problem, written[1], acted(problem, sample=1)),
            (problem, proposed[1], trajectory(proposed[1])),
        ]
        assert store.candidates(problem.id) == proposed
        assert store.counts() == {"tasks": 1, "candidates": 2, "trajectories": 3, "trivial": 0, "stop/completed": 3}
        assert store.done_keys() == {row.trajectory.key for row in store} and len(store.done_keys()) == 3


def test_an_agents_failure_is_replaced_and_its_task_has_to_be_known(tmp_path: Path) -> None:
    """It may act on a task that has no candidates yet."""
    with Store(tmp_path / "s.db") as store:
        problem = task()
        store.add_task(problem)
        assert store.add_trajectory(acted(problem, StopReason.ERROR)) and store.done_keys() == set()
        assert [row.candidate.text for row in store] == [""]
        assert store.add_trajectory(acted(problem))
        assert [row.trajectory for row in store] == [acted(problem)] and store.candidates(problem.id) is None
        with pytest.raises(sqlite3.IntegrityError):
            store.add_trajectory(acted(task("unknown?")))


def test_order_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    problems = [task("b?"), task("a?")]
    proposed = [candidates(p, True, False) for p in problems]
    made = [
        trajectory(c, sample=s, role=role)
        for cs in proposed
        for c in cs
        for role in ("forward_verifier", "backward_verifier")
        for s in range(2)
    ]
    orders = []
    for number, arrival in enumerate((made, made[::-1])):
        with Store(tmp_path / f"{number}.db") as store:
            store.add_tasks(problems)
            for problem, cs in zip(problems, proposed, strict=True):
                store.add_candidates(problem.id, cs)
            for t in arrival:
                store.add_trajectory(t)
            orders.append([row.trajectory.key for row in store])
    assert orders[0] == orders[1] == [t.key for t in made]


def test_unknown_candidate_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store, pytest.raises(sqlite3.IntegrityError):
        store.add_trajectory(trajectory(candidates(task(), True)[0]))


def test_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        _, proposed = fill(store)
        store.add_trajectory(trajectory(proposed[0]))
        store._db.execute("PRAGMA max_page_count = 1")  # no larger than it is
        noise = "".join(chr(33 + i * i % 7919) for i in range(200_000))
        big = Turn(stage="plan", prompt=(), content=noise)
        with pytest.raises(DataError, match=r"disk is full.*free space") as raised:
            store.add_trajectory(trajectory(proposed[1], turns=(big,)))
        assert "\n" not in str(raised.value)
        store._db.execute("PRAGMA max_page_count = 1000000")
        assert store.add_trajectory(trajectory(proposed[1]))
        assert store.counts()["trajectories"] == 2


def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.db"
    text.write_text("dear diary " * 100)
    with pytest.raises(DataError, match="not a database") as raised:
        Store(text)
    assert "\n" not in str(raised.value)
    assert text.read_text() == "dear diary " * 100
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(DataError, match="not a harvest store"):
        Store(other)


def test_other_version_and_damaged_row(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        fill(store)
        store._db.execute("UPDATE candidates SET json = x'00'")
        with pytest.raises(DataError, match="damaged Candidate row"):
            store.candidates(task().id)
        store._db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(DataError, match="another version"):
        Store(tmp_path / "s.db")


def test_one_writer_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(DataError, match="run the harvest first"):
        Store(path, readonly=True)
    with Store(path) as store:
        fill(store)
        with pytest.raises(DataError, match="written by another process"):
            Store(path)
        with Store(path, readonly=True) as reader:
            assert reader.counts()["candidates"] == 2
            with pytest.raises(DataError, match="readonly"):
                reader.add_task(task("new"))
    with Store(path, readonly=True) as reader:
        assert len(reader.tasks()) == 1


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        Store(tmp_path / "file" / "s.db")


KILLED = """
import sys
from pathlib import Path
from agents.store import Store
from tests.unit.test_store import candidates, task, trajectory
with Store(Path(sys.argv[1])) as store:
    problem = task()
    store.add_task(problem)
    store.add_candidates(problem.id, candidates(problem, True))
    sample = 0
    while True:
        store.add_trajectory(trajectory(candidates(problem, True)[0], sample=sample))
        sample += 1
        sys.stdout.write(f"{sample}\\n")
        sys.stdout.flush()
"""


def test_kill_9_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout if line.strip()]
    with Store(path) as store:
        samples = [row.trajectory.sample_index for row in store]
    assert samples == list(range(len(samples)))
    assert len(samples) in (told[-1], told[-1] + 1)
