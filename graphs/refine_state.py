"""What the refinement graph is given, holds and gives back, and what a critic is.

No ground truth is in any of it: a problem, solutions, and what critics say of them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from langchain_core.language_models.chat_models import BaseChatModel
from pydantic import Field, InstanceOf
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from agents.roles import Style
from agents.types import ErrorInfo, Frozen, Round, Trajectory, Turn
from graphs.judge_state import MAX_TRANSCRIPT, JudgeContext
from graphs.react_state import ReactContext
from graphs.state import BidirectionalContext, Share

Stop = Literal["accepted", "no_verdict", "unrevised", "rounds", "error"]


class Attempt(NamedTuple):
    """What a critic is shown: the problem, the solution, all turns that led to it (at least one), a session name."""

    problem: str
    solution: str
    turns: tuple[Turn, ...]
    name: str


class Critique(Frozen):
    """What a critic says of a solution.

    `accepted` leaves it alone; None: the critic came to no verdict. `text` is for the refiner (empty: nothing is said);
    the graph withholds answers from it and bounds it. `reviews` are the trajectories that it was made from. `error`
    says that the critic failed; then the rest counts for nothing.
    """

    accepted: bool | None
    text: str = ""
    reviews: tuple[Trajectory, ...] = ()
    error: ErrorInfo | None = None


class RefineContext(BidirectionalContext):
    """Settings of a refinement: the verifier's (the critic), the refiner's, the solver's.

    With the judge as critic this is Reagent-C, of answers in one reply or of an agent's trajectories (`agent`); the
    judge is asked with the verifier's prompt style and limits. `critique`, a live function, takes the place of the
    critic that `critic` names. It is given the attempt and this context, and may raise a RolloutError.
    """

    rounds: int = Field(default=3, ge=0, description="reviews, each followed by a revision unless it accepts")
    critic: Literal["verifier", "judge", "none"] = Field(
        default="verifier", description="none: revise without a critique"
    )
    judge_model: str = "scripted-judge"
    judge_base_url: str | None = None
    judge_style: Style | None = Field(default=None, description="none: as style")
    judge_temperature: float = Field(default=0.0, ge=0)
    judge_max_tokens: int = Field(default=2048, gt=0)
    judge_accepts: Share = Field(
        default=0.5, description="a score above it leaves the solution alone; 1: every solution is revised"
    )
    max_transcript: int = Field(
        default=MAX_TRANSCRIPT, gt=0, description="characters of a trajectory that the judge is shown"
    )
    max_critique: int = Field(default=4000, gt=0, description="characters of a critique; the middle is left out")
    refiner_model: str = "scripted-refiner"
    refiner_base_url: str | None = None
    refiner_style: Style | None = Field(default=None, description="none: as style")
    refiner_temperature: float = Field(default=0.0, ge=0)
    refiner_max_tokens: int = Field(default=2048, gt=0)
    solver_model: str = "scripted-solver"
    solver_base_url: str | None = None
    solver_temperature: float = Field(default=0.0, ge=0)
    solver_max_tokens: int = Field(default=2048, gt=0)
    agent: ReactContext | None = Field(
        default=None, description="given: it answers and revises with its tools, in place of solver and refiner"
    )
    refiner: SkipJsonSchema[InstanceOf[BaseChatModel] | None] = Field(default=None, exclude=True, repr=False)
    solver: SkipJsonSchema[InstanceOf[BaseChatModel] | None] = Field(default=None, exclude=True, repr=False)
    judge: SkipJsonSchema[InstanceOf[BaseChatModel] | None] = Field(default=None, exclude=True, repr=False)
    critique: SkipJsonSchema[Callable[[Attempt, Any], Awaitable[Critique]] | None] = Field(
        default=None, exclude=True, repr=False
    )

    @property
    def judging(self) -> JudgeContext:
        """The judge's own settings."""
        return JudgeContext(
            model=self.judge_model,
            base_url=self.judge_base_url,
            temperature=self.judge_temperature,
            max_tokens=self.judge_max_tokens,
            max_trajectory_tokens=self.max_trajectory_tokens,
            max_transcript=self.max_transcript,
            max_seconds=self.max_seconds,
            style=self.judge_style or self.style,
            chat=self.judge,
        )


Critic = Callable[[Attempt, RefineContext], Awaitable[Critique]]


def record_rounds(held: Sequence[Round], new: Sequence[Round]) -> list[Round]:
    """Reducer of `rounds`: by index; a later state of a round replaces the earlier one."""
    found = {r.index: r for r in (Round.model_validate(given) for given in [*held, *new])}
    return [found[index] for index in sorted(found)]


class RefineInput(TypedDict):
    """A problem; a first solution (default: the solver writes one); rounds made before, to go on from."""

    problem: str
    solution: NotRequired[str]
    rounds: NotRequired[list[Round]]
    trajectory_id: NotRequired[str]


class RefineOutput(TypedDict):
    """The last solution, whether it was accepted, why the loop ended, every round, and the error that ended it."""

    solution: str
    accepted: bool
    stop: Stop
    rounds: list[Round]
    error: ErrorInfo | None


class RefineState(TypedDict):
    """The refinement at work."""

    problem: str
    solution: NotRequired[str]
    trajectory_id: NotRequired[str]
    rounds: Annotated[list[Round], record_rounds]
    accepted: NotRequired[bool]
    stop: NotRequired[Stop]
    error: NotRequired[ErrorInfo | None]
