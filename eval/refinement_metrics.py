"""What refinement does to accuracy, round by round: pure functions over recorded rounds and labels.

Input: one `Course` a solution: its labels after 0, 1, … K rounds, what each round did, what it cost. Output: one
`Point` a round, with 95 % bootstrap intervals over problems. Point 0 is the first solutions; round k is the review of
solution k − 1 and its revision; a solution that was left alone stays what it is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from agents.types import Frozen, Round
from eval.bootstrap import Interval, percentile_interval, resampled_rows
from eval.costs import Cost, cost_of


class Course(NamedTuple):
    """How one solution fared: `right` has K + 1 labels; the others K entries, one a round."""

    problem: str
    right: tuple[bool, ...]
    accepted: tuple[bool, ...]  # by this round's review or an earlier one
    undecided: tuple[bool, ...]  # likewise: a review came to no verdict
    revised: tuple[bool, ...]  # in this round
    first_cost: Cost
    costs: tuple[Cost, ...]


class Point(Frozen):
    """After one round: shares of all solutions, and the mean cost of the round for a solution.

    `up`: wrong before the round and right after it (Δ↑), `down`: the other way (Δ↓); `gain`: accuracy less that of the
    first solutions. None at round 0, where there is nothing to speak of.
    """

    round: int
    accuracy: float
    accuracy_ci: Interval | None
    up: float | None = None
    up_ci: Interval | None = None
    down: float | None = None
    down_ci: Interval | None = None
    gain: float | None = None
    gain_ci: Interval | None = None
    accepted: float | None = None
    undecided: float | None = None
    revised: float | None = None
    tokens: float
    turns: float
    tool_calls: float
    seconds: float


def course_of(problem: str, rounds: Sequence[Round], k: int, is_right: Callable[[str], bool]) -> Course:
    """Read the course of a solution off its rounds.

    Args:
        problem: The problem's name: what is resampled.
        rounds: What the graph kept, at least the first one.
        k: Rounds that were allowed.
        is_right: Labels a solution.
    """
    right = [is_right(r.solution) for r in rounds]
    outcomes = [r.outcome for r in rounds]
    revised = [later.outcome != "unrevised" for later in rounds[1:]]
    costs = [
        cost_of(r.reviews).plus(made_cost(rounds[i + 1] if i + 1 < len(rounds) else None))
        for i, r in enumerate(rounds[:k])
    ]
    return Course(
        problem=problem,
        right=tuple(right + [right[-1]] * (k + 1 - len(right))),
        accepted=tuple("accepted" in outcomes[: i + 1] for i in range(k)),
        undecided=tuple("no_verdict" in outcomes[: i + 1] for i in range(k)),
        revised=tuple(revised + [False] * (k - len(revised))),
        first_cost=made_cost(rounds[0]),
        costs=tuple(costs + [Cost()] * (k - len(costs))),
    )


def made_cost(made: Round | None) -> Cost:
    """Return what writing a round's solution cost; nothing where it was given."""
    turns = made.made if made else ()
    tokens, calls = sum(turn.completion_tokens for turn in turns), sum(len(turn.tool_calls) for turn in turns)
    return Cost(tokens, len(turns), calls, sum(turn.seconds for turn in turns))


def points(courses: Sequence[Course], resamples: int, seed: int) -> tuple[Point, ...]:
    """Work out every round's point.

    Args:
        courses: At least one, all with the same number of rounds.
        resamples: Bootstrap draws over problems.
        seed: Of the draws.
    """
    right_NK = np.array([c.right for c in courses], dtype=float)
    draws = list(resampled_rows([c.problem for c in courses], resamples, seed))

    def mean(values_N: np.ndarray) -> tuple[float, Interval | None]:
        return float(values_N.mean()), percentile_interval([float(values_N[rows].mean()) for rows in draws])

    accuracy, interval = mean(right_NK[:, 0])
    first = _mean_cost([c.first_cost for c in courses])
    out = [Point(round=0, accuracy=accuracy, accuracy_ci=interval, **first._asdict())]
    for k in range(1, right_NK.shape[1]):
        before_N, after_N = right_NK[:, k - 1], right_NK[:, k]
        found = {
            "accuracy": mean(after_N),
            "up": mean((1 - before_N) * after_N),
            "down": mean(before_N * (1 - after_N)),
            "gain": mean(after_N - right_NK[:, 0]),
        }
        values = {name: value for name, (value, _) in found.items()}
        intervals = {f"{name}_ci": ci for name, (_, ci) in found.items()}
        shares = {
            name: float(np.mean([getattr(c, name)[k - 1] for c in courses]))
            for name in ("accepted", "undecided", "revised")
        }
        cost = _mean_cost([c.costs[k - 1] for c in courses])
        out.append(Point.model_validate({"round": k} | values | intervals | shares | cost._asdict()))
    return tuple(out)


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(*(float(value) for value in np.mean(costs, axis=0)))
