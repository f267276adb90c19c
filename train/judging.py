"""The seam to a judge: what training asks of it, and where its failures become data.

A `Judge` reads a problem and a whole trajectory (every turn with its tool calls and their results; never the ground
truth) and returns a `Judgement`. Whatever can do that serves: a graph over an endpoint, a program. `train.rollout` has
the one that is there, the bidirectional verifier.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from agents.types import ErrorInfo, Turn
from tools.errors import RolloutError


class Judgement(NamedTuple):
    """What a judge says: a critique for the refiner, and a score in [0, 1] (None: it gave none)."""

    critique: str
    score: float | None


Judge = Callable[[str, Sequence[Turn]], Awaitable[Judgement | None]]  # None: the judge failed


async def ask(judge: Judge, problem: str, turns: Sequence[Turn]) -> Judgement | ErrorInfo:
    """Have a trajectory judged; a failure is data, never a score of 0.

    Args:
        judge: may raise a RolloutError.
        problem: the question alone.
        turns: of the trajectory.
    """
    try:
        said = await judge(problem, turns)
    except RolloutError as error:
        return ErrorInfo(kind=type(error).__name__, message=str(error), where="judge")
    return said or ErrorInfo(kind="ModelError", message="the judge came to no judgement", where="judge")
