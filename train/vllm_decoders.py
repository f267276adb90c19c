"""Decoders over the vLLM of a trainer: colocated, or a server; TRL owns the engine or the connection, and the weights.

Input: TRL's `VLLMGeneration` and `Request`s; output: `Completion`s with exact ids and log-probabilities.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

from agents.requests import Completion, Request
from tools.errors import ContextLengthError, ModelError

GATHER_SECONDS = 0.02  # a wave waits this long for the requests of other conversations


class Colocated:
    """vLLM in this process: requests that wait together go together, one call of TRL's `generate` a wave.

    vLLM's call returns when the longest reply of a wave has ended, so a conversation may wait for others; a server does
    not have that wait.
    """

    def __init__(self, generation: Any, slots: int, max_context: int) -> None:
        """Take TRL's `VLLMGeneration`; `slots` is vLLM's own affair here."""
        self.generation, self.max_context = generation, max_context
        self._waiting: list[tuple[Request, asyncio.Future[Completion]]] = []
        self._waves: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Open the one thread that calls vLLM: the event loop goes on, so tools run meanwhile."""
        self._thread = ThreadPoolExecutor(1, "retort-vllm", initializer=_use_device, initargs=(self.generation,))
        return self

    def __exit__(self, *exc: Any) -> None:
        """Close the thread."""
        self._thread.shutdown()

    async def generate(self, request: Request) -> Completion:
        """Complete one request with others that wait.

        Raises:
            ModelError: vLLM failed, or the prompt fills the context.
        """
        _room(request, self.max_context)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._waves is None or self._waves.done():
            self._waves = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_SECONDS)
            wave, self._waiting = self._waiting, []
            for kind in sorted({self._kind(request) for request, _ in wave}):
                await self._send([pair for pair in wave if self._kind(pair[0]) == kind], kind)

    def _kind(self, request: Request) -> "Sampling":
        """Return what the requests of one call must have in common."""
        return Sampling(_room(request, self.max_context), request.temperature, request.top_logprobs or 0)

    async def _send(self, pairs: Sequence[tuple[Request, asyncio.Future[Completion]]], kind: "Sampling") -> None:
        loop = asyncio.get_running_loop()
        requests = [request for request, _ in pairs]
        try:
            done = await loop.run_in_executor(self._thread, self._call, requests, kind)
        except Exception as error:  # the worker's boundary: whatever vLLM raises fails these requests and no others
            for _, future in pairs:
                if not future.done():
                    future.set_exception(_failed(error))
            return
        for (_, future), completion in zip(pairs, done, strict=True):
            if not future.done():
                future.set_result(completion)

    def _call(self, requests: Sequence[Request], kind: "Sampling") -> list[Completion]:
        stop = sorted(set().union(*(request.stop for request in requests)))
        own = {"max_completion_length": kind.max_tokens, "temperature": kind.temperature, "logprobs": kind.top}
        own["generation_kwargs"] = {**self.generation.generation_kwargs, "stop_token_ids": stop}
        with _lent(self.generation, own):
            prompts = [list(request.prompt) for request in requests]
            _, ids, logprobs, names = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        return [completion(r, *row) for r, *row in zip(requests, ids, logprobs, names, strict=True)]


class Served:
    """A vLLM server: each request by itself, so that the server batches them as they come (TRL's client)."""

    def __init__(self, generation: Any, slots: int, max_context: int) -> None:
        """Take TRL's `VLLMGeneration`; in processes other than the main one it has no client, so one is made."""
        self.generation, self.slots, self.max_context = generation, slots, max_context

    def __enter__(self) -> Self:
        """Open the threads that ask the server."""
        self._client = getattr(self.generation, "vllm_client", None) or self._connect()
        self._threads = ThreadPoolExecutor(self.slots, "retort-vllm")
        return self

    def __exit__(self, *exc: Any) -> None:
        """Close the threads."""
        self._threads.shutdown()

    def _connect(self) -> Any:
        from trl.generation.vllm_client import VLLMClient

        return VLLMClient(base_url=self.generation.server_base_url, connection_timeout=self.generation.server_timeout)

    async def generate(self, request: Request) -> Completion:
        """Complete one request.

        Raises:
            ModelError: the server failed, or the prompt fills the context.
        """
        kind = Sampling(_room(request, self.max_context), request.temperature, request.top_logprobs or 0)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, request, kind)
        except Exception as error:  # TRL's client raises bare exceptions: this is the boundary to it
            raise _failed(error) from error

    def _call(self, request: Request, kind: "Sampling") -> Completion:
        out = self._client.generate(
            prompts=[list(request.prompt)],
            n=1,
            temperature=kind.temperature,
            max_tokens=kind.max_tokens,
            logprobs=kind.top,
            generation_kwargs={"stop_token_ids": sorted(request.stop)},
        )
        return completion(request, out["completion_ids"][0], out["logprobs"][0], out["logprob_token_ids"][0])


class Sampling(NamedTuple):
    """What the requests of one call of vLLM share."""

    max_tokens: int
    temperature: float
    top: int


def completion(
    request: Request, ids: Sequence[int], logprobs: Sequence[Sequence[float | None]], names: Sequence[Sequence[int]]
) -> Completion:
    """Turn what TRL gives for one reply into a completion.

    Args:
        request: what was asked.
        ids: tokens written (T), the stop token among them.
        logprobs: by position, of the most probable tokens and the sampled one, best first (T, K).
        names: the tokens that they belong to (T, K).

    Returns:
        The completion; a log-probability that vLLM could not give is NaN, which TRL takes for "no correction".

    Raises:
        ModelError: nothing was written, or a sampled token has no entry.
    """
    if not ids:
        raise ModelError("vLLM wrote no token")
    tops = [
        {token: float("nan") if p is None else p for token, p in zip(tokens, values, strict=True)}
        for tokens, values in zip(names, logprobs, strict=True)
    ]
    missing = [token for token, best in zip(ids, tops, strict=True) if token not in best]
    if missing:
        raise ModelError(f"vLLM gave no log-probability for sampled token {missing[0]}")
    chosen = tuple(best[token] for token, best in zip(ids, tops, strict=True))
    reason = "stop" if ids[-1] in request.stop else "length"
    return Completion(tuple(ids), chosen, reason, tuple(tops) if request.top_logprobs else None)


def _use_device(generation: Any) -> None:
    """Make the trainer's GPU the current one in vLLM's thread: a new thread begins with the first GPU."""
    import torch

    if generation.accelerator.device.type == "cuda":
        torch.cuda.set_device(generation.accelerator.device)


@contextmanager
def _lent(generation: Any, values: dict[str, Any]) -> Iterator[None]:
    """Set attributes of TRL's generation for one call, and set them back."""
    before = {name: getattr(generation, name) for name in values}
    for name, value in values.items():
        setattr(generation, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(generation, name, value)


def _room(request: Request, max_context: int) -> int:
    room = min(request.max_tokens, max_context - len(request.prompt))
    if not request.prompt or room < 1:
        kind = ContextLengthError if request.prompt else ModelError
        raise kind(f"prompt of {len(request.prompt)} tokens: {max_context} fit the context")
    return room


def _failed(error: Exception) -> ModelError:
    told = (str(error).splitlines() or [""])[0][:200]
    failure = ModelError(f"vLLM failed: {type(error).__name__}: {told}")
    failure.__cause__ = error
    return failure
