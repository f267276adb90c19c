"""Continuous-batching decoding over a transformers causal LM in this process.

Inputs are `Request`s (token ids, limits, temperature), outputs `Completion`s (token ids, exact log-probabilities).
One worker thread runs forwards over all live requests at once: each step feeds one token of every decoding row and, in
the same forward, up to `prefill_tokens` tokens of the prompts that came in (no padding, see `agents/packed.py`).
Finished requests leave their keys and values in a slot; a prompt that extends a slot's tokens goes on from there, one
that shares a prefix copies it, so that turns of a conversation and rollouts of a group are never encoded twice.

The model is in decoding mode during a forward only: a trainer may own it, as long as it does not train while requests
are in flight. After its weights changed, call `reset()`.
"""

import asyncio
import hashlib
import random
import threading
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Self

import torch
from transformers import PreTrainedModel

from agents.kv import KVStore
from agents.openmp import release_threads
from agents.packed import Chunk, DecodingMode, build_layout
from agents.requests import Completion, EngineStats, Request, Row
from agents.sampling import choose, scale, top
from agents.slots import Slot, SlotTable
from tools.errors import ContextLengthError, ModelError


class Engine:
    """Decodes requests of one model, many at a time, in one worker thread.

    Use as a context manager (or `start` and `close`), and await `generate` from any number of tasks and, one after the
    other, from any number of event loops. A completion depends on the seed, its prompt and how many times that prompt
    was asked for since `reset`, but not on what else is in flight (up to floating-point rounding).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int = 64,
        prefill_tokens: int = 512,
        max_context: int | None = None,
        seed: int = 0,
    ) -> None:
        """Make an engine; nothing runs until `start`.

        Args:
            model: A causal LM with full attention; dtype and device are its own.
            slots: Conversations held and decoded at once at most. Keys and values of all slots take (longest
                conversation in tokens) x slots x the model's bytes a token (46 KB for SmolLM2-135M in fp32).
            prefill_tokens: Prompt tokens in one forward at most.
            max_context: Tokens of a conversation at most; by default what the model was made for.
            seed: Of the sampling noise.

        Raises:
            ModelError: the model does not have full attention in every layer.
        """
        self.model = model
        self.seed = seed
        self.stats = EngineStats()
        self.max_context = max_context or model.config.get_text_config().max_position_embeddings
        self._prefill_tokens = prefill_tokens
        self._mode = DecodingMode(model)
        self._store = KVStore()
        self._slots = SlotTable(slots, self._store)
        self._queue: deque[Row] = deque()
        self._asked: Counter[bytes] = Counter()
        self._epoch = 0
        self._clock = 0
        self._running = False
        self._wake = threading.Condition()  # guards the queue, _asked and _running
        self._busy = threading.Lock()  # held during a step: guards the slots, the store and the model
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Start the worker; starting twice is one start."""
        with self._wake:
            if not self._running:
                self._running = True
                self._thread = threading.Thread(target=self._work, name="retort-engine", daemon=True)
                self._thread.start()
        return self

    def close(self) -> None:
        """Stop the worker, fail what is in flight with a `ModelError`, free the memory. Safe to call twice."""
        with self._wake:
            self._running = False
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._fail(ModelError("the engine was closed"))

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def reset(self) -> None:
        """Forget all keys and values and free their memory: call it whenever the weights have changed.

        Raises:
            ModelError: requests are in flight, which would go on with other weights than they began with.
        """
        with self._busy, self._wake:
            if any(not row.abandoned for row in self._rows()):
                raise ModelError("the engine cannot be reset while requests are in flight")
            self._forget()
            self._epoch += 1

    async def generate(self, request: Request) -> Completion:
        """Complete one request; cancelling the task frees its row.

        Raises:
            ModelError: the engine is not started or failed, or the prompt is empty.
            ContextLengthError: the prompt fills the context.
        """
        return await asyncio.wrap_future(self.submit(request))

    def submit(self, request: Request) -> Future[Completion]:
        """Queue one request from any thread; the same errors as `generate`.

        The thread that wakes the worker lets go of its OpenMP threads: it is expected to wait, not to compute.
        """
        room = min(request.max_tokens, self.max_context - len(request.prompt))
        if not request.prompt or room < 1:
            kind = ContextLengthError if len(request.prompt) >= self.max_context else ModelError
            raise kind(
                f"prompt of {len(request.prompt)} tokens, {request.max_tokens} to write: there must be at least one of "
                f"each, and {self.max_context} fit the context"
            )
        future: Future[Completion] = Future()
        with self._wake:
            if not self._running:
                raise ModelError("the engine is not started")
            twin = self._twin(request)
            if twin is not None:
                twin.waiting.append(future)
                self.stats.shared_requests += 1
                return future
            if not self._rows():
                release_threads()
            self._queue.append(Row(request, room, self._noise(request), [future]))
            self._wake.notify_all()
        return future

    def _twin(self, request: Request) -> Row | None:
        """Return the live row that will give the same answer: greedy requests only."""
        if request.temperature > 0:
            return None
        return next((row for row in self._rows() if row.request == request and not row.abandoned), None)

    def _rows(self) -> list[Row]:
        return [*self._queue, *self._slots.rows()]

    def _noise(self, request: Request) -> random.Random:
        """Return the noise of a request: the k-th request for a prompt draws the same, whatever runs beside it."""
        prompt = hashlib.sha256(array("q", request.prompt).tobytes()).digest()
        self._asked[prompt] += 1
        return random.Random(f"{self.seed} {self._epoch} {self._asked[prompt]} {prompt.hex()}")

    def _work(self) -> None:
        """Run until closed. This is the worker's boundary: whatever fails here fails the requests, not the thread."""
        while True:
            with self._wake:
                if not self._rows():
                    release_threads()
                self._wake.wait_for(lambda: not self._running or self._rows())
                if not self._running:
                    return
            with self._busy:
                try:
                    done = self._step()
                except Exception as error:
                    done = []
                    failure = ModelError(f"decoding failed: {type(error).__name__}: {error}")
                    failure.__cause__ = error
                    self._fail(failure)
            for row in done:
                row.deliver()

    def _step(self) -> list[Row]:
        """Admit, run one forward, sample, and return the rows that finished."""
        self._clock += 1
        self._admit()
        fed = self._slots.feed(self._prefill_tokens)
        if not fed:
            return []
        self._store.reserve(max(s.index for s, _ in fed) + 1, max(s.computed + n for s, n in fed))
        logits_RV = self._forward(fed)
        for slot, count in fed:
            slot.computed += count
        ready = [i for i, (slot, _) in enumerate(fed) if slot.computed == len(slot.ids)]
        if not ready:
            return []
        self._sample([fed[i][0] for i in ready], logits_RV if len(ready) == len(fed) else logits_RV[ready])
        with self._wake:  # a twin must not join a row that is being delivered
            return [row for i in ready if (row := fed[i][0].released()) is not None]

    def _admit(self) -> None:
        """Give slots to queued requests; drop those that nobody waits for."""
        self._slots.drop_abandoned()
        with self._wake:
            waiting, self._queue = self._queue, deque()
            for row in waiting:
                if row.abandoned:
                    continue
                if self._slots.place(row, self._clock):
                    self.stats.cached_tokens += row.cached
                    self.stats.prompt_tokens += len(row.request.prompt)
                else:
                    self._queue.append(row)

    def _forward(self, fed: Sequence[tuple[Slot, int]]) -> torch.Tensor:
        """Run the model over the new tokens; return the logits `[R, V]` after the last token of each slot."""
        device = self.model.device
        chunks = [Chunk(slot.index, slot.computed, n) for slot, n in fed]
        layout = build_layout(chunks, self.model.dtype, device)
        ids = [token for slot, n in fed for token in slot.ids[slot.computed : slot.computed + n]]
        self._store.place(layout.slot_N, layout.position_N)
        self.stats.forwards += 1
        with self._mode():
            out = self.model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=layout.position_N[None],
                past_key_values=self._store,
                use_cache=True,
                logits_to_keep=layout.last_R,
                packed_layout=layout,
            )
        return out.logits[0]

    def _sample(self, slots: Sequence[Slot], logits_RV: torch.Tensor) -> None:
        """Append one token to each slot's row and to the slot."""
        rows = [slot.row for slot in slots if slot.row is not None]
        device = logits_RV.device
        temperature_R = torch.tensor([row.request.temperature for row in rows], device=device)
        uniform_R = torch.tensor([row.noise.random() for row in rows], dtype=torch.float64, device=device)
        scaled_RV = scale(logits_RV, temperature_R)
        token_R, logp_R, norm_R = choose(scaled_RV, temperature_R == 0, uniform_R)
        self.stats.sampled_tokens += len(rows)
        for i, (slot, token, logp) in enumerate(zip(slots, token_R.tolist(), logp_R.tolist(), strict=True)):
            row = rows[i]
            row.tokens.append(token)
            row.logprobs.append(logp)
            if row.request.top_logprobs:
                row.tops.append(top(scaled_RV[i] - norm_R[i], row.request.top_logprobs))
            if row.finish_reason is None:
                slot.ids.append(token)

    def _fail(self, error: ModelError) -> None:
        """Fail every request and forget what the slots hold: after an error nothing there can be trusted."""
        with self._wake:
            rows = self._rows()
            self._forget()
        for row in rows:
            row.fail(error)

    def _forget(self) -> None:
        self._queue.clear()
        self._asked.clear()
        self._slots.clear()
