"""One forward over the tokens of many conversations, packed without padding.

A transformers causal LM runs on `[1, N]` tokens: first one token of each decoding row, then the prompts' new tokens,
segment by segment. Linear layers see one dense batch; a registered attention function (`retort_packed`) gives each
token its own slot of the `KVStore`. It needs no repeated keys and values for grouped heads: the groups of a decoding
row are the queries of one small attention, those of a segment are heads over expanded (not copied) keys.

`DecodingMode` puts a model into this mode and out again, around each forward, so that between two forwards the model is
as its owner (a trainer) left it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from tools.errors import ModelError

IMPLEMENTATION = "retort_packed"
SKINNY = 96  # rows of a forward up to which the transposed product is faster
CPU_RUN = 8  # slots of one decoding attention on a CPU: short, so that few lengths share one maximum
CPU_GAP = 2  # slots that may lie idle inside such a run


@dataclass(frozen=True)
class Chunk:
    """New tokens of one slot: `count` tokens whose first has position `start`."""

    slot: int
    start: int
    count: int


@dataclass(frozen=True)
class Run:
    """Decoding rows in neighbouring slots: packed tokens [first, last), slots [low, high) of at most `length` tokens.

    `spread` (packed row of each slot) and `select` (slot of each packed row) are None when no slot lies between idle.
    """

    first: int
    last: int
    low: int
    high: int
    length: int
    mask: Tensor  # [slots, 1, 1, length], 0 or -inf
    spread: Tensor | None = None
    select: Tensor | None = None


@dataclass(frozen=True)
class Segment:
    """Prompt tokens [first, last) of one slot, which then holds `length` tokens; the mask is `[count, length]`."""

    first: int
    last: int
    slot: int
    length: int
    mask: Tensor


@dataclass(frozen=True)
class Layout:
    """How the packed tokens of one forward lie in the slots."""

    runs: tuple[Run, ...]
    segments: tuple[Segment, ...]
    slot_N: Tensor
    position_N: Tensor
    last_R: Tensor  # packed index of the last token of each chunk


def build_layout(chunks: Sequence[Chunk], dtype: torch.dtype, device: torch.device) -> Layout:
    """Lay out the chunks of one forward.

    Args:
        chunks: Chunks of one token first, in ascending slot order, then the longer ones.
        dtype: The model's, for the masks.
        device: The model's.
    """
    single = next((i for i, chunk in enumerate(chunks) if chunk.count > 1), len(chunks))
    slots, positions, ends = [], [], []
    segments = []
    for chunk in chunks:
        first = len(slots)
        slots += [chunk.slot] * chunk.count
        positions += range(chunk.start, chunk.start + chunk.count)
        ends.append(len(slots) - 1)
        if chunk.count > 1:
            segments.append(_segment(chunk, first, dtype, device))
    return Layout(
        runs=tuple(_run(chunks, *bounds, dtype, device) for bounds in _neighbours(chunks[:single], device)),
        segments=tuple(segments),
        slot_N=torch.tensor(slots, device=device),
        position_N=torch.tensor(positions, device=device),
        last_R=torch.tensor(ends, device=device),
    )


def _neighbours(chunks: Sequence[Chunk], device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut the decoding rows into runs [first, last) of slots near each other (on a CPU; one run is best elsewhere)."""
    first = 0
    for i in range(1, len(chunks) + 1):
        ends = i == len(chunks)
        if not ends and device.type == "cpu":
            wide = chunks[i].slot - chunks[first].slot >= CPU_RUN
            ends = wide or chunks[i].slot - chunks[i - 1].slot > CPU_GAP
        if ends:
            yield first, i
            first = i


def _run(chunks: Sequence[Chunk], first: int, last: int, dtype: torch.dtype, device: torch.device) -> Run:
    rows = chunks[first:last]
    low, high = rows[0].slot, rows[-1].slot + 1
    held = torch.ones(high - low, dtype=torch.long)  # an idle slot sees one token: no row of a softmax is empty
    spread = torch.zeros(high - low, dtype=torch.long)
    for i, row in enumerate(rows):
        held[row.slot - low] = row.start + 1
        spread[row.slot - low] = i
    length = int(held.max())
    mask = torch.zeros(high - low, length, dtype=dtype)
    mask.masked_fill_(torch.arange(length) >= held[:, None], float("-inf"))
    dense = high - low == len(rows)
    select = torch.tensor([row.slot - low for row in rows], device=device)
    return Run(
        first,
        last,
        low,
        high,
        length,
        mask[:, None, None].to(device),
        None if dense else spread.to(device),
        None if dense else select,
    )


def _segment(chunk: Chunk, first: int, dtype: torch.dtype, device: torch.device) -> Segment:
    length = chunk.start + chunk.count
    position_n = torch.arange(chunk.start, length, device=device)
    mask = torch.zeros(chunk.count, length, dtype=dtype, device=device)
    mask.masked_fill_(torch.arange(length, device=device) > position_n[:, None], float("-inf"))
    return Segment(first, first + chunk.count, chunk.slot, length, mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend, each token to its own slot (the signature is that of transformers' AttentionInterface).

    Args:
        module: The attention module.
        query: `[1, heads, N, head_dim]`.
        key: The layer's store `[slots, kv_heads, length, head_dim]`.
        value: Likewise.
        attention_mask: Not used: transformers makes none for an implementation that it does not know.
        scaling: Of the scores.
        packed_layout: Where the N tokens lie.
        kwargs: What transformers passes and this does not need.

    Returns:
        `[1, N, heads, head_dim]`, and None for the weights.
    """
    if packed_layout is None:
        raise ModelError(f"attention {IMPLEMENTATION!r} ran outside the engine: the model was used while it decodes")
    _, heads, count, dim = query.shape
    query = query.contiguous()  # `skinny_linear` leaves heads strided, for which torch has the slow kernel only
    out = query.new_empty(count, heads, dim)
    kv = key.shape[1]
    query_N = query[0].transpose(0, 1)
    for run in packed_layout.runs:
        q = query_N[run.first : run.last].reshape(-1, kv, heads // kv, dim)
        if run.spread is not None:
            q = q[run.spread]
        k, v = key[run.low : run.high, :, : run.length], value[run.low : run.high, :, : run.length]
        o = scaled_dot_product_attention(q, k, v, attn_mask=run.mask, scale=scaling)
        if run.select is not None:
            o = o[run.select]
        out[run.first : run.last] = o.reshape(-1, heads, dim)
    for part in packed_layout.segments:
        q = query[0, :, part.first : part.last].reshape(kv, heads // kv, -1, dim)
        k, v = (x[part.slot, :, None, : part.length].expand(-1, heads // kv, -1, -1) for x in (key, value))
        o = scaled_dot_product_attention(q, k, v, attn_mask=part.mask, scale=scaling)
        out[part.first : part.last] = o.reshape(heads, -1, dim).transpose(0, 1)
    return out[None], None


AttentionInterface.register(IMPLEMENTATION, packed_attention)


def skinny_linear(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """Return x W^T as (W x^T)^T where x has few rows: MKL is up to twice as fast that way (32 rows, 2 cores).

    Args:
        self: a linear layer without bias on the CPU.
        x: (..., in).

    Returns:
        (..., out).
    """
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) > SKINNY:
        return torch.nn.functional.linear(x, self.weight)
    return (self.weight @ rows.T).T.reshape(*x.shape[:-1], -1)


class DecodingMode:
    """Puts a model into packed decoding and back: its attention, eval mode, no gradients."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Look the model over once.

        Raises:
            ModelError: the model has attention layers that look at a window only.
        """
        config = model.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        if kinds:
            raise ModelError(f"the engine decodes full attention only; {type(model).__name__} has {sorted(kinds)}")
        self.config = model.config
        self.modules = list(model.modules())
        on_cpu = model.device.type == "cpu"
        self.linears = [m for m in self.modules if type(m) is torch.nn.Linear and m.bias is None and on_cpu]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the model in the mode for one forward."""
        held = self.config._attn_implementation
        training = [m for m in self.modules if m.training]
        try:
            self.config._attn_implementation = IMPLEMENTATION
            for module in training:
                module.training = False
            for linear in self.linears:
                linear.forward = MethodType(skinny_linear, linear)
            with torch.no_grad():
                yield
        finally:
            self.config._attn_implementation = held
            for linear in self.linears:
                del linear.forward
            for module in training:
                module.training = True
