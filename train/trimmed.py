"""TRL's GRPOTrainer without the padding: each micro-batch is cut to the columns that any of its rows uses.

TRL pads every row of a step to the longest of the step. Cutting columns that are padding in all rows of a micro-batch
changes no number (they are masked), and saves their forward and backward pass.
"""

from typing import Any

import torch
from trl import GRPOTrainer


class TrimmedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose forward passes skip columns that are padding in every row."""

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities (B, C), entropies (B, C) or None, and the auxiliary loss, as TRL's own.

        Args:
            model: the policy.
            input_ids: (B, P + C), prompts padded left, completions padded right.
            attention_mask: (B, P + C).
            logits_to_keep: C.
            *args: TRL's other arguments, unchanged.
            **kwargs: likewise.
        """
        start, kept = used_columns(attention_mask, logits_to_keep)
        cut = slice(start, attention_mask.shape[1] - logits_to_keep + kept)
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(
            model, input_ids[:, cut], attention_mask[:, cut], kept, *args, **kwargs
        )
        missing = (0, logits_to_keep - kept)
        logps = torch.nn.functional.pad(logps, missing)
        entropies = None if entropies is None else torch.nn.functional.pad(entropies, missing)
        return logps, entropies, aux


def used_columns(attention_mask: torch.Tensor, logits_to_keep: int) -> tuple[int, int]:
    """Return the first column that a prompt uses, and how many completion columns are used (at least one each)."""
    used = attention_mask.any(dim=0)
    prompt_columns = attention_mask.shape[1] - logits_to_keep
    filled = used[:prompt_columns].nonzero()
    start = int(filled[0]) if len(filled) else prompt_columns - 1
    completion = used[prompt_columns:].nonzero()
    return start, int(completion[-1]) + 1 if len(completion) else 1
