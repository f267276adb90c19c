"""Reviews of the candidates of a file, for every evaluation command: made once, kept in a folder, resumed after a kill.

Input: problems with candidates and a `Verifier` (a model with its settings). Output: a trajectory a direction and
distinct candidate in `store.sqlite` of the folder; a failure is a row with a typed reason, tried again by the next run.
`reviews.json` says what the reviews depend on, so that a folder never mixes verifiers.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from agents.outages import raise_first
from agents.store import Store
from agents.types import Candidate, Task
from eval.candidates import Problem
from eval.held_out import Pool, Reviewer, Reviews, complete, representatives, review_each, side_of
from eval.recorded import read_reviews, recorded
from eval.verifier import Verifier, identity, open_model, reach
from tools.errors import ConfigError, DataError
from tools.progress import Progress
from tools.whole import write_whole

STORE, IDENTITY = "store.sqlite", "reviews.json"
Result = TypeVar("Result")


def default_folder(candidates: Path, model: str) -> Path:
    """Return where the reviews of a file by a model are kept when no folder is named."""
    parts = [part.replace(":", "-") for part in Path(model).parts if part not in ("/", "..", ".")]
    return Path("runs") / "eval" / "-".join([candidates.stem, *parts[-2:]])


def review_problems(problems: Sequence[Problem], verifier: Verifier, folder: Path) -> Reviews:
    """Review every distinct candidate; what the folder holds is not reviewed again, and then no model is opened.

    Where the verifier is named `RUN:STAGE`, the reviews are those of that run (see `eval/recorded.py`).

    Returns:
        All trajectories by candidate, of the first candidate of each text; none where a probe has decided.

    Raises:
        ConfigError: the model cannot be opened, or the folder holds other reviews.
        DataError: the folder cannot be written, or holds other candidates of a problem.
        ModelError, SandboxError, ToolError: reviews failed: an outage is not a verdict. What is done is kept.
    """
    pools = [Pool(problem.task, problem.candidates) for problem in problems]
    wanted = set(representatives(pools).values())
    if verifier.probed is not None:
        wanted = verifier.probed.open(wanted)
        pools = [Pool(pool.task, [c for c in pool.candidates if c.id in wanted]) for pool in pools]

    async def drive(reviewer: Reviewer, progress: Progress) -> Reviews:
        progress.expect(len(wanted - reviewer.reviews.keys()))
        await review_each(reviewer, pools, progress.advance)
        return reviewer.reviews

    if (found := recorded(verifier.model)) is not None:
        check_folder(folder, verifier)
        return read_reviews(found, wanted, verifier.context)
    with opened(problems, verifier, folder) as (store, held):
        done = {c: held[c] for c in wanted & held.keys() if complete(held[c], verifier.context)}
        if len(done) == len(wanted):
            return done
        reviews = drive_reviews(store, held, verifier, drive)
        return {candidate: reviews[candidate] for candidate in wanted}


@contextmanager
def opened(problems: Sequence[Problem], verifier: Verifier, folder: Path) -> Iterator[tuple[Store, Reviews]]:
    """Open the store of a folder that is this verifier's, with the problems in it; yield it and the reviews held.

    Raises:
        ConfigError, DataError: see `review_problems`.
    """
    check_folder(folder, verifier)
    with Store(folder / STORE) as store:
        add_problems(store, problems)
        held: Reviews = {}
        for row in store:
            held.setdefault(row.candidate.id, {})[side_of(row.trajectory)] = row.trajectory
        yield store, held


def drive_reviews(
    store: Store,
    held: Reviews,
    verifier: Verifier,
    drive: Callable[[Reviewer, Progress], Awaitable[Result]],
    unit: str = "candidates",
) -> Result:
    """Open model and progress display, and let `drive` ask a reviewer for what it wants.

    Args:
        store: takes the trajectories.
        held: reviews made before.
        verifier: who reviews.
        drive: gets the reviewer and a display whose total it sets.
        unit: what the display counts.

    Returns:
        What `drive` returns.

    Raises:
        ConfigError, ModelError, SandboxError, ToolError: see `review_problems`.
    """
    with open_model(verifier) as chat, Progress("review", 0, unit) as progress:

        async def work() -> Result:
            await reach(chat)
            reviewer = Reviewer(
                verifier.context.model_copy(update={"chat": chat}),
                held=held,
                record=store.add_trajectory,
                width=verifier.width,
                max_outages=verifier.max_outages,
            )
            result = await drive(reviewer, progress)
            reviewer.check_all()
            return result

        try:
            return asyncio.run(work())
        except BaseExceptionGroup as group:
            raise_first(group)


def check_folder(folder: Path, verifier: Verifier) -> None:
    """Make sure that a folder is this verifier's, and mark it so.

    Raises:
        ConfigError: it holds reviews of another verifier or other settings.
        DataError: it cannot be written.
    """
    mark_folder(folder, IDENTITY, identity(verifier))


def mark_folder(folder: Path, name: str, ours: dict[str, Any], holds: str = "reviews of another verifier") -> None:
    """Make sure that what a folder holds depends on the same things, and mark it so in its file `name`.

    `holds` is what a folder holds that is refused, for the error.

    Raises:
        ConfigError: it holds what depends on others.
        DataError: it cannot be written.
    """
    path = folder / name
    if path.is_file():
        theirs = read_identity(folder, name)
        differing = [
            f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here"
            for key in sorted(ours.keys() | theirs.keys())
            if theirs.get(key) != ours.get(key)
        ]
        if differing:
            raise ConfigError(f"{folder} holds {holds} ({'; '.join(differing[:3])}); choose another --out")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(ours, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --out") from error


def add_problems(store: Store, problems: Sequence[Problem]) -> None:
    """Put problems and candidates into the store.

    Raises:
        DataError: it holds other candidates of a problem.
    """
    store.add_tasks(problem.task for problem in problems)
    for problem in problems:
        if not store.add_candidates(problem.task.id, problem.candidates):
            _check_same(store, problem.task, problem.candidates)


def _check_same(store: Store, task: Task, candidates: Sequence[Candidate]) -> None:
    held = store.candidates(task.id) or []
    if [c.id for c in held] != [c.id for c in candidates]:
        raise DataError(
            f"{store.path} holds other candidates of the problem {task.question[:60]!r}: "
            "the file has changed; choose another --out"
        )


def read_identity(folder: Path, name: str = IDENTITY) -> dict[str, Any]:
    """Return what the reviews of a folder depend on.

    Raises:
        ConfigError: the folder does not say.
    """
    path = folder / name
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error}); choose another --out") from error
    return data if isinstance(data, dict) else {}
