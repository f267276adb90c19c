"""What the judge's graph is given, holds and gives back. No ground truth is in any of it.

Input: a problem, and what an agent did on it: the turns of its trajectory, or a solution alone, which is one turn.
"""

import operator
from collections.abc import Sequence
from typing import Annotated, NotRequired

from langchain_core.messages import BaseMessage
from pydantic import Field
from typing_extensions import TypedDict

from agents.plain_roles import judge_version
from agents.protocol import ParseFailure
from agents.types import ErrorInfo, Judgement, StopReason, Trajectory, Turn, content_id
from graphs.state import ModelContext, record_turn
from tools.errors import DataError

MAX_TRANSCRIPT = 24_000  # characters


class JudgeContext(ModelContext):
    """Settings of a judge."""

    model: str = "scripted-judge"
    max_tokens: int = Field(default=2048, gt=0, description="tokens of a reply")
    max_trajectory_tokens: int = Field(default=32768, gt=0, description="prompt and reply of the last turn together")
    max_turns: int = Field(default=2, ge=1, le=2, description="2: a malformed reply is asked for once more; 1: not")
    max_transcript: int = Field(
        default=MAX_TRANSCRIPT, gt=0, description="characters of the judged trajectory; more are cut from its middle"
    )

    @property
    def version(self) -> str:
        """The version of what a judge is shown: part of a trajectory's key."""
        return content_id(judge_version(self.style), self.max_transcript)


class JudgeInput(TypedDict):
    """A problem with the turns of a trajectory, or with a solution. `trajectory_id` names the chat session."""

    problem: str
    turns: NotRequired[Sequence[Turn]]
    solution: NotRequired[str]
    trajectory_id: NotRequired[str]


class JudgeOutput(TypedDict):
    """The judgement, None where the judge failed; `error` then says how. `trajectory` is the judge's own.

    The judgement's critique gives no answer away; the trajectory's turns are as the model wrote them.
    """

    judgement: Judgement | None
    error: ErrorInfo | None
    trajectory: Trajectory


class JudgeState(TypedDict):
    """The judge at work: `asked` are its own turns, `fault` is what is wrong with the last reply."""

    problem: str
    turns: NotRequired[Sequence[Turn]]
    solution: NotRequired[str]
    trajectory_id: NotRequired[str]
    messages: Annotated[list[BaseMessage], operator.add]
    asked: Annotated[list[Turn], record_turn]
    started: NotRequired[float]  # time.monotonic(), seconds
    fault: NotRequired[ParseFailure | None]
    outcome: NotRequired[Judgement]
    stop: NotRequired[StopReason]
    judgement: NotRequired[Judgement | None]
    error: NotRequired[ErrorInfo | None]
    trajectory: NotRequired[Trajectory]


def transcript_for(tokens: int) -> int:
    """Return how many characters of a trajectory a judge is shown whose conversation may have so many tokens.

    Two a token, so that there is room for the reply; data, rollouts and evaluation of one student show the same.
    """
    return min(2 * tokens, MAX_TRANSCRIPT)


def judged_turns(state: JudgeState) -> list[Turn]:
    """Return the turns that are to be judged.

    Raises:
        DataError: there are none.
    """
    given = [Turn.model_validate(turn) for turn in state.get("turns") or ()]  # an API caller sends plain JSON
    if given:
        return given
    if "solution" not in state:
        raise DataError("judge: there is nothing to judge; give `turns` or `solution`")
    return [Turn(stage="solve", prompt=(), content=state["solution"])]
