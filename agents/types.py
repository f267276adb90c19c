"""The one vocabulary: what flows between samplers, graphs, the store, training and evaluation.

A leaf (stdlib, pydantic, `tools.base`). Everything is a frozen pydantic model; token counts, conversations and flags
are derived properties, never stored twice. `Task.answer` and `Candidate.correct` are ground truth: graphs get
`question` and `text` only.
"""

import hashlib
from enum import StrEnum
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from tools.base import ToolCall, ToolResult

VerifierRole = Literal["forward_verifier", "backward_verifier"]
Role = Literal["forward_verifier", "backward_verifier", "judge", "solver", "refiner", "agent"]
Kind = Literal["math", "qa", "short", "program"]  # of a task: how its answers are compared
ROLES: tuple[VerifierRole, ...] = get_args(VerifierRole)  # the two directions of a review
EVERY_ROLE: tuple[Role, ...] = get_args(Role)


def content_id(*parts: object) -> str:
    """Return a 16-digit hexadecimal hash of the parts, the same on every machine."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).hexdigest()[:16]


class Frozen(BaseModel):
    """Base: immutable, unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StopReason(StrEnum):
    """Why a trajectory ended. Everything but `ERROR` is the model's own doing; limits are not errors."""

    COMPLETED = "completed"  # the verdict, or an agent's final answer, was given and parsed
    UNPARSED = "unparsed"  # the last turn does not parse
    LENGTH = "length"  # a turn was cut at its token limit
    MAX_TURNS = "max_turns"
    MAX_TOOL_CALLS = "max_tool_calls"
    MAX_TOKENS = "max_tokens"  # the trajectory's token limit
    MAX_SECONDS = "max_seconds"
    ERROR = "error"  # infrastructure: see Trajectory.error


class Candidate(Frozen):
    """A proposed solution. `correct` is the label (ground truth, never shown), `answer` the final one as extracted.

    `turns` are what an agent did to come to it; its `text` is their transcript then.
    """

    task_id: str
    index: int = Field(ge=0)
    text: str
    turns: "tuple[Turn, ...]" = ()
    answer: str | None = None
    correct: bool | None = None
    model: str = ""

    @property
    def id(self) -> str:
        """Content hash of task, sample index and text."""
        return content_id(self.task_id, self.index, self.text)


class Task(Frozen):
    """One problem. `answer`, `aliases` (other right answers) and `metadata` are ground truth and its kin.

    No prompt of a verifier or an agent holds them. `kind` says how answers are compared: as mathematics, as short texts
    (qa), as numbers, lists or words (short), or by running them. `candidates` are solutions that the source file holds.
    """

    question: str
    answer: str | None = None
    aliases: tuple[str, ...] = ()
    kind: Kind = "math"
    source: str = ""  # e.g. "reasoning_gym:gsm_symbolic"
    level: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()

    @property
    def id(self) -> str:
        """Content hash of the question, white space folded: the same problem from two sources is one problem."""
        return task_id(self.question)


def task_id(question: str) -> str:
    """Return the content hash of a question with white space folded."""
    return content_id(" ".join(question.split()))


class Message(Frozen):
    """A message that is not the policy's: system, user, or a tool's observation."""

    role: Literal["system", "user", "tool", "assistant"]
    content: str


class ErrorInfo(Frozen):
    """A failure of the infrastructure as data: class name, message, and where it happened."""

    kind: str
    message: str
    where: str = ""


class Turn(Frozen):
    """One model call and the reply to it.

    `prompt` holds the messages added since the previous assistant message. `prompt_ids` are the token ids of the whole
    conversation as sent, `completion_ids` those of the reply (its end token included), `logprobs` the log-probability
    of each completion token when sampled; all None where the endpoint gives none. `results` are those of `tool_calls`.
    """

    stage: str
    prompt: tuple[Message, ...]
    content: str
    reasoning: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_ids: tuple[int, ...] | None = None
    completion_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()
    seconds: float = 0.0


class StepFinding(Frozen):
    """What a review says of one step of the solution; steps count from 1, as the solution numbers them."""

    step: int = Field(ge=0)
    ok: bool
    note: str = ""


class Verdict(Frozen):
    """A typed grading result.

    `score` is p(true) / (p(true) + p(false)) in [0, 1], None where no probability could be had; `source` says where it
    comes from. `critique` is the review's text: what the validate stage found. `extra_tokens` were written to get the
    score, beyond the trajectory's turns (a forced choice, samples). `findings` are the critique's, step by step, where
    it is written that way.
    """

    passed: bool
    score: float | None = None
    source: Literal["logprobs", "forced_choice", "samples", "verdict", "aggregate", "probe", "judge"] = "verdict"
    critique: str = ""
    extra_tokens: int = 0
    findings: tuple[StepFinding, ...] = ()

    @property
    def first_error(self) -> int | None:
        """The number of the first step found wrong, None where none was."""
        return min((finding.step for finding in self.findings if not finding.ok), default=None)

    @property
    def confidence(self) -> float:
        """The score, or 1.0 / 0.0 from the verdict alone."""
        return self.score if self.score is not None else float(self.passed)


class Judgement(Frozen):
    """What a judge says of a trajectory: its analysis, what is to be mended, and how good the trajectory is.

    `score` in [0, 1] is the chance that the trajectory's outcome is right: it is trained and measured as one.
    """

    thought: str = ""
    critique: str
    score: float = Field(ge=0, le=1)

    @property
    def verdict(self) -> Verdict:
        """The score as a verdict: passed above one half."""
        return Verdict(passed=self.score > 0.5, score=self.score, source="judge", critique=self.critique)


class Trajectory(Frozen):
    """The record of one rollout of a graph: its turns, how it ended, and what it said."""

    role: Role
    task_id: str = ""
    candidate_id: str = ""
    sample_index: int = 0
    model: str = ""
    prompt_version: str = ""
    turns: tuple[Turn, ...] = ()
    stop_reason: StopReason
    verdict: Verdict | None = None
    error: ErrorInfo | None = None
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """The store's key: a rollout of this key is made once."""
        return content_id(
            self.task_id, self.candidate_id, self.role, self.sample_index, self.model, self.prompt_version
        )

    @property
    def messages(self) -> list[Message]:
        """The whole conversation: prompts and replies in order."""
        out: list[Message] = []
        for turn in self.turns:
            out += [*turn.prompt, Message(role="assistant", content=turn.content)]
        return out

    @property
    def completion_tokens(self) -> int:
        """Tokens that the model wrote: all turns, and what the verdict's score cost besides."""
        extra = self.verdict.extra_tokens if self.verdict else 0
        return sum(t.completion_tokens for t in self.turns) + extra

    @property
    def tool_calls(self) -> int:
        """Tool calls made, all turns."""
        return sum(len(t.tool_calls) for t in self.turns)


Outcome = Literal["open", "accepted", "rejected", "no_verdict", "unrevised"]


class Round(Frozen):
    """One solution of a refinement, and what came of it; round 0 is the first solution.

    `made` are the model calls that wrote the solution: one of a solver or refiner, an agent's turns, none where it was
    given. `outcome`: "open" (not reviewed yet), "accepted" (left alone), "rejected" (to be revised), "no_verdict" (the
    critic came to none: nothing to go by), "unrevised" (there is no new solution, it was cut, or is the one before
    again, which stands). `critique` is what the refiner is shown, `reviews` what it was made from. `error` is the
    failure that ended the refinement here; an outage is never an outcome.
    """

    index: int = Field(ge=0)
    solution: str
    made: tuple[Turn, ...] = ()
    outcome: Outcome = "open"
    critique: str = ""
    reviews: tuple[Trajectory, ...] = ()
    error: ErrorInfo | None = None


class TrainingExample(Frozen):
    """A conversation to learn from: loss on the assistant messages only."""

    messages: tuple[Message, ...]
    trajectory_key: str
    task_id: str
    role: Role
    label: bool
