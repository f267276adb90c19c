"""Reagent-U and -R, and graphs of one's own, by TRL's own trainer with a tiny model: rows, KL, metrics, a model."""

import json
from pathlib import Path
from typing import Any

import pytest

from agents.types import Task
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.integration


GIVEN: list[float] = []


def by_turns(task: Task, state: Any) -> float:
    """A reward that changes from rollout to rollout, so that a random model has something to learn from."""
    GIVEN.append(float(len(GIVEN) % 2))
    return GIVEN[-1]


def trained(tmp_path: Path, more: list[str], *settings: str) -> dict[str, float]:
    """Train a tiny random model for a step on two problems of a file, G = 2; returns the metrics."""
    from train import grpo

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    tasks = tmp_path / "p.jsonl"
    tasks.write_text("".join(json.dumps({"question": f"{i} + {i}", "answer": str(2 * i)}) + "\n" for i in (1, 2)))
    small = "{steps: 1, groups: 2, num_generations: 2, max_tokens: 8, resample_budget: 0, micro_batch: 4}"
    args = ["--tasks", f"jsonl:{tasks}", "--student", str(tmp_path / "student"), "--out", str(tmp_path / "out"), *more]
    sets = ["--set", f"grpo={small}", *settings, "student={lora_rank: 0, max_length: 500}"]
    assert grpo.main([*args, *sets]) == 0
    (line,) = [json.loads(text) for text in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    return line


@pytest.mark.parametrize(("recipe", "rows"), [("reagent_u", 8), ("reagent_r", 4)])
def test_a_step_on_problems_of_a_file(tmp_path: Path, recipe: str, rows: int) -> None:
    """2 problems, G = 2. A random model answers nothing right: the rule reward is 0 throughout."""
    line = trained(tmp_path, [], f"grpo.recipe={recipe}", "grpo.loss={beta: 0.1, average: rollouts, clip_high: 0.34}")
    assert line["rollouts/n"] == rows and line["pool/dropped"] == 0.0
    assert line["rule/first"] == 0.0 and ("rule/refined" in line) == (recipe == "reagent_u")
    assert "grpo/kl" in line and "judge/first" in line
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(("graph", "conversations"), [("tests.unit.debate:build", 2), ("graphs.react:build_react", 1)])
def test_a_step_on_a_graph_of_ones_own(tmp_path: Path, graph: str, conversations: int) -> None:
    """2 problems, G = 2: 4 rollouts, each with as many rows as it has conversations."""
    GIVEN.clear()
    named = ["--graph", graph, "--reward", f"{__name__}:by_turns", "--conversations", str(conversations)]
    line = trained(tmp_path, named)
    assert len(GIVEN) == line["rollouts/n"] == 4 and line["rollouts/conversations"] == conversations
    assert line["reward/mean"] == 0.5 and line["groups/live_in_update"] == 1.0 and line["grpo/grad_norm"] > 0
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
