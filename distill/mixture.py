"""Selection for one model of several roles: each role's rows through filters of its own, then shares of the mixture.

Input: rows of a run's store (reviews, judgements, revisions, agents' trajectories) and its solvers' candidates. Output:
the rows to train on and one funnel over all of them. Pure functions; a seed fixes rows and order.

What a row teaches, and when it is kept: a verifier's review or a judgement that agrees with the label; a solution, a
revision or an agent's trajectory that ends in the right answer. Of revisions as many leave a right solution right as
mend a wrong one, at the most: a refiner that is shown mistakes only learns to change everything.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from agents.plain_roles import AGENT, JUDGE, REFINER, SOLVER, render_solver, solver_version
from agents.store import Row
from agents.types import ROLES, Candidate, Role, StopReason, Task, Trajectory, Turn, content_id
from distill.judgements import select_judgements
from distill.mixture_section import MixtureConfig
from distill.sections import SelectConfig
from distill.select import Filter, Funnel, Selected, Selection, Stage, filters_with, select, shuffled, stage_of
from eval.agent_grades import grade_trajectory
from tools.errors import DataError, NothingAcceptedError
from train.rewards import rule_reward

VERIFIERS = "verifiers"
LEARNED: tuple[tuple[str, tuple[Role, ...]], ...] = (  # whose rows are filtered together, and under which name
    (VERIFIERS, ROLES),
    (JUDGE, (JUDGE,)),
    (SOLVER, (SOLVER,)),
    (REFINER, (REFINER,)),
    (AGENT, (AGENT,)),
)


class Apart(NamedTuple):
    """What training must not have seen: held-out questions, and those of named evaluation sets."""

    held_out: Sequence[str] = ()
    benchmarks: Mapping[str, Sequence[str]] = {}


def is_verifiers_alone(mixture: MixtureConfig) -> bool:
    """Whether both verifiers, and nothing else, are learned in equal shares."""
    return mixture.roles == ROLES and len({mixture.weights[role] for role in ROLES}) == 1


def answer_row(task: Task, candidate: Candidate) -> Row:
    """Return a candidate as what its solver said when it was asked, or as what its agent did.

    Raises:
        DataError: a file says what the agent did, and not what it was asked.
    """
    if candidate.turns:
        if not candidate.turns[0].prompt:
            raise DataError(
                f"a candidate of {task.question[:60]!r}: its first turn has no prompt to learn from; add it"
            )
        stop = StopReason.COMPLETED if candidate.answer is not None else StopReason.UNPARSED
        acted = Trajectory(
            role=AGENT,
            task_id=task.id,
            candidate_id=candidate.id,
            sample_index=candidate.index,
            model=candidate.model,
            prompt_version=content_id(candidate.turns[0].prompt[0].content),
            turns=candidate.turns,
            stop_reason=stop,
        )
        return Row(task, candidate, acted)
    said = Turn(stage="solve", prompt=tuple(render_solver(task.question, task.kind)), content=candidate.text)
    trajectory = Trajectory(
        role=SOLVER,
        task_id=task.id,
        candidate_id=candidate.id,
        sample_index=candidate.index,
        model=candidate.model,
        prompt_version=solver_version(task.kind),
        turns=(said,),
        stop_reason=StopReason.COMPLETED,
    )
    return Row(task, candidate, trajectory)


def ends_right(row: Row, by: Selection) -> bool:
    """The answer that it ends with is the task's."""
    if row.trajectory.role == AGENT:
        grade = grade_trajectory(row.task, row.trajectory)
        return grade is not None and bool(grade.correct)
    return bool(row.trajectory.turns) and rule_reward(row.task, row.trajectory.turns) == 1.0


def spread(rows: Sequence[Row], by: Selection) -> list[Row]:
    """Drop those revisions of right solutions that are too many; first ones of all problems are kept first."""
    ordered = _in_rounds(shuffled(rows, by.seed))
    copied = [row for row in ordered if row.trajectory.role == REFINER and not is_mended(row)]
    dropped = {row.trajectory.key for row in copied[sum(map(is_mended, ordered)) :]}
    return [row for row in ordered if row.trajectory.key not in dropped]


def _in_rounds(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of every problem, then the second ones, and so on."""
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row.task.id, []).append(row)
    return [row for level in zip_longest(*by_problem.values()) for row in level if row is not None]


def _labelled(row: Row) -> Row:
    """Label what an agent wrote; a revision keeps the label of the solution that was revised."""
    known = row.candidate.correct is not None
    return row if known else row._replace(candidate=row.candidate.model_copy(update={"correct": True}))


def is_mended(row: Row) -> bool:
    """Whether a revision is of a wrong solution."""
    return row.trajectory.role == REFINER and row.candidate.correct is False


def writer_filters(benchmarks: Mapping[str, Sequence[str]]) -> dict[str, Filter]:
    """Return the filters of what ends in an answer of its own: its label is that answer's, not a verdict's."""
    own: dict[str, Filter] = {
        "right_answer": lambda rows, by: [_labelled(row) for row in rows if ends_right(row, by)],
        "selected": spread,
    }
    left_out = ("labelled", "non_trivial", "parsed")  # labels and verdicts are those of what verifiers review
    out: dict[str, Filter] = {}
    for name, keep in filters_with(benchmarks).items():
        mine = "right_answer" if name == "right_verdict" else name
        if name not in left_out:
            out[mine] = own.get(mine, keep)
    return out


def select_mixture(
    rows: Iterable[Row], answers: Sequence[Row], mixture: MixtureConfig, cfg: SelectConfig, apart: Apart, seed: int
) -> Selected:
    """Send each role's rows through its filters, and take shares of what they leave.

    Args:
        rows: of the store.
        answers: of the solver or the agent (`answer_row`).
        mixture: roles and shares.
        cfg: limits and filters; `max_examples` is of all roles together.
        apart: what training must not have seen.
        seed: fixes which of equal rows are kept, and the order.

    Returns:
        The rows in training order; the funnel's stages are named `role/filter`, verifiers together, then `mixture`.

    Raises:
        NothingAcceptedError: nothing is left of one of the roles.
    """
    alone, held = cfg.model_copy(update={"max_examples": None}), list(rows)
    by = Selection(alone, seed, tuple(apart.held_out), apart.benchmarks)
    chosen: dict[Role, list[Row]] = {}
    stages: list[Stage] = []
    for name, roles in LEARNED:
        wanted: list[Role] = [role for role in roles if role in mixture.roles]
        own = [row for row in (*answers, *held) if row.trajectory.role in wanted]
        found = _kept(name, own, by) if wanted else Selected([], Funnel(stages=()))
        stages += [stage.model_copy(update={"name": f"{name}/{stage.name}"}) for stage in found.funnel.stages]
        for role in wanted:
            chosen[role] = [row for row in found.rows if row.trajectory.role == role]
            if not chosen[role]:
                raise NothingAcceptedError(
                    f"mixture: nothing of {len(own)} trajectories of {role} was accepted: most fell at "
                    f"{found.funnel.worst or 'the harvest itself'}; use a stronger teacher, more problems "
                    f"(tasks.n_harvest), or mixture.weights without {role}"
                )
    mixed = shuffled(in_shares(chosen, mixture.weights, cfg.max_examples), seed)
    return Selected(mixed, Funnel(stages=(*stages, stage_of("mixture", mixed))))


def _kept(name: str, rows: Sequence[Row], by: Selection) -> Selected:
    """Send the rows of an entry of `LEARNED` through its filters."""
    apart: dict[str, Any] = {"seed": by.seed, "held_out": by.held_out, "benchmarks": by.benchmarks}
    if name == JUDGE:
        return select_judgements(rows, by.cfg, **apart)
    filters = None if name == VERIFIERS else writer_filters(by.benchmarks)
    return select(rows, by.cfg, filters=filters, **apart)


def in_shares(rows: Mapping[Role, Sequence[Row]], weights: Mapping[Role, float], cap: int | None) -> list[Row]:
    """Return as many rows of each role as its weight asks, one at least: all of the role with fewest for its weight.

    Args:
        rows: by role, at least one each, in the order of the seed.
        weights: of these roles.
        cap: of all together.
    """
    unit = min(len(own) / weights[role] for role, own in rows.items())
    if cap is not None:
        unit = min(unit, cap / sum(weights[role] for role in rows))
    counts = {role: max(1, int(unit * weights[role] + 1e-9)) for role in rows}  # rounded up they would pass the cap
    return [row for role, own in rows.items() for row in _labels_in_turn(_in_rounds(own))[: counts[role]]]


def _labels_in_turn(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with labels taking turns, so that a cut keeps their balance."""
    piles = [[row for row in rows if bool(row.candidate.correct) is label] for label in (True, False)]
    return [row for pair in zip_longest(*piles) for row in pair if row is not None]
