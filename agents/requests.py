"""What the decoding engine is asked, what it answers, and a request while it is decoded.

`Request` in, `Completion` out; a `Row` is a live request with the tokens that it has so far, `EngineStats` what all of
them cost.
"""

import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from tools.errors import ModelError


@dataclass(frozen=True)
class Request:
    """What to complete. `prompt` is the whole conversation; `top_logprobs` asks for the k best at each position."""

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    stop: frozenset[int] = frozenset()
    top_logprobs: int | None = None


@dataclass(frozen=True)
class Completion:
    """What the model wrote: the stop token is included, log-probabilities are those of the sampling distribution.

    `cached_tokens` counts the prompt tokens that a slot held already.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    top_logprobs: tuple[dict[int, float], ...] | None = None
    cached_tokens: int = 0


@dataclass
class EngineStats:
    """Counts since the engine was made: tokens fed and sampled, forwards, prompt tokens taken from slots."""

    forwards: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0
    shared_requests: int = 0


@dataclass(eq=False)
class Row:
    """A live request, and everyone who waits for it (identical greedy requests are computed once)."""

    request: Request
    room: int  # tokens that may be sampled
    noise: random.Random
    waiting: list[Future[Completion]]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[dict[int, float]] = field(default_factory=list)
    cached: int = 0

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits any more."""
        return all(future.cancelled() for future in self.waiting)

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why it has ended; None: it has not."""
        if self.tokens and self.tokens[-1] in self.request.stop:
            return "stop"
        return "length" if len(self.tokens) >= self.room else None

    def deliver(self) -> None:
        """Hand the completion to everyone who waits for it.

        Raises:
            ModelError: the row has not finished.
        """
        if self.finish_reason is None:
            raise ModelError("a row was delivered before it finished")
        tops = tuple(self.tops) if self.request.top_logprobs else None
        completion = Completion(tuple(self.tokens), tuple(self.logprobs), self.finish_reason, tops, self.cached)
        for future in self.waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(completion)

    def fail(self, error: ModelError) -> None:
        """Hand an error to everyone who waits."""
        for future in self.waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
