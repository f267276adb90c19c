"""The direct losses equal TRL's own, and pitfalls of loss masks: denominator, observations, padding."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from tests.unit.tiny import tiny_model
from train.settings import StudentConfig
from train.student import merged, trainable
from train.trainers import DirectGRPOTrainer, DirectSFTTrainer, by_prompt, scored_logits, used_columns

IGNORED = -100


def model() -> LlamaForCausalLM:
    return tiny_model(64)


def batch(rows: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Pad rows of (ids, loss mask) on the right."""
    length = max(len(ids) for ids, _ in rows)
    out = {"input_ids": [], "attention_mask": [], "labels": []}
    for ids, mask in rows:
        gap = length - len(ids)
        out["input_ids"].append(ids + [0] * gap)
        out["attention_mask"].append([1] * len(ids) + [0] * gap)
        out["labels"].append([t if m else IGNORED for t, m in zip(ids, mask, strict=True)] + [IGNORED] * gap)
    return {k: torch.tensor(v) for k, v in out.items()}


ROWS = [
    ([5, 9, 11, 3, 8, 2], [0, 0, 1, 1, 0, 1]),
    ([7, 4, 6, 2], [0, 1, 1, 1]),
    ([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 0, 0, 0, 1, 1]),
]


def loss_of(lm: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], items: int | None) -> Tensor:
    trainer = object.__new__(DirectSFTTrainer)
    return trainer.compute_loss(lm, batch(rows), num_items_in_batch=items)


def gradient(lm: LlamaForCausalLM) -> Tensor:
    return torch.cat([p.grad.flatten() for p in lm.parameters() if p.grad is not None])


def test_the_loss_is_cross_entropy_over_supervised_tokens():
    lm = model()
    ids, mask = ROWS[0]
    logits = lm(torch.tensor([ids])).logits[0]
    wanted = [cross_entropy(logits[i - 1], torch.tensor(ids[i])) for i, m in enumerate(mask) if m]
    assert loss_of(lm, [ROWS[0]], None).item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)


def test_gradient_does_not_depend_on_the_micro_batch_split():
    items = sum(sum(mask) for _, mask in ROWS)
    whole, parts = model(), model()
    loss_of(whole, ROWS, items).backward()
    for row in ROWS:
        loss_of(parts, [row], items).backward()
    assert torch.allclose(gradient(whole), gradient(parts), atol=1e-5)


def test_masked_tokens_do_not_enter_the_denominator():
    """The same supervised tokens with a long masked tail give the same loss and gradient."""
    items = sum(ROWS[1][1])
    short, long = model(), model()
    a = loss_of(short, [ROWS[1]], items)
    b = loss_of(long, [(ROWS[1][0] + [9] * 20, ROWS[1][1] + [0] * 20)], items)
    a.backward()
    b.backward()
    assert a.item() == pytest.approx(b.item(), abs=1e-6)
    assert torch.allclose(gradient(short), gradient(long), atol=1e-6)


def test_changing_the_labels_of_observations_leaves_the_gradient_unchanged():
    ids, mask = ROWS[0]
    one, other, planted = model(), model(), model()
    inputs = batch([ROWS[0]])
    trainer = object.__new__(DirectSFTTrainer)
    trainer.compute_loss(one, inputs, num_items_in_batch=3).backward()
    relabelled = inputs["labels"].clone()
    relabelled[0, [i for i, m in enumerate(mask) if not m]] = IGNORED
    trainer.compute_loss(other, inputs | {"labels": relabelled}, num_items_in_batch=3).backward()
    assert torch.equal(gradient(one), gradient(other))
    leaked = torch.tensor([ids])  # the fault: observations supervised too
    trainer.compute_loss(planted, inputs | {"labels": leaked}, num_items_in_batch=3).backward()
    assert not torch.allclose(gradient(one), gradient(planted), atol=1e-4)


def test_columns_that_only_pad_are_cut():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0]])
    assert used_columns(mask, 4) == (1, 2)
    assert used_columns(torch.tensor([[0, 0, 0, 0]]), 2) == (1, 1)


def grpo_scores(trainer: DirectGRPOTrainer, lm: LlamaForCausalLM, scored: Tensor | None) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[0, 0, 5, 9, 11, 3, 8, 0], [0, 7, 4, 6, 2, 9, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 0, 0]])
    trainer._scored = scored
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(lm, ids, mask, 4, compute_entropy=True)
    assert entropies is not None
    return logps, entropies


def grpo_trainer(lm: LlamaForCausalLM) -> DirectGRPOTrainer:
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(lm, temperature=0.7, outputs=("log_probs", "entropy"))
    trainer = object.__new__(DirectGRPOTrainer)
    trainer.args = SimpleNamespace(temperature=0.7)  # pyright: ignore[reportAttributeAccessIssue]
    trainer.temperature = 0.7
    trainer.accelerator = SimpleNamespace(is_main_process=False, autocast=lambda: torch.autocast("cpu", enabled=False))  # pyright: ignore[reportAttributeAccessIssue]
    return trainer


def test_direct_scores_equal_trls_on_scored_tokens_and_are_zero_elsewhere():
    lm = model()
    trainer = grpo_trainer(lm)
    scored = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    ours, our_entropy = grpo_scores(trainer, lm, scored)
    trls, trl_entropy = grpo_scores(trainer, lm, None)
    assert torch.allclose(ours[scored], trls[scored], atol=1e-5)
    assert torch.allclose(our_entropy[scored], trl_entropy[scored], atol=1e-5)
    assert not ours[~scored].any() and not our_entropy[~scored].any()


def test_a_silent_micro_batch_scores_nothing_and_still_differentiates():
    lm = model()
    trainer = grpo_trainer(lm)
    logps, _ = grpo_scores(trainer, lm, torch.zeros(2, 4).bool())
    (logps * 3).sum().backward()
    assert not gradient(lm).any()


def test_scored_logits_are_the_models_own():
    lm = model()
    ids = torch.tensor([[5, 9, 11, 3]])
    scored = torch.tensor([[False, True, True]])
    wanted = lm(ids).logits[0, 1:3]
    assert torch.allclose(scored_logits(lm, ids, torch.ones_like(ids), scored), wanted, atol=1e-6)


def test_adapters_decode_the_same_merged_and_are_apart_again_afterwards():
    adapted: Any = trainable(model(), StudentConfig(lora_rank=4))  # pyright: ignore[reportArgumentType]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    ids = torch.tensor([[5, 9, 11, 3]])
    layer = adapted.get_base_model().model.layers[-1].self_attn.q_proj
    with torch.no_grad():
        before, weight = adapted(input_ids=ids).logits, layer.base_layer.weight.clone()
        with merged(adapted):
            assert not torch.allclose(layer.base_layer.weight, weight)
            torch.testing.assert_close(adapted(input_ids=ids).logits, before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.base_layer.weight, weight, atol=1e-6, rtol=1e-5)
    with merged(model()):
        pass  # nothing to merge


def test_adapters_sit_in_the_upper_share_of_the_layers():
    layers = tiny_model(64).config.num_hidden_layers
    assert layers == 2

    def adapted(share: float) -> set[str]:
        lm: Any = trainable(model(), StudentConfig(lora_rank=4, lora_share=share))  # pyright: ignore[reportArgumentType]
        return {name.split(".layers.")[1][0] for name, p in lm.named_parameters() if p.requires_grad}

    assert adapted(1.0) == {"0", "1"}
    assert adapted(0.5) == adapted(0.01) == {"1"}


def test_rows_of_a_prompt_come_together_and_keep_their_fields():
    """Six shuffled rows of three prompts in micro-batches of two: each prompt's rows, with their own advantages."""
    prompt = torch.tensor([[7, 1], [0, 3], [7, 2], [7, 1], [7, 2], [0, 3]])
    advantage = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    batches = [
        {"prompt_ids": prompt[i : i + 2], "advantages": advantage[i : i + 2], "items": torch.tensor(9), "images": None}
        for i in (0, 2, 4)
    ]
    out = by_prompt(batches)
    assert [batch["prompt_ids"].tolist() for batch in out] == [[[0, 3]] * 2, [[7, 1]] * 2, [[7, 2]] * 2]
    assert [batch["advantages"].tolist() for batch in out] == [[2.0, 6.0], [1.0, 4.0], [3.0, 5.0]]
    assert all(batch["items"] == 9 and batch["images"] is None for batch in out)
