"""First-error localisation: does the verifier name the step where a solution first goes wrong?

Input: problems of a file with `steps` and `mistake_index` (BIG-Bench Mistake), and the reviews of their first
candidate. Output: `Localisation`. Steps count from 0 here; None stands for "no mistake".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agents.types import Frozen, Trajectory
from eval.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_rows
from eval.candidates import Problem
from eval.held_out import verdict_of
from graphs.state import BidirectionalContext


class Located(NamedTuple):
    """One trace: where the first mistake is, where the verifier says it is, and whether it gave a verdict at all."""

    actual: int | None
    named: int | None
    judged: bool

    @property
    def exact(self) -> bool:
        """Whether the verifier is right: the very step, or none where there is none."""
        return self.judged and self.named == self.actual

    @property
    def near(self) -> bool:
        """Whether the step named is at most one away."""
        return self.actual is not None and self.named is not None and abs(self.named - self.actual) <= 1


class Localisation(Frozen):
    """Shares over traces; None where there are no such traces.

    `exact` is over all traces, `exact_in_wrong` and `near_in_wrong` over those with a mistake, `silent_in_clean` is the
    share of those without one in which no step is named, `constant` what naming always the same step (or none) would
    reach, `judged` the share with a verdict.
    """

    traces: int
    wrong: int
    exact: float | None
    exact_ci: Interval | None
    exact_in_wrong: float | None
    near_in_wrong: float | None
    silent_in_clean: float | None
    constant: float | None
    judged: float | None


def located(
    problems: Sequence[Problem], reviews: Mapping[str, Mapping[str, Trajectory]], context: BidirectionalContext
) -> list[Located]:
    """Return where the joint verdict sees the first mistake of every trace: the first direction that finds one wins.

    A step that the solution does not have is no step. A trace without a review was decided by a probe: it names none.
    """
    out = []
    for problem in problems:
        if problem.steps:
            sides = reviews.get(problem.candidates[0].id)
            if sides is None:
                out.append(Located(problem.first_error, None, True))
                continue
            verdict = verdict_of(problem.candidates[0].text, sides, context)
            step = verdict.first_error if verdict else None
            named = step - 1 if step is not None and 1 <= step <= len(problem.steps) else None
            out.append(Located(problem.first_error, named, verdict is not None))
    return out


def localisation(traces: Sequence[Located], resamples: int = RESAMPLES, seed: int = 0) -> Localisation:
    """Work out the shares, with a 95 % interval over traces."""
    wrong = [t for t in traces if t.actual is not None]
    clean = [t for t in traces if t.actual is None]
    commonest = Counter(t.actual for t in traces).most_common(1)
    draws = resampled_rows([str(i) for i in range(len(traces))], resamples, seed)
    return Localisation(
        traces=len(traces),
        wrong=len(wrong),
        exact=_share([t.exact for t in traces]),
        exact_ci=percentile_interval([_share([traces[i].exact for i in rows]) for rows in draws]),
        exact_in_wrong=_share([t.exact for t in wrong]),
        near_in_wrong=_share([t.near for t in wrong]),
        silent_in_clean=_share([t.judged and t.named is None for t in clean]),
        constant=commonest[0][1] / len(traces) if commonest else None,
        judged=_share([t.judged for t in traces]),
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
