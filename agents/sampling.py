"""Choosing the next tokens from logits: greedy or by temperature, with log-probabilities.

There is no top-k and no top-p: the distribution that is sampled is the one whose log-probabilities are returned, which
is what policy-gradient training needs (FACTS.md, pitfall 12).
"""

import torch
from torch import Tensor

_BLOCK = 256


def choose(logits_RV: Tensor, temperature_R: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose one token a row.

    Args:
        logits_RV: Raw logits of R rows over V tokens, in any memory layout.
        temperature_R: 0 is greedy.
        uniform_R: One number in [0, 1) a row (float64): the row's place in its cumulative distribution.

    Returns:
        Token ids `[R]`, their log-probabilities `[R]`, and the log-probabilities `[R, V]` of all tokens, under the
        sampling distribution: softmax(logits / temperature), at temperature 0 softmax(logits).
    """
    greedy_R = temperature_R == 0
    scaled_RV = logits_RV.float() / torch.where(greedy_R, 1.0, temperature_R)[:, None]
    logp_RV = scaled_RV - scaled_RV.logsumexp(-1, keepdim=True)
    token_R = logp_RV.argmax(-1)
    if not greedy_R.all():
        rows = (~greedy_R).nonzero()[:, 0]
        token_R[rows] = _inverse_cdf(logp_RV[rows].exp(), uniform_R[rows])
    return token_R, logp_RV.gather(1, token_R[:, None])[:, 0], logp_RV


def _inverse_cdf(prob_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Return the first token whose cumulative probability exceeds the number: the block first, then inside it."""
    padded_RBS = torch.nn.functional.pad(prob_RV, (0, -prob_RV.shape[1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    mass_RB = padded_RBS.sum(-1).double()
    upto_RB = mass_RB.cumsum(-1)
    target_R = uniform_R.to(upto_RB) * upto_RB[:, -1]
    block_R = torch.searchsorted(upto_RB, target_R[:, None], right=True)[:, 0].clamp(max=upto_RB.shape[1] - 1)
    rows_R = torch.arange(len(block_R), device=block_R.device)
    rest_R = (target_R - (upto_RB - mass_RB)[rows_R, block_R]).clamp(min=0)
    inner_RS = padded_RBS[rows_R, block_R].double()
    index_R = (inner_RS.cumsum(-1) <= rest_R[:, None]).sum(-1)
    last_R = _BLOCK - 1 - (inner_RS > 0).flip(-1).byte().argmax(-1)  # rounding must not reach a token of probability 0
    return block_R * _BLOCK + torch.minimum(index_R, last_R)


def top(logp_V: Tensor, k: int) -> dict[int, float]:
    """Return the k most probable tokens of one row with their log-probabilities."""
    values, indices = logp_V.contiguous().topk(min(k, logp_V.shape[-1]))
    return dict(zip(indices.tolist(), values.tolist(), strict=True))
