"""Choosing the next tokens from logits: greedy or by temperature, with log-probabilities.

There is no top-k and no top-p: the distribution that is sampled is the one whose log-probabilities are returned, which
is what policy-gradient training needs (FACTS.md, pitfall 12).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 256


def scale(logits_RV: Tensor, temperature_R: Tensor) -> Tensor:
    """Return the logits of the sampling distribution: logits / temperature, at temperature 0 the logits as they are."""
    divisor_R = torch.where(temperature_R == 0, 1.0, temperature_R)
    return logits_RV.float() if bool((divisor_R == 1).all()) else logits_RV.float() / divisor_R[:, None]


def choose(scaled_RV: Tensor, greedy_R: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose one token a row.

    Args:
        scaled_RV: Logits of the sampling distribution, R rows over V tokens.
        greedy_R: True where the most probable token is wanted.
        uniform_R: One number in [0, 1) a row (float64): the place of a sampled row in its cumulative distribution.

    Returns:
        Token ids `[R]`, their log-probabilities `[R]`, and the normaliser `[R]` (log-probabilities are
        `scaled_RV - normaliser`).
    """
    best_R, token_R = scaled_RV.max(-1)
    mass_RV = (scaled_RV - best_R[:, None]).exp_()
    norm_R = best_R + mass_RV.sum(-1).log()
    sampled = (~greedy_R).nonzero()[:, 0]
    if len(sampled):
        rows_RV = mass_RV if len(sampled) == len(greedy_R) else mass_RV[sampled]
        token_R[sampled] = _inverse_cdf(rows_RV, uniform_R[sampled])
    return token_R, scaled_RV.gather(1, token_R[:, None])[:, 0] - norm_R, norm_R


def _inverse_cdf(mass_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Return the first token whose cumulative share exceeds the number: the block first, then inside it."""
    mass_RBS = pad(mass_RV, (0, -mass_RV.shape[1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    block_RB = mass_RBS.sum(-1).double()
    upto_RB = block_RB.cumsum(-1)
    target_R = uniform_R.to(upto_RB) * upto_RB[:, -1]
    block_R = torch.searchsorted(upto_RB, target_R[:, None], right=True)[:, 0].clamp(max=upto_RB.shape[1] - 1)
    rows_R = torch.arange(len(block_R), device=block_R.device)
    rest_R = (target_R - (upto_RB - block_RB)[rows_R, block_R]).clamp(min=0)
    inner_RS = mass_RBS[rows_R, block_R].double()
    index_R = (inner_RS.cumsum(-1) <= rest_R[:, None]).sum(-1)
    last_R = _BLOCK - 1 - (inner_RS > 0).flip(-1).byte().argmax(-1)  # rounding must not reach a token of probability 0
    return block_R * _BLOCK + torch.minimum(index_R, last_R)


def top(logp_V: Tensor, k: int) -> dict[int, float]:
    """Return the k most probable tokens of one row with their log-probabilities."""
    values, indices = logp_V.topk(min(k, logp_V.shape[-1]))
    return dict(zip(indices.tolist(), values.tolist(), strict=True))
