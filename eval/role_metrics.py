"""How good a model is in roles other than the verifiers': pure functions over records of what it did.

Input: one `Answered` a problem (a first answer, its critique, its revision), the judge's rows, one `Acted` a problem.
Output: `RoleMetrics`, with 95 % bootstrap intervals over problems. A role that is not learned has None, never 0. A
limit is the model's own doing: where it left no revision, the first answer stands; where it left no answer, that is a
wrong one. Outages are no records of these: they do not come here.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from agents.types import Frozen, Round, Trajectory
from eval.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_rows
from eval.costs import cost_of
from eval.judge_metrics import Judged, JudgeMetrics, judge_metrics
from eval.refinement_metrics import Course, course_of, points

Answerer = Literal["solver", "agent"]


class Answered(NamedTuple):
    """An answer to a problem and what became of it; tokens are None where nothing was written, or nobody asked."""

    course: Course
    first_tokens: int | None = None
    critique_tokens: int | None = None
    revision_tokens: int | None = None


class Acted(NamedTuple):
    """An agent's trajectory: its problem, whether the final answer is right, the tokens that it wrote."""

    problem: str
    right: bool
    tokens: int


class RoleMetrics(Frozen):
    """Metrics of a model in its other roles; None where a role is not learned, or there is nothing to measure.

    `first` and `refined` are accuracies of the same `answers` (one a problem), `gain` is their difference, `gained` the
    share that went from wrong to right, `lost` the other way; `revised` counts the answers that were rewritten,
    `uncriticised` those that the critic came to no verdict on, so that they stand. `answerer` says whose these answers
    are: the solver's and the refiner's, or the agent's, first and again. `agent` is the accuracy of the agent's final
    answers in `trajectories`, where it does not answer there. Tokens are means over what was written: a first answer
    (an agent's: all its steps), the critique of one (by whoever the critic is), a revision without its critique, a
    trajectory; those of a judgement are among the judge's own metrics. `ci` holds the intervals by name.
    """

    answerer: Answerer | None = None
    answers: int | None = None
    revised: int | None = None
    uncriticised: int | None = None
    first: float | None = None
    refined: float | None = None
    gain: float | None = None
    gained: float | None = None
    lost: float | None = None
    judge: JudgeMetrics | None = None
    trajectories: int | None = None
    agent: float | None = None
    first_tokens: float | None = None
    critique_tokens: float | None = None
    revision_tokens: float | None = None
    agent_tokens: float | None = None
    ci: dict[str, Interval | None] = Field(default_factory=dict)


def answered_of(problem: str, rounds: Sequence[Round], refines: bool, is_right: Callable[[str], bool]) -> Answered:
    """Read an answer off the rounds of its refinement.

    Args:
        problem: The problem's name: what is resampled.
        rounds: What the graph kept, at least the first one; no failure among them.
        refines: Whether the answer was to be refined, once.
        is_right: Labels a solution.
    """
    first, second = rounds[0], rounds[1] if len(rounds) > 1 else None
    return Answered(
        course=course_of(problem, rounds, int(refines), is_right),
        first_tokens=_written(first),
        critique_tokens=int(cost_of(first.reviews).tokens) if first.reviews else None,
        revision_tokens=_written(second),
    )


def _written(found: Round | None) -> int | None:
    return sum(turn.completion_tokens for turn in found.made) if found and found.made else None


def acted_of(problem: str, right: bool, made: Trajectory) -> Acted:
    """Return the row of an agent's trajectory."""
    return Acted(problem, right, made.completion_tokens)


def role_metrics(
    answered: Sequence[Answered] = (),
    judged: Sequence[Judged] = (),
    acted: Sequence[Acted] = (),
    *,
    answerer: Answerer = "solver",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> RoleMetrics:
    """Work out the metrics of a model.

    Args:
        answered: What the solver wrote, and the refiner, or the agent twice; all with or all without a refinement.
        judged: One row a judgement.
        acted: What the agent came to.
        answerer: Who wrote what is in `answered`.
        resamples: Bootstrap draws over problems; 0 for no intervals.
        seed: Of the draws.
    """
    found = _of_answers(answered, resamples, seed) | _of_agents(acted, resamples, seed)
    judge = judge_metrics(judged, resamples=resamples, seed=seed) if judged else None
    values = {name: value for name, (value, _) in found.items()}
    intervals = {name: interval for name, (_, interval) in found.items() if interval is not None}
    rest = {"judge": judge, "ci": intervals, "answerer": answerer if answered else None}
    return RoleMetrics.model_validate(values | _tokens(answered, acted) | rest)


Measured = tuple[float | None, Interval | None]


def _of_answers(answered: Sequence[Answered], resamples: int, seed: int) -> dict[str, Measured]:
    if not answered:
        return {}
    first, *later = points([a.course for a in answered], resamples, seed)
    out: dict[str, Measured] = {"answers": (len(answered), None), "first": (first.accuracy, first.accuracy_ci)}
    if not later:
        return out
    after = later[-1]
    return out | {
        "revised": (sum(any(a.course.revised) for a in answered), None),
        "uncriticised": (sum(any(a.course.undecided) for a in answered), None),
        "refined": (after.accuracy, after.accuracy_ci),
        "gain": (after.gain, after.gain_ci),
        "gained": (after.up, after.up_ci),
        "lost": (after.down, after.down_ci),
    }


def _of_agents(acted: Sequence[Acted], resamples: int, seed: int) -> dict[str, Measured]:
    if not acted:
        return {}
    right_N = np.array([a.right for a in acted], dtype=float)
    draws = [float(right_N[rows].mean()) for rows in resampled_rows([a.problem for a in acted], resamples, seed)]
    return {"trajectories": (len(acted), None), "agent": (float(right_N.mean()), percentile_interval(draws))}


def _tokens(answered: Sequence[Answered], acted: Sequence[Acted]) -> dict[str, float | None]:
    return {
        "first_tokens": _mean([a.first_tokens for a in answered]),
        "critique_tokens": _mean([a.critique_tokens for a in answered]),
        "revision_tokens": _mean([a.revision_tokens for a in answered]),
        "agent_tokens": _mean([a.tokens for a in acted]),
    }


def _mean(counts: Sequence[int | None]) -> float | None:
    known = [count for count in counts if count is not None]
    return fmean(known) if known else None


def measures(found: RoleMetrics) -> dict[str, Measured]:
    """Return what a report shows, by the name of its row: value and interval; counts are integers."""
    verdicts = found.judge.verdicts if found.judge else None

    def of(name: str) -> Measured:
        return getattr(found, name), found.ci.get(name)

    def judged(name: str) -> Measured:
        return (getattr(verdicts, name), verdicts.ci.get(name)) if verdicts else (None, None)

    return {
        "answers": of("answers"),
        "first right": of("first"),
        "refined right": of("refined"),
        "refined - first": of("gain"),
        "wrong to right": of("gained"),
        "right to wrong": of("lost"),
        "rewritten": of("revised"),
        "without critique": of("uncriticised"),
        "judgements": judged("n"),
        "judge AUROC": judged("auroc"),
        "judge ECE": judged("ece"),
        "judge Brier": judged("brier"),
        "judge format": judged("format_rate"),
        "trajectories": of("trajectories"),
        "agent right": of("agent"),
        "tokens/answer": of("first_tokens"),
        "tokens/critique": of("critique_tokens"),
        "tokens/revision": of("revision_tokens"),
        "tokens/judgement": (found.judge.tokens if found.judge else None, None),
        "tokens/trajectory": of("agent_tokens"),
    }
