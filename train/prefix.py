"""Rows of a micro-batch as one sequence in which their common prefix stands once, and no padding.

The reviews of one problem, and the rollouts of a group, begin with the same tokens. Each token sees what it would see
in a row of its own, and has the position that it would have there, so logits and gradients are those of the padded
batch (up to rounding), for less work: `[prefix | rest of row 1 | rest of row 2 | …]`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Shared(NamedTuple):
    """A micro-batch of B rows as one sequence of N tokens."""

    ids_1N: Tensor
    position_1N: Tensor
    mask_11NN: Tensor  # 0 where a token is seen, the dtype's minimum elsewhere
    predictor_S: Tensor  # where the token before each scored one stands, scored tokens row by row


def share_prefix(input_ids: Tensor, attention_mask: Tensor, scored: Tensor, dtype: torch.dtype) -> Shared:
    """Lay rows out behind their longest common prefix.

    Args:
        input_ids: (B, T), padded on either side.
        attention_mask: (B, T), 0 on padding; no padding inside a row.
        scored: (B, T - 1), True where token t + 1 is scored; it and the token before it are no padding.
        dtype: of the mask.
    """
    rows = [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask, strict=True)]
    length = common_length(rows)
    rests = [row[length:] for row in rows]
    owner_N = torch.cat([torch.full((len(rest),), i) for i, rest in enumerate([rows[0][:length], *rests])])
    position_N = torch.cat([torch.arange(length), *(torch.arange(length, len(row)) for row in rows)])
    own_NN = (owner_N[:, None] == owner_N) | (owner_N == 0)
    seen_NN = own_NN & (position_N[:, None] >= position_N)
    mask_NN = torch.zeros(seen_NN.shape, dtype=dtype).masked_fill_(~seen_NN, torch.finfo(dtype).min)
    before_B = torch.tensor([0, *(len(rest) for rest in rests[:-1])]).cumsum(0)  # tokens of other rows' rests
    row_S, column_S = scored.nonzero(as_tuple=True)
    index_S = (attention_mask.cumsum(1) - 1)[row_S, column_S]  # of the token within its row
    predictor_S = torch.where(index_S < length, index_S, before_B[row_S] + index_S)
    return Shared(torch.cat([rows[0][:length], *rests])[None], position_N[None], mask_NN[None, None], predictor_S)


def common_length(rows: list[Tensor]) -> int:
    """Return how many leading tokens all rows share."""
    shortest = min(len(row) for row in rows)
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)
    return int(same.long().cumprod(0).sum())


def shares(model: Any, input_ids: Tensor) -> bool:
    """Whether rows of this model can stand in one sequence: on a CPU, attention that takes a mask, no windows."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    masked = getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
    return input_ids.device.type == "cpu" and len(input_ids) > 1 and masked and not kinds
