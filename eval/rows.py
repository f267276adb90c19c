"""What was recorded of each candidate, one row each: the input of every selector, metric and simulation.

Input: problems with candidates and the reviews of `eval/reviews.py`; output: `Row`s, kept as `candidates.jsonl` beside
the reviews. Candidates of a problem with equal answers are in one cluster; those with the same text share one review.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from agents.records import read_jsonl
from agents.types import Frozen, Trajectory
from eval.best_of_n import cluster_answers
from eval.candidates import Problem
from eval.checkers import CHECKERS
from eval.costs import Cost, cost_of
from eval.held_out import Pool, representatives, verdict_of
from graphs.state import BidirectionalContext
from tools.errors import DataError
from tools.whole import write_whole

if TYPE_CHECKING:
    from eval.probes import Probed

ROWS = "candidates.jsonl"
Sides = Mapping[str, Trajectory]


class Row(Frozen):
    """One candidate: its final answer and cluster (None without one), label, other scores, and its review.

    `text` is the same for candidates of one text. Without a review (`reviewed` is false) or without a verdict, `passed`
    and `confidence` are None; the costs are those of the review of its text. `source` says where the verdict comes
    from: "probe" where a probe decided and there was no review. `probe_seconds` is the time a probe took to read it,
    part of `seconds` where the probe is the first stage of the verifier.
    """

    problem: str
    candidate: str
    text: str
    benchmark: str = ""
    level: str = ""
    answer: str | None = None
    cluster: int | None = None
    label: bool
    scores: dict[str, float] = Field(default_factory=dict)
    reviewed: bool = False
    passed: bool | None = None
    confidence: float | None = None
    source: str = ""
    probe_seconds: float = 0.0
    tokens: float = 0.0
    turns: float = 0.0
    tool_calls: float = 0.0
    seconds: float = 0.0

    @property
    def cost(self) -> Cost:
        """What its review cost."""
        return Cost(self.tokens, self.turns, self.tool_calls, self.seconds)


def rows_of(
    problems: Sequence[Problem],
    reviews: Mapping[str, Sides],
    context: BidirectionalContext,
    probed: "Probed | None" = None,
) -> list[list[Row]]:
    """Return the rows of each problem, in order; a candidate whose text has no review is a row without one.

    Args:
        problems: with their candidates.
        reviews: by the first candidate of each text.
        context: of the verifier.
        probed: what a probe says of them, None without one; where it decides, its verdict is the row's.
    """
    return [_rows(problem, reviews, context, probed) for problem in problems]


def _rows(
    problem: Problem, reviews: Mapping[str, Sides], context: BidirectionalContext, probed: "Probed | None"
) -> list[Row]:
    stands_for = representatives([Pool(problem.task, problem.candidates)])
    clusters = cluster_answers([c.answer for c in problem.candidates], CHECKERS[problem.task.kind].equal)
    out = []
    for candidate, cluster, scores in zip(problem.candidates, clusters, problem.scores, strict=True):
        text = stands_for[candidate.id]
        sides, read = reviews.get(text), probed.scores[text] if probed else None
        verdict = decided = probed.verdict(text) if probed else None
        if decided is None and sides:
            verdict = verdict_of(candidate.text, sides, context)
        cost = cost_of(sides.values() if sides and not decided else ())
        if probed and read and probed.band:
            cost = cost.plus(Cost(seconds=read.seconds))
        row = Row(
            problem=problem.task.id,
            candidate=candidate.id,
            text=text,
            benchmark=problem.benchmark,
            level=problem.task.level,
            answer=candidate.answer,
            cluster=cluster,
            label=bool(candidate.correct),
            scores=scores | ({"probe": read.probability} if read else {}),
            reviewed=sides is not None or decided is not None,
            passed=verdict.passed if verdict else None,
            confidence=verdict.confidence if verdict else None,
            source=verdict.source if verdict else "",
            probe_seconds=read.seconds if read else 0.0,
            **cost._asdict(),
        )
        out.append(row)
    return out


def save_rows(problems: Sequence[Sequence[Row]], path: Path) -> None:
    """Write rows as JSON lines, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, "".join(row.model_dump_json() + "\n" for rows in problems for row in rows))


def load_rows(path: Path) -> list[list[Row]]:
    """Read the rows that `save_rows` wrote, grouped by problem in order of appearance.

    Raises:
        DataError: no such file, or a line is no row.
    """
    if not path.is_file():
        raise DataError(f"no {path}; run eval.best_of_n or eval.verdicts on that folder first")
    out: dict[str, list[Row]] = {}
    for spot, record in read_jsonl(path):
        try:
            row = Row.model_validate(record)
        except ValidationError as error:
            told = error.errors(include_url=False)[0]["msg"]
            raise DataError(f"{spot}: no recorded candidate ({told}); make the file anew") from error
        out.setdefault(row.problem, []).append(row)
    if not out:
        raise DataError(f"{path} is empty; make the file anew")
    return list(out.values())
