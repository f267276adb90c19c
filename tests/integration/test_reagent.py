"""Reagent-U and -R by TRL's own trainer with a tiny model: pools, KL to a reference, metrics, a model in the end."""

import json
from pathlib import Path

import pytest

from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("recipe", "rows"), [("reagent_u", 8), ("reagent_r", 4)])
def test_a_step_on_problems_of_a_file(tmp_path: Path, recipe: str, rows: int) -> None:
    """2 problems, G = 2. A random model answers nothing right: the rule reward is 0 throughout."""
    from train import grpo

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    tasks = tmp_path / "p.jsonl"
    tasks.write_text("".join(json.dumps({"question": f"{i} + {i}", "answer": str(2 * i)}) + "\n" for i in (1, 2)))
    small = "{steps: 1, groups: 2, num_generations: 2, max_tokens: 8, resample_budget: 0, micro_batch: 4}"
    sets = [f"grpo={small}", f"grpo.recipe={recipe}", "grpo.loss={beta: 0.1, average: rollouts, clip_high: 0.34}"]
    args = ["--tasks", f"jsonl:{tasks}", "--student", str(tmp_path / "student"), "--out", str(tmp_path / "out")]
    assert grpo.main([*args, "--set", *sets, "student={lora_rank: 0, max_length: 500}"]) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert line["rollouts/n"] == rows and line["pool/dropped"] == 0.0
    assert line["rule/first"] == 0.0 and ("rule/refined" in line) == (recipe == "reagent_u")
    assert "grpo/kl" in line and "judge/first" in line
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
