"""A judge trained end to end at tiny size: `distill.rrm` → `train.sft` → `train.grpo` with the recipe `rrm`."""

import json
from pathlib import Path

import pytest

from agents.types import Trajectory
from distill import rrm
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from train import grpo, recipes, sft
from train.launch import REPORT
from train.rollout import ReviewRollouts

pytestmark = pytest.mark.integration

SUMS = [(12, 30), (15, 20), (41, 11), (27, 31)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What `distill.rrm` makes of a right and a wrong solution of four sums."""
    rows = []
    for a, b in SUMS:
        texts = [f"{a} + {b} = {a + b + slip}\nA: {a + b + slip}" for slip in (0, 1)]
        rows.append({"question": f"Calculate {a} + {b}.", "ground_truth": str(a + b), "samples": texts})
    path, out = tmp_path / "f.jsonl", tmp_path / "data"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rrm.main(["--candidates", str(path), "--model", "scripted-judge", "--out", str(out)]) == 0
    return out


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A tiny ChatML model in a folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def test_a_judge_is_trained(data: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model writes no judgement: rewards are by length here, so that there is something to learn from."""
    tuned, out = tmp_path / "sft", tmp_path / "grpo"
    small = ["--set", "sft={max_steps: 2, batch: 2}", "student.lora_rank=2", "student.max_length=512"]
    assert sft.main(["--data", str(data), "--student", str(student), "--out", str(tuned), *small]) == 0
    assert json.loads((tuned / REPORT).read_text())["rows"] == 4

    seen: list[Trajectory] = []

    def reward(trajectory: Trajectory, label: bool) -> float:
        seen.append(trajectory)
        return float(len(seen) % 2)

    scales: list[str] = []
    roll = ReviewRollouts.__call__

    def noted(self: ReviewRollouts, prompts: list[str], trainer: object) -> object:
        scales.append(trainer.scale_rewards)  # pyright: ignore[reportAttributeAccessIssue]
        return roll(self, prompts, trainer)

    monkeypatch.setattr(recipes, "reward_by_role", reward)
    monkeypatch.setattr(ReviewRollouts, "__call__", noted)
    small = ["--set", "grpo.steps=1", "grpo.groups=2", "grpo.num_generations=2", "grpo.max_tokens=12"]
    small += ["grpo.resample_budget=0", "student.lora_rank=2", "student.max_length=512"]
    assert grpo.main(["--data", str(data), "--student", str(tuned / "model"), "--out", str(out), *small]) == 0
    assert (out / "model" / "model.safetensors").is_file() and scales == ["batch"]
    assert len(seen) == 4 and {t.role for t in seen} == {"judge"}
    assert all(t.turns and t.turns[0].stage == "judge" and t.turns[0].completion_ids for t in seen)
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert row["groups/zero_variance"] == 0.0 and row["grpo/grad_norm"] > 0
