"""TRL's trainers with the waste of a CPU run taken out; the numbers they compute stay the same.

TRL projects hidden states to the vocabulary in tiles and recomputes them in the backward pass: that saves memory on a
GPU and costs a third of the time of a small model on a CPU. There, the head is applied once, to scored positions only.
TRL also pads every row of a GRPO step to the longest of the step: columns that are padding in all rows of a micro-batch
are cut; on a CPU there is no padding at all, and what the rows begin with in common is computed once
(`train/prefix.py`). On a GPU everything is TRL's own.
"""

import ctypes
import gc
import math
import sys
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.functional import cross_entropy, pad
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from train.importance import correction_shares
from train.prefix import share_prefix, shares

if TYPE_CHECKING:
    from trl.trainer.grpo_config import GRPOConfig

IGNORED = -100
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: large tensors are not mapped and faulted in anew for every operation."""
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        for option, value in ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28)):
            mallopt(option, value)


def return_freed_memory() -> None:
    """Give the pages of freed tensors back to the system, between two stages."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def scored_logits(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, scored: torch.Tensor
) -> torch.Tensor:
    """Return the logits that predict the scored tokens.

    Args:
        model: a causal LM, or one with LoRA adapters.
        input_ids: (B, T).
        attention_mask: (B, T).
        scored: (B, T - 1), True where token t + 1 is scored.

    Returns:
        (number of scored tokens, vocabulary).
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if shares(base, input_ids):
        rows = share_prefix(input_ids, attention_mask, scored, base.dtype)
        inputs = {"input_ids": rows.ids_1N, "position_ids": rows.position_1N, "attention_mask": rows.mask_11NN}
        hidden = base.base_model(**inputs, use_cache=False).last_hidden_state
        return base.get_output_embeddings()(hidden[0, rows.predictor_S])
    hidden = base.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    return base.get_output_embeddings()(hidden[:, :-1][scored])


class DirectSFTTrainer(SFTTrainer):
    """SFTTrainer whose loss on a CPU is one cross-entropy over the supervised tokens."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a micro-batch: summed over its tokens, divided by those of the whole batch.

        Args:
            model: the student.
            inputs: `input_ids`, `attention_mask`, `labels`, each (B, T).
            return_outputs: TRL's own path.
            num_items_in_batch: supervised tokens of the optimiser step; None: mean over this micro-batch.
        """
        if return_outputs or inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        scored = labels != IGNORED
        logits = scored_logits(model, inputs["input_ids"], inputs["attention_mask"], scored)
        if num_items_in_batch is None:
            return cross_entropy(logits, labels[scored])
        return cross_entropy(logits, labels[scored], reduction="sum") / num_items_in_batch


class DirectGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that scores only the policy's own tokens (on a CPU) and skips columns that are all padding."""

    _scored: torch.Tensor | None = None

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Log how much the importance correction takes away, and note which share of the rows is trained on."""
        out = super()._generate_and_score_completions(inputs)
        scored = (out["completion_mask"] * out.get("tool_mask", 1)).bool()
        gathered: Any = self.accelerator.gather(scored.any(dim=1).float())
        out["taught_share"] = gathered.mean()
        if "importance_sampling_ratio" in out:
            shares = correction_shares(
                out["old_per_token_logps"],
                out["sampling_per_token_logps"],
                scored,
                mode=self.vllm_importance_sampling_mode,
                cap=self.vllm_importance_sampling_clip_max or math.inf,
            )
            for name, value in shares.items():
                gathered = self.accelerator.gather(torch.tensor(value, device=self.accelerator.device))
                self._metrics["train"][name].append(gathered.mean().item())
        return out

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Take rollouts in TRL's order, or on a CPU group by group where all of them make one optimiser step anyway."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        made, args = self._buffered_inputs, cast("GRPOConfig", self.args)
        whole = args.gradient_accumulation_steps == args.steps_per_generation
        if made is None or made is before or not whole or made[0]["prompt_ids"].device.type != "cpu":
            return inputs
        self._buffered_inputs = by_prompt(made)
        return self._buffered_inputs[self._step % len(made)]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Note which completion tokens count, (B, C), then TRL's loss.

        Where it is a mean over rollouts, silent rows (dropped from their pools, or of dead groups) do not count: TRL
        divides by all rows, `taught_share` takes that back.
        """
        self._scored = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._scored = None
        share = inputs.get("taught_share")
        return loss if share is None or self.loss_type != "grpo" or share == 0 else loss / share

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
        ids, mask, missing = input_ids[:, cut], attention_mask[:, cut], (0, logits_to_keep - kept)
        if self._scored is not None and ids.device.type == "cpu":
            logps, entropies = self._score(model, ids, mask, self._scored[:, :kept])
            return pad(logps, missing), pad(entropies, missing), None
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(model, ids, mask, kept, *args, **kwargs)
        return pad(logps, missing), None if entropies is None else pad(entropies, missing), aux

    def _score(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, scored_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and entropies (B, C), zero where a token is not scored."""
        completion = scored_BC.shape[1]
        scored = torch.zeros_like(ids[:, 1:], dtype=torch.bool)
        scored[:, -completion:] = scored_BC
        log_probs = (scored_logits(model, ids, mask, scored) / self.temperature).log_softmax(dim=-1)
        chosen = log_probs.gather(1, ids[:, 1:][scored][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
        zeros = torch.zeros(scored_BC.shape, dtype=log_probs.dtype)
        return zeros.masked_scatter(scored_BC, chosen), zeros.masked_scatter(scored_BC, entropy)


def by_prompt(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deal the rows of micro-batches out again, rows of one prompt together: what they share is computed once.

    Args:
        batches: micro-batches with `prompt_ids` (B, P) among their fields; fields that are not tensors of B rows stay.
    """
    fields = [name for name, value in batches[0].items() if isinstance(value, torch.Tensor) and value.ndim]
    rows = {name: torch.cat([batch[name] for batch in batches]) for name in fields}
    prompts = rows["prompt_ids"].tolist()
    order = torch.tensor(sorted(range(len(prompts)), key=prompts.__getitem__))
    parts = {name: value[order].split([len(batch["prompt_ids"]) for batch in batches]) for name, value in rows.items()}
    return [batch | {name: part[i] for name, part in parts.items()} for i, batch in enumerate(batches)]


def used_columns(attention_mask: torch.Tensor, logits_to_keep: int) -> tuple[int, int]:
    """Return the first column that a prompt uses, and how many completion columns are used (at least one each)."""
    used = attention_mask.any(dim=0)
    prompt_columns = attention_mask.shape[1] - logits_to_keep
    filled = used[:prompt_columns].nonzero()
    start = int(filled[0]) if len(filled) else prompt_columns - 1
    completion = used[prompt_columns:].nonzero()
    return start, int(completion[-1]) + 1 if len(completion) else 1
