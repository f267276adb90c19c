"""What the graphs share: contexts (settings of a run), and states with their reducers.

A context is a pydantic model: its plain fields are what Studio shows and an API caller sets; live objects (a chat
model, tools, functions) are for Python callers, hidden from the JSON schema. Where a live object is missing, it is
resolved from the plain fields: see `graphs/opened.py`.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NotRequired, Self

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, model_validator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict  # pydantic makes schemas of typing's from Python 3.12 only

from agents.confidence import Method
from agents.roles import Mode, Style, prompt_version
from agents.types import (
    ROLES,
    ErrorInfo,
    Role,
    StopReason,
    Task,
    Trajectory,
    Turn,
    Verdict,
    VerifierRole,
    content_id,
)
from tools.base import Tool, ToolResult
from tools.registry import ToolsConfig

Share = Annotated[float, Field(ge=0, le=1)]
Aggregation = Literal["weighted", "mean", "min", "product"]


class ModelContext(BaseModel):
    """Settings of whoever is asked: a model and its limits. `base_url` may hold several URLs, comma-separated."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str
    base_url: str | None = None
    temperature: float = Field(default=0.0, ge=0)
    max_tokens: int = Field(default=512, gt=0, description="tokens of one turn")
    max_trajectory_tokens: int = Field(default=16384, gt=0, description="prompt and reply of the last turn together")
    max_seconds: float = Field(default=600.0, gt=0)
    style: Style = Field(default="compact", description="full is for Qwen3-class models")
    chat: SkipJsonSchema[InstanceOf[BaseChatModel] | None] = Field(default=None, exclude=True, repr=False)


class RunContext(ModelContext):
    """Settings of a model that takes turns and calls tools."""

    max_turns: int = Field(default=12, gt=0)
    max_tool_calls: int = Field(default=3, ge=0)
    tools: SkipJsonSchema[dict[str, InstanceOf[Tool]] | None] = Field(default=None, exclude=True, repr=False)

    @property
    def tool_settings(self) -> ToolsConfig:
        """Which tools are opened where no live ones are given."""
        return ToolsConfig()


class VerifierContext(RunContext):
    """Settings of one verifier run.

    `tools` can all be called, but only the system prompt of style "full" describes them: the compact one names python.
    """

    model: str = "scripted-teacher"
    top_logprobs: int | None = Field(
        default=20, ge=1, description="alternatives a token of the verdict; none: not asked"
    )
    confidence: Method = Field(
        default="auto",
        description="logprobs of the verdict as generated, forced_choice (one more request), sampled (mean of more "
        "verdicts); auto: the first of them that an endpoint gives, none where top_logprobs is none",
    )
    verdict_samples: int = Field(default=8, gt=0, description="verdicts that are sampled for the confidence")
    use_plan: bool = Field(default=True, description="plan the review before it; off: an ablation")
    use_tools: bool = Field(default=True, description="check with tools; off: an ablation")
    single_pass: bool = Field(default=False, description="one turn that ends in a verdict (GenRM): no plan, no tools")
    early_stop: bool = Field(default=False, description="go to the verdict once a check or a finding refutes a step")

    @property
    def mode(self) -> Mode:
        """Which parts of a review there are; it chooses the prompts."""
        return Mode(self.use_plan, self.use_tools, self.single_pass)

    @property
    def has_tools(self) -> bool:
        """Whether a review may call tools at all."""
        return self.use_tools and not self.single_pass

    @property
    def call_limit(self) -> int:
        """Tool calls that a trajectory may make."""
        return self.max_tool_calls if self.has_tools else 0

    def version_of(self, role: str) -> str:
        """Return the version of what a role is shown: part of a trajectory's key."""
        version = prompt_version(role, self.style, self.mode)
        return content_id(version, "early_stop") if self.early_stop else version


class BidirectionalContext(VerifierContext):
    """Settings of both directions and of how their verdicts are joined."""

    aggregation: Aggregation = "weighted"
    forward_weight: Share = Field(default=0.7, description="of forward's confidence in the weighted mean")
    samples: int = Field(default=1, gt=0, description="reviews a direction, averaged; more than 1 needs a temperature")
    directions: Literal["both", "forward", "backward"] = Field(default="both", description="one alone: an ablation")
    cascade: tuple[Share, Share] | None = Field(
        default=None, description="[low, high]: backward is asked where forward's confidence lies inside; none: always"
    )
    reconcile: bool = Field(default=False, description="where they disagree, each reads the other's review once")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.directions != "both" and (self.cascade or self.reconcile):
            raise ValueError("cascade and reconcile need both directions: set directions to both, or leave them out")
        if self.cascade and self.cascade[0] > self.cascade[1]:
            raise ValueError("cascade should be [low, high] with low at most high, such as [0.2, 0.8]")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples above 1 would all be the same at temperature 0: set a temperature, such as 0.7")
        return self


class TeacherContext(VerifierContext):
    """Settings of the data engine: the verifiers', and the solver's.

    `label(task, text)` says whether a solution is right (None: cannot be told); it is called in a thread. Without it
    the last numbers are compared. Nothing is asked for the sake of confidence: selection goes by verdicts.
    """

    confidence: Method = "logprobs"

    solver_model: str = "scripted-solver"
    solver_base_url: str | None = None
    solver_temperature: float = Field(default=1.0, ge=0)
    solver_max_tokens: int = Field(default=2048, gt=0)
    k: int = Field(default=8, gt=0, description="candidates sampled a problem")
    n: int = Field(default=1, gt=0, description="trajectories a candidate and role")
    solver: SkipJsonSchema[InstanceOf[BaseChatModel] | None] = Field(default=None, exclude=True, repr=False)
    label: SkipJsonSchema[Callable[[Task, str], bool | None] | None] = Field(default=None, exclude=True, repr=False)


def record_turn(held: list[Turn], new: Turn | Sequence[ToolResult]) -> list[Turn]:
    """Reducer of `turns`: a turn is appended; tool results fill the last turn."""
    if isinstance(new, Turn):
        return [*held, new]
    return [*held[:-1], held[-1].model_copy(update={"results": tuple(new)})] if new else held


def record_reviews(held: list[Trajectory], new: Sequence[Trajectory]) -> list[Trajectory]:
    """Reducer of `reviews`: by role and sample, in this order; a later state of a review replaces the earlier one."""
    found = {(ROLES.index(r.role), r.sample_index): r for r in [*held, *new]}
    return [found[place] for place in sorted(found)]


class VerifierInput(TypedDict):
    """What a verifier is given. `trajectory_id` names its chat and sandbox session (default: a fresh uuid)."""

    problem: str
    solution: str
    role: VerifierRole
    trajectory_id: NotRequired[str]


class VerifierOutput(TypedDict):
    """What a verifier gives back; the caller fills the ids of task, candidate and sample."""

    trajectory: Trajectory


class VerifierState(VerifierInput):
    """The verifier at work. `stop` is set by the node that ends it, `outcome` is the verdict given."""

    messages: Annotated[list[BaseMessage], operator.add]
    turns: Annotated[list[Turn], record_turn]
    started: float  # time.monotonic(), seconds
    stop: NotRequired[StopReason]
    error: NotRequired[ErrorInfo]
    outcome: NotRequired[Verdict]
    trajectory: NotRequired[Trajectory]


class BidirectionalInput(TypedDict):
    """One problem with one solution."""

    problem: str
    solution: str
    trajectory_id: NotRequired[str]


class BidirectionalOutput(TypedDict):
    """What the reviews came to.

    `asked` names the directions that were asked, in order: one that was not (cascade, `directions`) did not fail, and
    the joint verdict is then the other's own. `forward` and `backward` are the first samples (None: not asked),
    `reviews` are all of them in order. `verdict` is None where a direction that was asked gave none.
    """

    asked: list[Role]
    forward: Trajectory | None
    backward: Trajectory | None
    reviews: list[Trajectory]
    verdict: Verdict | None


class BidirectionalState(BidirectionalInput):
    """The bidirectional verifier at work."""

    bases: Annotated[dict[str, str], operator.or_]  # role to what the names of its sessions begin with
    reviews: Annotated[list[Trajectory], record_reviews]
    reconciled: NotRequired[bool]
    asked: NotRequired[list[Role]]
    forward: NotRequired[Trajectory | None]
    backward: NotRequired[Trajectory | None]
    verdict: NotRequired[Verdict | None]
