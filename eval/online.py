"""Selective verification at work: the graph reviews what the rule asks for, all problems side by side.

Input: problems, a reviewer, a rule. Output: how each problem ended. Reviews held from before are not made again, and
the order of a problem's candidates depends on the seed only, so a run that was killed goes the same way when it is
resumed.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.best_of_n import cluster_answers
from eval.candidates import Problem
from eval.checkers import CHECKERS
from eval.costs import total
from eval.curves import Curve, Measured, curves, share_right
from eval.held_out import Pool, Reviewer, Reviews, representatives, verdict_of
from eval.methods import SELECTIVE, Picked, Recorded, Sequential
from eval.reviews import drive_reviews, opened
from eval.selective import Item, Outcome, Rule, Selection
from eval.verifier import Verifier
from tools.progress import Progress


async def select_all(
    problems: Sequence[Problem], reviewer: Reviewer, rule: Rule, seed: int, advance: Callable[[bool], object]
) -> dict[str, Outcome]:
    """Select an answer of every problem.

    Args:
        problems: with their candidates.
        reviewer: reviews candidates; it bounds how many at once.
        rule: when to stop.
        seed: of the order in which candidates are reviewed.
        advance: called after each problem, with whether a review of it failed.

    Returns:
        How each problem ended, by its id; without those of which a review failed.

    Raises:
        ModelError, SandboxError, ToolError: too many failures in a row.
    """
    outcomes: dict[str, Outcome] = {}

    async def one(problem: Problem) -> None:
        outcome = await select_one(problem, reviewer, rule, seed)
        if outcome is not None:
            outcomes[problem.task.id] = outcome
        advance(outcome is None)

    async with asyncio.TaskGroup() as group:
        for problem in problems:
            group.create_task(one(problem))
    return outcomes


async def select_one(problem: Problem, reviewer: Reviewer, rule: Rule, seed: int) -> Outcome | None:
    """Select the answer of one problem; None where a review failed."""
    stands_for = representatives([Pool(problem.task, problem.candidates)])
    equal = CHECKERS[problem.task.kind].equal
    numbers = await asyncio.to_thread(cluster_answers, [c.answer for c in problem.candidates], equal)
    items = [Item(n, stands_for[c.id]) for c, n in zip(problem.candidates, numbers, strict=True)]
    random.Random(f"{seed}|{problem.task.id}").shuffle(items)
    by_id = {c.id: c for c in problem.candidates}
    selection, texts = Selection(items, rule), []
    while (text := selection.next_text()) is not None:
        sides = await reviewer.review(problem.task, by_id[text])
        if sides is None:
            return None
        verdict = verdict_of(by_id[text].text, sides, reviewer.context)
        selection.record(text, verdict.confidence if verdict else None)
        texts.append(text)
    return Outcome(tuple(selection.winners()), tuple(texts))


def select_problems(
    problems: Sequence[Problem], verifier: Verifier, folder: Path, rule: Rule, seed: int
) -> tuple[dict[str, Outcome], Reviews]:
    """Select an answer of every problem with a verifier; its reviews are kept in a folder.

    Returns:
        How each problem ended, and the reviews that it asked for.

    Raises:
        ConfigError, DataError, ModelError, SandboxError, ToolError: see `eval.reviews.review_problems`.
    """

    async def drive(reviewer: Reviewer, progress: Progress) -> tuple[dict[str, Outcome], Reviews]:
        progress.expect(len(problems))
        outcomes = await select_all(problems, reviewer, rule, seed, progress.advance)
        asked = {text for outcome in outcomes.values() for text in outcome.texts}
        return outcomes, {text: reviewer.reviews[text] for text in asked}

    with opened(problems, verifier, folder) as (store, held):
        return drive_reviews(store, held, verifier, drive, unit="problems")


def online_curve(
    problems: Sequence[Recorded], outcomes: Mapping[str, Outcome], n: int, resamples: int, seed: int
) -> Curve:
    """Return the one point that a run of selective verification gives: whole pools, the reviews that it asked for.

    Args:
        problems: recorded candidates, with the reviews that were made.
        outcomes: how each problem ended, by its id.
        n: candidates of the smallest pool.
        resamples: bootstrap draws over problems.
        seed: of the bootstrap.
    """
    right, cost = [], []
    for problem in problems:
        outcome = outcomes[problem.rows[0].problem]
        right.append(share_right(problem.rows, outcome.winners))
        cost.append(total(problem.texts[text][1].cost for text in outcome.texts))
    none_P = np.zeros(len(right))
    measured = Measured(np.array(right), np.array(cost, dtype=float), False, none_P, none_P)
    method = Sequential("selective (online)", lambda rows, names: Picked((), ()))
    return curves({SELECTIVE: {n: measured}}, {SELECTIVE: method}, resamples, seed)[SELECTIVE]
