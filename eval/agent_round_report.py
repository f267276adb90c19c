"""What rounds of critique do to an agent on a benchmark: pass@1 after each, what changed, and what it cost.

Input: problems and the rounds of their trajectories. Output: `RoundsReport` and its tables. Answers are graded by the
rule. A problem of which a trajectory's rounds have not come to their end (an outage) is left out, and counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from agents.final_answer import parse_final
from agents.types import Frozen, Round, Task, Turn
from eval.agent_runs import Place
from eval.checkers import grade_answer
from eval.costs import Cost, cost_of
from eval.refinement_metrics import Course, Point, course_of, made_cost, points
from eval.refining import is_done
from eval.report import Section, number, with_interval

QUALITY = ("", "pass@1", "wrong→right", "right→wrong", "accepted so far", "no verdict", "new answer")
SPENT = ("", "tokens", "prompt tokens", "turns", "tool calls", "critique: tokens", "prompt tokens", "turns")


class Spent(Frozen):
    """Means over all trajectories; one that was left alone cost nothing."""

    tokens: float
    prompt_tokens: float
    turns: float
    tool_calls: float


class AfterRound(Frozen):
    """The figures after a round; `answer` is what answering cost, `critique` what the critique before it did."""

    point: Point
    answer: Spent
    critique: Spent


class RoundsReport(Frozen):
    """All that rounds came to: one entry for the first trajectories, one after each round.

    `missing` problems are left out; `outages` counts the courses that one stopped, by kind.
    """

    judge: dict[str, Any]
    problems: int
    trajectories: int
    missing: int
    outages: dict[str, int]
    after: tuple[AfterRound, ...]


class Rated(NamedTuple):
    """How many rounds there were to be, the bootstrap's draws, and their seed."""

    rounds: int
    resamples: int
    seed: int


def rounds_report(
    tasks: Sequence[Task], courses: Mapping[Place, Sequence[Round]], judge: dict[str, Any], rated: Rated
) -> RoundsReport | None:
    """Grade what rounds came to; None where no problem's came to their end.

    Args:
        tasks: With their reference answers (ground truth).
        courses: The rounds of their trajectories, by problem and number.
        judge: Who judged, and how.
        rated: What there was to be.
    """
    by_task: dict[str, list[list[Round]]] = {task.id: [] for task in tasks}
    for (task_id, _), rounds in sorted(courses.items()):
        if task_id in by_task:
            by_task[task_id].append(list(rounds))
    whole = [t for t in tasks if by_task[t.id] and all(is_done(r, rated.rounds) for r in by_task[t.id])]
    if not whole:
        return None
    made = [(task, rounds) for task in whole for rounds in by_task[task.id]]
    labelled = [_course(task, rounds, rated.rounds) for task, rounds in made]
    found = points(labelled, rated.resamples, rated.seed)
    stopped = Counter(r.error.kind for rounds in courses.values() for r in rounds[-1:] if r.error is not None)
    return RoundsReport(
        judge=judge,
        problems=len(whole),
        trajectories=len(made),
        missing=len(tasks) - len(whole),
        outages=dict(sorted(stopped.items())),
        after=tuple(_after(point, [rounds for _, rounds in made]) for point in found),
    )


def _course(task: Task, rounds: Sequence[Round], limit: int) -> Course:
    return course_of(task.id, rounds, limit, lambda text: grade_answer(task, parse_final(text)).correct is True)


def _after(point: Point, made: Sequence[Sequence[Round]]) -> AfterRound:
    """Add to a point what answers and critiques of its round cost; before the first trajectories there is none."""
    k = point.round
    answers = [rounds[k] if k < len(rounds) else None for rounds in made]
    reviews = [rounds[k - 1].reviews if 0 < k <= len(rounds) else () for rounds in made]
    return AfterRound(
        point=point,
        answer=_spent([made_cost(r) for r in answers], [r.made if r else () for r in answers]),
        critique=_spent([cost_of(of) for of in reviews], [[t for r in of for t in r.turns] for of in reviews]),
    )


def _spent(costs: Sequence[Cost], turns: Sequence[Sequence[Turn]]) -> Spent:
    return Spent(
        tokens=fmean(c.tokens for c in costs),
        prompt_tokens=fmean(sum(turn.prompt_tokens for turn in of) for of in turns),
        turns=fmean(c.turns for c in costs),
        tool_calls=fmean(c.tool_calls for c in costs),
    )


def sections(found: RoundsReport) -> list[Section]:
    """Return two tables: pass@1 with its changes, by round; and what a round cost."""
    counts = f"{found.trajectories} trajectories of {found.problems} problems, 95 % intervals over problems"
    missing = f"; {found.missing} problems missing" if found.missing else ""
    title = f"Rounds with critiques by {found.judge['model']}: {counts}{missing}"
    spent = "Cost a trajectory by round, over all trajectories: the answer, and the critique before it"
    rows = [(_name(after.point), after) for after in found.after]
    return [
        Section(title, QUALITY, tuple((name, *_quality(after.point)) for name, after in rows)),
        Section(spent, SPENT, tuple((name, *_costs(after)) for name, after in rows)),
    ]


def notes(found: RoundsReport) -> list[str]:
    """Return what is said below the tables: the gain after the last round, and outages."""
    last = found.after[-1].point
    out = []
    if last.gain is not None:
        interval = f" ({last.gain_ci[0]:+.3f} to {last.gain_ci[1]:+.3f})" if last.gain_ci else ""
        out.append(f"pass@1 after round {last.round} less that of the first answers: {last.gain:+.3f}{interval}.")
    told = ", ".join(f"{kind} {count}" for kind, count in found.outages.items())
    return [*out, f"Rounds that an outage stopped: {told}."] if told else out


def _name(point: Point) -> str:
    return f"after round {point.round}" if point.round else "first"


def _quality(point: Point) -> tuple[str, ...]:
    passed = with_interval(point.accuracy, point.accuracy_ci)
    if not point.round:
        return passed, "", "", "", "", ""
    changes = (with_interval(point.up, point.up_ci), with_interval(point.down, point.down_ci))
    return passed, *changes, *(number(share) for share in (point.accepted, point.undecided, point.revised))


def _costs(after: AfterRound) -> tuple[str, ...]:
    def cells(spent: Spent) -> tuple[str, str, str]:
        return f"{spent.tokens:,.1f}", f"{spent.prompt_tokens:,.1f}", f"{spent.turns:.2f}"

    critique = cells(after.critique) if after.point.round else ("", "", "")
    return *cells(after.answer), f"{after.answer.tool_calls:.2f}", *critique
