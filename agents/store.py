"""The store of a run: one SQLite file that holds tasks, candidates and trajectories, each committed whole and once.

A trajectory is one transaction; a process that is killed at any moment loses no committed row (WAL; a power cut may
lose the last moments, never the file). Its key is task, candidate, role, sample index, model and prompt version.
Failures are rows too; since an outage is not final, a later attempt replaces them, and nothing replaces anything else.

One process writes at a time (a lock on the file beside it, which dies with the process); any number may read.
"""

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ValidationError

from agents.types import Candidate, StopReason, Task, Trajectory
from tools.errors import DataError

SCHEMA_VERSION = 2
Dropped = Literal["", "trivial"]
Model = TypeVar("Model", bound=BaseModel)

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tasks (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, json BLOB NOT NULL,
    dropped TEXT  -- NULL: no candidates yet; '': in use; else why not
);
CREATE TABLE candidates (
    id TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES tasks (id), position INTEGER NOT NULL, label INTEGER,
    json BLOB NOT NULL, UNIQUE (task_id, position)
);
CREATE TABLE trajectories (
    key TEXT PRIMARY KEY, task_id TEXT NOT NULL REFERENCES tasks (id),  -- an agent's has no candidate
    candidate_id TEXT REFERENCES candidates (id), role TEXT NOT NULL, sample_index INTEGER NOT NULL,
    stop_reason TEXT NOT NULL, passed INTEGER, error_kind TEXT, json BLOB NOT NULL
);
CREATE INDEX trajectories_of ON trajectories (candidate_id, role, sample_index);
CREATE INDEX trajectories_ended ON trajectories (stop_reason);
"""


class Row(NamedTuple):
    """A trajectory with what it is about; an agent's is about the task alone, its candidate is what it wrote itself."""

    task: Task
    candidate: Candidate
    trajectory: Trajectory


class Store:
    """The store in a file. Use as a context manager, from one thread.

    Every method raises DataError, in one line, when the disk is full, the file is damaged, or it is locked.
    """

    def __init__(self, path: Path, readonly: bool = False) -> None:
        """Open the file, or make it.

        Raises:
            DataError: no such file (readonly), not a store, of another version, or written by another process now.
        """
        self.path = path
        self._lock: int | None = None
        if readonly and not path.is_file():
            raise DataError(f"no store at {path}; run the harvest first")
        try:
            if not readonly:
                self._lock = _lock(path)
            self._db = self._open(readonly)
        except BaseException:
            self._unlock()
            raise

    def _open(self, readonly: bool) -> sqlite3.Connection:
        with self._one_line():
            target = f"{self.path.absolute().as_uri()}?mode={'ro' if readonly else 'rwc'}"
            db = sqlite3.connect(target, uri=True, isolation_level=None, timeout=10.0)
            try:
                self._prepare(db, readonly)
            except BaseException:
                db.close()
                raise
        return db

    def _prepare(self, db: sqlite3.Connection, readonly: bool) -> None:
        db.execute("PRAGMA foreign_keys = ON")
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                version = f"INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}');"
                db.executescript(f"BEGIN;{_SCHEMA}{version}COMMIT;")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            raise DataError(f"{self.path} is not a harvest store; delete it or choose another run")
        version = db.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if version != (str(SCHEMA_VERSION),):
            raise DataError(f"{self.path} is a store of another version of Retort; delete it or choose another run")

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file and let go of the lock. Safe to call twice."""
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # a mistake of ours, not the file's
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: {error}; {_advice(str(error))}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what the block does, whole or not at all."""
        with self._one_line():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have rolled back already
                    self._db.execute("ROLLBACK")
                raise

    def add_tasks(self, tasks: Iterable[Task]) -> int:
        """Add tasks in their order; return how many were new. Candidates that they hold are not stored here."""
        rows = [(t.id, _pack(t.model_copy(update={"candidates": ()}).model_dump_json())) for t in tasks]
        with self._transaction() as db:
            before = db.total_changes
            db.executemany("INSERT OR IGNORE INTO tasks (id, json) VALUES (?, ?)", rows)
            return db.total_changes - before

    def add_task(self, task: Task) -> bool:
        """Add a task; return whether it was new."""
        return self.add_tasks([task]) == 1

    def hold_out(self, task_ids: Iterable[str]) -> None:
        """Note which tasks are held out from all training: `held_out` tells those that learn from this store."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('held_out', ?)", (json.dumps(sorted(task_ids)),))

    def held_out(self) -> set[str] | None:
        """Return the ids of the tasks that are held out, None where none were noted."""
        with self._one_line():
            found = self._db.execute("SELECT value FROM meta WHERE name = 'held_out'").fetchone()
        return set(json.loads(found[0])) if found else None

    def add_candidates(self, task_id: str, candidates: Sequence[Candidate], dropped: Dropped = "") -> bool:
        """Add all candidates of a task, and why it is dropped if it is; return False where they are there already."""
        rows = [(c.id, task_id, i, c.correct, _pack(c.model_dump_json())) for i, c in enumerate(candidates)]
        with self._transaction() as db:
            marked = db.execute("UPDATE tasks SET dropped = ? WHERE id = ? AND dropped IS NULL", (dropped, task_id))
            if marked.rowcount == 0:
                return False
            db.executemany("INSERT INTO candidates VALUES (?, ?, ?, ?, ?)", rows)
            return True

    def add_trajectory(self, trajectory: Trajectory) -> bool:
        """Add a trajectory, or replace a failed one of its key; return whether that was done."""
        t = trajectory
        row = {
            "key": t.key,
            "task_id": t.task_id,
            "candidate_id": t.candidate_id or None,
            "role": t.role,
            "sample_index": t.sample_index,
            "stop_reason": t.stop_reason.value,
            "passed": t.verdict.passed if t.verdict else None,
            "error_kind": t.error.kind if t.error else None,
            "json": _pack(t.model_dump_json()),
        }
        with self._transaction() as db:
            done = db.execute(
                f"""INSERT INTO trajectories VALUES ({", ".join(f":{name}" for name in row)})
                ON CONFLICT (key) DO UPDATE SET stop_reason = excluded.stop_reason, passed = excluded.passed,
                error_kind = excluded.error_kind, json = excluded.json WHERE stop_reason = '{StopReason.ERROR}'""",
                row,
            )
            return done.rowcount == 1

    def candidates(self, task_id: str) -> list[Candidate] | None:
        """Return the candidates of a task in their order, None when none were added yet."""
        with self._one_line():
            if self.dropped(task_id) is None:
                return None
            found = self._db.execute("SELECT json FROM candidates WHERE task_id = ? ORDER BY position", (task_id,))
            return [self._load(Candidate, blob) for (blob,) in found]

    def dropped(self, task_id: str) -> str | None:
        """Return why a task was dropped, "" when it is in use, None when it has no candidates yet."""
        with self._one_line():
            found = self._db.execute("SELECT dropped FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return found[0] if found else None

    def tasks(self) -> list[Task]:
        """Return all tasks in the order in which they were added."""
        with self._one_line():
            return [self._load(Task, b) for (b,) in self._db.execute("SELECT json FROM tasks ORDER BY position")]

    def done_keys(self) -> set[str]:
        """Return the keys of the trajectories that are final: all but the failed ones."""
        with self._one_line():
            found = self._db.execute("SELECT key FROM trajectories WHERE stop_reason != ?", (StopReason.ERROR.value,))
            return {key for (key,) in found}

    def __iter__(self) -> Iterator[Row]:
        """Yield every trajectory by task, candidate, role and sample index: the same order in every run."""
        with self._one_line(), closing(self._db.cursor()) as cursor:
            cursor.execute(
                """SELECT t.json, c.json, j.json FROM trajectories j LEFT JOIN candidates c ON c.id = j.candidate_id
                JOIN tasks t ON t.id = j.task_id ORDER BY t.position, c.position, j.role DESC, j.sample_index, j.key"""
            )
            for task, candidate, trajectory in cursor:
                made = self._load(Trajectory, trajectory)
                about = _written(made) if candidate is None else self._load(Candidate, candidate)
                yield Row(self._load(Task, task), about, made)

    def counts(self) -> dict[str, int]:
        """Return how many tasks, trivial tasks, candidates and trajectories there are, these by stop reason as well."""
        out: dict[str, int] = {}
        with self._one_line():
            for table in ("tasks", "candidates", "trajectories"):
                out[table] = self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            (out["trivial"],) = self._db.execute("SELECT count(*) FROM tasks WHERE dropped = 'trivial'").fetchone()
            ended = self._db.execute("SELECT stop_reason, count(*) FROM trajectories GROUP BY stop_reason ORDER BY 1")
            return out | {f"stop/{reason}": n for reason, n in ended}

    def _load(self, model: type[Model], blob: bytes) -> Model:
        try:
            return model.model_validate_json(zlib.decompress(blob))
        except (zlib.error, ValidationError) as error:
            raise DataError(f"{self.path}: a damaged {model.__name__} row; {_advice('malformed')}") from error


def _written(made: Trajectory) -> Candidate:
    """Return what an agent wrote last, as a candidate."""
    said = made.turns[-1].content if made.turns else ""
    return Candidate(task_id=made.task_id, index=made.sample_index, text=said, model=made.model)


def _pack(text: str) -> bytes:
    return zlib.compress(text.encode(), 3)


def _advice(problem: str) -> str:
    if "full" in problem or "I/O" in problem:
        return "what was committed is kept: free space on the disk and run the same command again"
    if "locked" in problem or "readonly" in problem or "unable to open" in problem:
        return "see that no other process uses it and that it may be written"
    return "the file is damaged or no store: move it away and run the same command again"


def _lock(path: Path) -> int:
    """Take the writer's lock, a file beside the store; the kernel lets go of it when the process ends, however it ends.

    Raises:
        DataError: another process has it, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DataError(f"{path} is being written by another process; wait for it, or choose another folder") from error
    return descriptor
