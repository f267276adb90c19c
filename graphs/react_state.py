"""What the agent's graph is given, holds and gives back. No ground truth is in any of it: a question, and turns."""

import operator
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import BaseMessage
from pydantic import Field
from typing_extensions import TypedDict

from agents.plain_roles import Earlier
from agents.types import ErrorInfo, StopReason, Trajectory, Turn
from graphs.state import RunContext, record_turn
from tools.registry import ToolsConfig
from tools.sections import SearchConfig

OpenTool = Literal["python", "search", "browse"]


class ReactContext(RunContext):
    """Settings of one run of the agent; the limits are those that Reagent's code trains with.

    It evaluates with 40 steps and 24,477 tokens. `enabled` and `corpus` say which tools are opened where Python gives
    no live ones (`tools`): only those that read nothing of this machine but the corpus named.
    """

    model: str = "scripted-agent"
    max_tokens: int = Field(default=2048, gt=0, description="tokens of one step")
    max_turns: int = Field(default=13, gt=0, description="steps: model calls")
    max_tool_calls: int = Field(default=26, ge=0, description="a step may hold several calls")
    max_trajectory_tokens: int = Field(default=27384, gt=0, description="prompt and reply of the last step together")
    max_seconds: float = Field(default=1800.0, gt=0)
    enabled: tuple[OpenTool, ...] = Field(default=("python",), min_length=1, description="search needs a corpus")
    corpus: str | None = Field(default=None, description="of search: a JSONL file of passages, or a folder of texts")

    @property
    def tool_settings(self) -> ToolsConfig:
        """Which tools are opened where no live ones are given."""
        return ToolsConfig(enabled=self.enabled, search=SearchConfig(corpus=self.corpus))


class ReactInput(TypedDict):
    """A question, and the attempt to mend, if there is one.

    `trajectory_id` names its chat and sandbox session (default: a fresh uuid).
    """

    problem: str
    earlier: NotRequired[Earlier]
    trajectory_id: NotRequired[str]


class ReactOutput(TypedDict):
    """The trajectory, and its final answer (None: it came to none); the caller fills the ids of task and sample."""

    trajectory: Trajectory
    answer: str | None


class ReactState(ReactInput):
    """The agent at work. `stop` is set by the node that ends it."""

    messages: Annotated[list[BaseMessage], operator.add]
    turns: Annotated[list[Turn], record_turn]
    started: float  # time.monotonic(), seconds
    stop: NotRequired[StopReason]
    error: NotRequired[ErrorInfo]
    trajectory: NotRequired[Trajectory]
    answer: NotRequired[str | None]


Update = dict[str, Any]
