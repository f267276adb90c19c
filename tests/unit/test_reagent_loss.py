"""Reagent-U's update through TRL's own code: grouping, advantages, loss with clip and KL, gradient; all by hand.

The batch: one problem, G = 2, λ = 0.5, two first answers and two refined ones.

    row          rule  score  R = rule + 0.5 score   A = (R - 0.625) / 0.75
    0 first       0     0     0                      -5/6
    1 first       1     0     1                       1/2
    2 refined     0     0     0                      -5/6
    3 refined     1     1     1.5                     7/6

Ratio r = exp(logp - old), q = exp(ref - logp), clip 0.2 below and 0.34 above, β = 0.1, KL = q - ln q - 1 (low-var).
The loss of a token is -min(r A, clip(r) A) + β KL, and its derivative by logp is -r A (0 where clipped) + β (1 - q).

    row token   r    q    -min(...)                              β KL                    loss        d loss / d logp
    0   0      1.0  1    5/6                                     0                       0.8333333    0.8333333
    1   0      1.5  1    -min(0.75, 1.34 / 2) = -0.67            0                      -0.67         0 (clipped)
    1   1      1.0  2    -0.5                                    0.1 (1 - 0.6931472)    -0.4693147   -0.5 - 0.1 = -0.6
    2   0      0.5  1    -min(-5/12, -0.8 * 5/6) = 2/3           0                       0.6666667    0 (clipped)
    2   1      a token of the environment: masked
    3   0      1.2  0.5  -1.2 * 7/6 = -1.4                       0.1 (-0.5 + 0.6931472) -1.3806853   -1.4 + 0.05 = -1.35

Mean over rollouts: rows are 0.8333333, (-0.67 - 0.4693147) / 2 = -0.5696574, 0.6666667, -1.3806853; their sum is
-0.4503426, the loss a quarter: -0.1125857. The gradient by a token is the column above, by its row's tokens, by 4.
Mean over tokens: the column's sum is -1.02, by 5 tokens: -0.204.
"""

import math
from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch import Tensor

from train.advantages import pooled_advantages
from train.grpo import given_reward
from train.rewards import mixed_reward
from train.trainers import DirectGRPOTrainer

RULES, SCORES, WEIGHT = (0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), 0.5
REWARDS = [mixed_reward(rule, score, WEIGHT) for rule, score in zip(RULES, SCORES, strict=True)]
RATIOS = torch.tensor([[1.0, 1.0], [1.5, 1.0], [0.5, 9.0], [1.2, 1.0]])
REFERENCE = torch.tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 7.0], [0.5, 1.0]])
COMPLETION = torch.tensor([[1, 0], [1, 1], [1, 1], [1, 0]])
POLICY = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]])  # env_mask: the second token of row 2 is not the policy's
OLD = torch.full((4, 2), -1.0)


class HandMade(DirectGRPOTrainer):
    """TRL's trainer without a model: the log-probabilities are a leaf of the graph."""

    logps: Tensor

    def __init__(self, loss_type: str, beta: float = 0.1) -> None:
        """Set what TRL's loss and grouping read."""
        own: Any = self
        own.logps = (OLD + RATIOS.log()).requires_grad_()
        own.loss_type, own.beta = loss_type, beta
        own.epsilon_low, own.epsilon_high = 0.2, 0.34
        own.top_entropy_quantile, own.off_policy_mask_threshold = 1.0, None
        own.importance_sampling_level = "token"
        own.use_vllm, own.vllm_importance_sampling_correction = False, False
        own._entropy_bonus_enabled, own.aux_loss_enabled = False, False
        own.current_gradient_accumulation_steps = 1
        own.model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
        own.args = SimpleNamespace(
            delta=None,
            use_bias_correction_kl=False,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            per_device_train_batch_size=4,
            gradient_checkpointing_kwargs=None,
            report_to=[],
        )
        own.accelerator = SimpleNamespace(
            num_processes=1,
            process_index=0,
            is_main_process=True,
            device=torch.device("cpu"),
            gather=lambda tensor: tensor,
            reduce=lambda tensor, reduction: tensor,
        )
        own._metrics = {"train": defaultdict(list)}

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, None]:
        return self.logps, torch.zeros(4, 2), None

    def loss(self, advantages: list[float], completion: Tensor = COMPLETION) -> Tensor:
        """Return TRL's loss of the batch."""
        mask = completion * POLICY
        inputs = {
            "prompt_ids": torch.ones(4, 1, dtype=torch.long),
            "prompt_mask": torch.ones(4, 1, dtype=torch.long),
            "completion_ids": torch.ones(4, 2, dtype=torch.long),
            "completion_mask": completion,
            "tool_mask": POLICY,
            "advantages": torch.tensor(advantages),
            "old_per_token_logps": OLD,
            "ref_per_token_logps": self.logps.detach() + REFERENCE.log(),
            "num_items_in_batch": mask.sum(),
            "taught_share": mask.bool().any(dim=1).float().mean(),
        }
        return self._compute_loss(self.model, inputs)


def advantages() -> list[float]:
    """Those of the pool; ε is left out so that the numbers are those of the table."""
    return [a for a in pooled_advantages(REWARDS, epsilon=0.0) if a is not None]


def test_loss_and_gradient_with_the_mean_over_rollouts() -> None:
    """See the table: -0.1125857, and by token 0.8333333 / 4, -0.6 / 2 / 4, -1.35 / 4; masked and clipped ones 0."""
    assert advantages() == pytest.approx([-5 / 6, 1 / 2, -5 / 6, 7 / 6])
    trainer = HandMade("grpo")
    loss = trainer.loss(advantages())
    loss.backward()
    assert loss.item() == pytest.approx(-0.1125857, abs=1e-6)
    wanted = torch.tensor([[0.2083333, 0.0], [0.0, -0.075], [0.0, 0.0], [-0.3375, 0.0]])
    torch.testing.assert_close(trainer.logps.grad, wanted, atol=1e-6, rtol=0)


def test_loss_and_gradient_with_the_mean_over_tokens() -> None:
    """See the table: -1.02 / 5, and each token's derivative by 5."""
    trainer = HandMade("dapo")
    loss = trainer.loss(advantages())
    loss.backward()
    assert loss.item() == pytest.approx(-0.204, abs=1e-6)
    wanted = torch.tensor([[0.8333333, 0.0], [0.0, -0.6], [0.0, 0.0], [-1.35, 0.0]]) / 5
    torch.testing.assert_close(trainer.logps.grad, wanted, atol=1e-6, rtol=0)


def test_without_kl_the_reference_has_no_part() -> None:
    """Less β KL: 0.1 (0.3068528 / 2 + 0.1931472) / 4 = 0.0086643 off -0.1125857."""
    assert HandMade("grpo", beta=0.0).loss(advantages()).item() == pytest.approx(-0.12125, abs=1e-6)


def test_separate_pools_give_another_loss_and_gradient() -> None:
    """Apart: A = -a, a, -a, a with a = sqrt(1/2). Row 0's token gets a / 4 = 0.1767767 instead of 0.2083333."""
    apart = [a for half in (REWARDS[:2], REWARDS[2:]) for a in pooled_advantages(half, epsilon=0.0) if a is not None]
    trainer = HandMade("grpo")
    loss = trainer.loss(apart)
    loss.backward()
    assert trainer.logps.grad is not None
    assert trainer.logps.grad[0, 0].item() == pytest.approx(math.sqrt(0.5) / 4)
    assert loss.item() != pytest.approx(-0.1125857, abs=1e-2)


def test_a_silent_row_does_not_count_in_the_mean_over_rollouts() -> None:
    """Row 2 dropped: (0.8333333 - 0.5696574 - 1.3806853) / 3 = -0.3723365, and row 0's token 0.8333333 / 3."""
    completion = COMPLETION.clone()
    completion[2] = 0
    trainer = HandMade("grpo")
    loss = trainer.loss(advantages(), completion)
    loss.backward()
    assert loss.item() == pytest.approx(-0.3723365, abs=1e-6)
    assert trainer.logps.grad is not None
    assert trainer.logps.grad[0, 0].item() == pytest.approx(0.2777778, abs=1e-6)
    assert not trainer.logps.grad[2].any()


def test_when_no_row_teaches_the_loss_is_zero() -> None:
    assert HandMade("grpo").loss(advantages(), torch.zeros_like(COMPLETION)).item() == 0.0


def grouped(rewards: list[float | None], rows: int) -> list[float]:
    """Return the advantages that TRL makes of a rollout batch with `rows` rows a group."""
    PartialState(cpu=True)  # TRL warns of rows without a reward, and its logger wants this
    n = len(rewards)
    t: Any = HandMade("grpo", beta=0.0)
    t.num_generations = t.num_generations_eval = rows
    t.num_iterations = 1
    t.environment_factories = t.environments = t.tools = t.pad_to_multiple_of = None
    t.mask_truncated_completions, t.log_multimodal = False, False
    t._tokenizer = SimpleNamespace(pad_token_id=0)
    t.reward_funcs, t.reward_processing_classes, t.reward_func_names = [given_reward], [None], ["given"]
    t.reward_weights, t.scale_rewards = torch.ones(1), "group"
    t.multi_objective_aggregation = "sum_then_normalize"
    t.state = SimpleNamespace(global_step=0)
    t._logs = {"prompt": deque(), "completion": deque(), "advantages": deque()}
    t._logs |= {"rewards": defaultdict(deque), "extra": defaultdict(deque)}
    t._pending_extra_logs, t._pending_metrics = defaultdict(list), defaultdict(list)
    made = ([[1]] * n, [[1, 2]] * n, [[1, 1]] * n, ["text"] * n, [[-1.0, -1.0]] * n, {"reward": rewards}, None, [])
    t._generate = lambda prompts: made
    return t._generate_and_score_completions([{"prompt": "key"} for _ in range(n)])["advantages"].tolist()


def test_trl_groups_all_rows_of_a_problem_into_one_pool() -> None:
    """Two problems of 2G = 4 rows; the second one's rewards are those of the first times 10: the same advantages."""
    wanted = pooled_advantages(REWARDS) + pooled_advantages([10 * (r or 0.0) for r in REWARDS])
    found = grouped([*REWARDS, *(10 * (r or 0.0) for r in REWARDS)], rows=4)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert found[:4] == pytest.approx([-5 / 6, 1 / 2, -5 / 6, 7 / 6], abs=2e-4)
    assert grouped(REWARDS, rows=2) != pytest.approx(found[:4], abs=0.1)  # G rows a group would be separate pools


def test_trl_drops_a_row_without_a_reward_from_its_pool() -> None:
    found = grouped([0.0, 1.0, None, 1.5], rows=4)
    assert found[2] == 0.0
    assert [found[i] for i in (0, 1, 3)] == pytest.approx([-1.091089, 0.218218, 0.872872], abs=2e-4)
