"""Rows behind one common prefix: the layout by hand, and logits and gradients equal to those of each row by itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tiny import tiny_model
from train.prefix import common_length, share_prefix, shares
from train.trainers import scored_logits

SEEN = 0.0
ROWS = [[5, 9, 11, 3, 8, 2], [5, 9, 11, 7], [5, 9, 11, 3, 1]]
SCORED = [[2, 3, 5], [3], [1, 4]]  # positions of scored tokens in each row; one lies in the prefix


def padded(rows: list[list[int]], scored: list[list[int]], left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids (B, T), mask (B, T) and which tokens t + 1 are scored (B, T - 1), padded on one side."""
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    marks = torch.zeros(len(rows), length - 1, dtype=torch.bool)
    for b, row in enumerate(rows):
        start = length - len(row) if left else 0
        ids[b, start : start + len(row)] = torch.tensor(row)
        mask[b, start : start + len(row)] = 1
        for position in scored[b]:
            marks[b, start + position - 1] = True
    return ids, mask, marks


def test_the_layout_of_two_rows_by_hand():
    """Rows 5 6 7 and 5 8, prefix 5: the sequence is 5 | 6 7 | 8; the last row's 8 sees 5 and itself only."""
    rows = share_prefix(*padded([[5, 6, 7], [5, 8]], [[2], [1]], left=False), torch.float32)
    assert rows.ids_1N.tolist() == [[5, 6, 7, 8]]
    assert rows.position_1N.tolist() == [[0, 1, 2, 1]]
    seen = (rows.mask_11NN[0, 0] == SEEN).int().tolist()
    assert seen == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert rows.predictor_S.tolist() == [1, 0]  # 7 is predicted at 6, 8 at the prefix's 5


@pytest.mark.parametrize("left", [False, True])
def test_logits_are_those_of_each_row_by_itself(left: bool):
    lm = tiny_model(64)
    logits = scored_logits(lm, *padded(ROWS, SCORED, left))
    wanted = [lm(torch.tensor([row])).logits[0, p - 1] for row, at in zip(ROWS, SCORED, strict=True) for p in at]
    assert torch.allclose(logits, torch.stack(wanted), atol=1e-5)


def test_gradients_are_those_of_each_row_by_itself():
    together, apart = tiny_model(64), tiny_model(64)
    scored_logits(together, *padded(ROWS, SCORED, left=True)).square().sum().backward()
    for row, at in zip(ROWS, SCORED, strict=True):
        (apart(torch.tensor([row])).logits[0, [p - 1 for p in at]]).square().sum().backward()
    for (name, ours), theirs in zip(together.named_parameters(), apart.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6 * float(theirs.grad.abs().max())), name


def test_fewer_tokens_go_through_the_model():
    lm, fed = tiny_model(64), []
    lm.model.register_forward_pre_hook(lambda _m, _a, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True)
    scored_logits(lm, *padded(ROWS, SCORED, left=False))
    assert fed == [3 + 3 + 1 + 2]


@pytest.mark.parametrize(
    ("rows", "length"), [([[1, 2], [1, 2]], 2), ([[1, 2], [3, 2]], 0), ([[1, 2, 3], [1, 2]], 2), ([[1], []], 0)]
)
def test_the_common_prefix_ends_at_the_first_difference(rows: list[list[int]], length: int):
    assert common_length([torch.tensor(row, dtype=torch.long) for row in rows]) == length


def test_models_with_windows_keep_their_rows():
    lm: Any = tiny_model(64)
    ids = torch.zeros(2, 4, dtype=torch.long)
    assert shares(lm, ids)
    assert not shares(lm, ids[:1])
    lm.config.layer_types = ["sliding_attention", "full_attention"]
    assert not shares(lm, ids)
