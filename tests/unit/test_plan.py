"""Sizes against published counts, memory and tokens by hand, and a dry run that writes nothing."""

import importlib.util
import json
import socket
from dataclasses import replace

import pytest

from agents.types import EVERY_ROLE
from distill import missing
from distill.config import load_config
from distill.plan import CPU, GPU, decoding_hours, expected_tokens, harvested, lines, sft_examples, training_hours
from distill.run import main
from distill.sizes import GIB, KNOWN, Shape, shape_of, training_memory
from train.settings import StudentConfig

LENGTHS = replace(CPU, candidate=10, review=100, judgement=1000, agent=7, prompt=1)
TOY = Shape(layers=2, hidden=8, inner=16, heads=2, kv_heads=1, head=4, vocabulary=10, tied=True, head_norms=False)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2-135m", 134_515_008),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_sizes_are_the_published_ones(name, parameters):
    assert KNOWN[name].parameters == parameters


def test_a_toy_by_hand():
    """A layer: q 64, k 32, v 32, o 64, MLP 384, norms 16 = 592; embeddings 80; last norm 8."""
    assert TOY.parameters == 2 * 592 + 80 + 8 == 1272
    assert TOY.kv_bytes == 2 * 2 * 1 * 4 * 2
    assert TOY.activation_bytes == 2 * (16 + 48 + 24 + 48)
    assert TOY.adapters(3, 1.0) == 2 * TOY.adapters(3, 0.5)
    assert TOY.adapters(3, 0.5) == 3 * (16 + 12 + 12 + 16 + 3 * 24)  # q, k, v, o, gate, up, down


def test_memory_by_hand():
    full = StudentConfig(lora_rank=0, max_length=100)
    need = training_memory(TOY, full, rows=2)
    assert (need.weights, need.gradients, need.optimiser) == (4 * 1272, 4 * 1272, 8 * 1272)
    assert need.activations == 200 * 272 and need.total == 16 * 1272 + 54_400
    lora = training_memory(TOY, StudentConfig(lora_rank=3, lora_share=0.5, max_length=100), rows=1)
    assert (lora.weights, lora.gradients, lora.optimiser) == (4 * (1272 + 384), 4 * 384, 8 * 384)
    half = training_memory(TOY, StudentConfig(lora_rank=0, dtype="bfloat16", max_length=100), rows=1)
    assert (half.weights, half.optimiser) == (2 * 1272, 4 * 1272)


def test_adapters_are_as_many_as_peft_makes():
    from tests.unit.tiny import tiny_model
    from train.student import trainable

    model = tiny_model(64)
    student = StudentConfig(lora_rank=4, lora_share=0.5)
    trained = sum(p.numel() for p in trainable(model, student).parameters() if p.requires_grad)  # pyright: ignore
    shape = Shape(2, 32, 48, 4, 2, 8, 64, tied=False, head_norms=False)
    assert trained == shape.adapters(4, 0.5)
    assert shape.parameters == sum(p.numel() for p in tiny_model(64).parameters())


def test_a_folder_says_its_own_shape(tmp_path):
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
        "tie_word_embeddings": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(str(tmp_path)) == TOY
    (tmp_path / "config.json").write_text("{}")
    assert shape_of(str(tmp_path)) is None and shape_of("org/unknown") is None


def test_tokens_by_hand():
    """10 problems, 2 solutions, 2 roles, 3 samples; 5 held out with 4 solutions; 6 optimiser steps, two a batch."""
    cfg = load_config(
        sets=[
            "tasks={n_harvest: 6, n_grpo: 4, n_eval: 5}",
            "solver.k=2",
            "teacher.samples=3",
            "eval.k=4",
            "sft={max_steps: null, epochs: 2}",
            "grpo={steps: 6, groups: 8, mini_groups: 4, num_generations: 2, resample_budget: 1}",
        ]
    )
    need = expected_tokens(cfg, CPU)
    assert need.solver == (20 + 20) * 60
    assert need.teacher == 10 * 2 * 2 * 3 * 85
    assert need.sft == 29 * 2 * (250 + 85)  # 40 % of 72 reviews
    assert need.rollouts == 3 * 8 * 2 * 1.5 * 85
    assert need.grpo == 48 * (250 + 85)
    assert need.evaluation == 5 * 4 * 2 * 85 * 3


def test_tokens_of_a_mixture_by_hand():
    """6 + 4 problems, 2 solutions, 3 samples; 5 held out with 4 solutions; 6 x 4 groups of 2G = 4 rows, 1.5 times.

    Learned from: 36 forward reviews (both directions are written), 12 judgements, solutions and revisions, 18 agent's
    trajectories. 40 % of 12 by a weight of 1 is least: 4.8 x 6 = 29 examples, twice. 96 rows: 48, 24 and 24.
    """
    cfg = load_config(
        sets=[
            "tasks={n_harvest: 6, n_grpo: 4, n_eval: 5}",
            "mixture.weights={forward_verifier: 2, judge: 1, solver: 1, refiner: 1, agent: 1, backward_verifier: 0}",
            "solver.k=2",
            "teacher.samples=3",
            "eval.k=4",
            "sft={max_steps: null, epochs: 2}",
            "grpo={recipe: 'agentv:2,rrm:1,reagent_u:1', steps: 6, groups: 8, mini_groups: 4, num_generations: 2}",
        ]
    )
    need = expected_tokens(cfg, LENGTHS)
    assert need.solver == (10 * 2 + 5 * 4) * 10
    assert need.teacher == 10 * 2 * 2 * 3 * 100 + 12 * 10 + 18 * 7
    assert need.judge == (12 + 24 * 1.5) * 1000
    assert need.sft == round(58 / 6 * (2 * 101 + 1001 + 11 + 11 + 8))
    assert need.rollouts == (48 * 100 + 24 * 1000 + 24 * 10) * 1.5
    assert need.grpo == 48 * 101 + 24 * 1001 + 24 * 11
    assert need.evaluation == 3 * (20 * 2 * 100 + (20 + 5) * 1000 + 5 * 10 + 5 * 10 + 5 * 7)


CRITICS = ("student", "judge")


def test_tokens_without_verifiers_by_hand():
    """Nothing is reviewed; GRPO's problems need no solutions. The judge criticises for the harvest, 2 steps, 3 stages.

    24 solutions and as many revisions, 40 % of each by weights 3 and 1: 3.2 x 4 = 13 examples, of which 4 are kept.
    """
    cfg = load_config(
        sets=[
            "tasks={n_harvest: 12, n_grpo: 400, n_eval: 5}",
            "mixture.weights={solver: 3, refiner: 1, forward_verifier: 0, backward_verifier: 0}",
            "solver.k=2",
            "eval.k=4",
            "select.max_examples=4",
            "sft.max_steps=null",
            "grpo={recipe: reagent_u, steps: 2, groups: 3, num_generations: 2, resample_budget: 0}",
        ]
    )
    need = expected_tokens(cfg, LENGTHS)
    assert sft_examples(cfg, LENGTHS) == {"solver": 3.0, "refiner": 1.0}
    assert (need.solver, need.teacher) == ((24 + 20) * 10, 24 * 10)
    assert need.judge == (24 + 2 * 3 * 4 + 3 * 5) * 1000
    assert (need.sft, need.rollouts, need.grpo) == (4 * 11, 24 * 10, 24 * 11)
    assert need.evaluation == 3 * (5 * 10 + 5 * 10)
    by_all = cfg.model_copy(update={"select": load_config().select})
    assert sum(sft_examples(by_all, LENGTHS).values()) == 13


def test_the_judge_criticises_the_evaluation_where_it_is_to():
    """5 problems, 3 stages: 15 critiques, by the student that learned to judge, or by the judge."""
    roles = "mixture.weights={solver: 1, refiner: 1, judge: 1}"
    sets = ["tasks={n_harvest: 6, n_eval: 5}", roles, "eval.k=4", "grpo={recipe: rrm, steps: 1}"]
    own, judges = (expected_tokens(load_config(None, [*sets, f"mixture.critic={who}"]), LENGTHS) for who in CRITICS)
    assert judges.judge - own.judge == own.evaluation - judges.evaluation == 15 * 1000


OF_AGENT = "mixture.weights={agent: 2, refiner: 1, judge: 1, forward_verifier: 0, backward_verifier: 0}"
ACTING = [
    "tasks={n_harvest: 12, n_grpo: 400, n_eval: 5}",
    OF_AGENT,
    "solver.k=2",
    "teacher.samples=3",
    "eval.k=4",
    "select.max_examples=8",
    "sft.max_steps=null",
    "grpo={recipe: reagent_u, steps: 2, groups: 3, num_generations: 2, resample_budget: 1}",
]


@pytest.mark.parametrize("critic", ["judge", "student"])
def test_tokens_where_the_agent_answers_by_hand(critic: str):
    """Every answer is a trajectory of 7 tokens: none of 10 is written, and nothing is made besides the candidates.

    12 problems of 2: 24 trajectories (not 12 x 3), judgements and revisions, and 5 x 4 held out. 40 % of 24 by a weight
    of 2 is least: 4.8 x 4 = 19 examples, of which 8 are kept: 4, 2, 2. GRPO: 2 steps of 3 groups of 4 rows, 1.5 times.
    Evaluation, 3 stages: 5 first answers and 5 refined ones, 5 critiques by whoever it is, 20 candidates judged.
    """
    cfg = load_config(None, [*ACTING, f"mixture.critic={critic}"])
    assert harvested(cfg) == dict.fromkeys(EVERY_ROLE, 0) | {"agent": 24, "refiner": 24, "judge": 24}
    need = expected_tokens(cfg, LENGTHS)
    assert sft_examples(cfg, LENGTHS) == {"judge": 2.0, "refiner": 2.0, "agent": 4.0}
    assert (need.solver, need.teacher) == ((24 + 20) * 7, 24 * 7)
    own = critic == "student"
    assert need.judge == (24 + 2 * 3 * 4 * 1.5 + 3 * 5 * (not own)) * 1000
    assert need.sft == 2 * (1 + 1000) + 2 * (1 + 7) + 4 * (1 + 7)
    assert (need.rollouts, need.grpo) == (24 * 7 * 1.5, 24 * (1 + 7))
    assert need.evaluation == 3 * (5 * 7 + 5 * 7 + (20 + 5 * own) * 1000)


def test_the_agent_beside_a_solver_has_trajectories_of_its_own():
    """The solver answers: 24 solutions and revisions in one reply, and 12 x 3 trajectories by the teacher."""
    cfg = load_config(None, [*ACTING, OF_AGENT.replace("agent: 2", "agent: 2, solver: 1")])
    need = expected_tokens(cfg, LENGTHS)
    assert harvested(cfg)["agent"] == 36
    assert (need.solver, need.teacher) == ((24 + 20) * 10, 24 * 10 + 36 * 7)
    assert need.rollouts == 24 * 10 * 1.5
    assert need.evaluation == 3 * (5 * 10 + 5 * 10 + 5 * 7 + (20 + 5) * 1000)


def test_the_plan_names_the_agent_that_answers():
    told = "\n".join(lines(load_config("reagent-tools-demo")))
    assert "\nagent: scripted-agent at this process\n" in told and "\n  agent writes " in told
    assert "assumed: 50 tokens an agent's trajectory, first or again, 85 a review" in told
    assert "agent and teacher on one such device each" in told and "solver" not in told
    assert "600 of judge, 600 of refiner, 600 of agent" in told  # 300 problems, k = 2
    told = "\n".join(lines(load_config("reagent-demo")))
    assert "\nsolver: scripted-solver at this process\n" in told and "\n  solver writes " in told


def test_the_plan_of_a_mixture_prints_what_it_rests_on():
    """150 problems with 8 solutions; 240 steps of 2 examples, six roles alike; 2 steps of 4 groups of 4 rows, 2:1:1."""
    told = "\n".join(lines(load_config("unified-demo")))
    assert "a review, " in told and "a judgement, " in told and "an agent's trajectory" in told
    assert "1,200 of forward_verifier, 1,200 of backward_verifier, 1,200 of judge" in told and "150 of agent" in told
    assert "SFT passes over examples: 80 of forward_verifier" in told and "80 of agent" in told
    assert "GRPO takes rollouts: 16 of agentv, 8 of rrm, 8 of reagent_u" in told
    assert "  judge writes " in told and "judge writes" not in "\n".join(lines(load_config()))


def test_hours_by_hand():
    assert decoding_hours(1_000_000, 10**9, GPU) == pytest.approx(2e15 / 98.9e12 / 3600)
    assert training_hours(1_000_000, 10**9, GPU) == pytest.approx(8e15 / (0.35 * 989e12) / 3600)
    assert training_hours(150 * 3600, 135_000_000, CPU) == pytest.approx(1.0, rel=0.02)  # 150 tokens a second
    assert decoding_hours(80 * 3600, 135_000_000, CPU) == pytest.approx(1.0, rel=0.02)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args: object, **more: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)


def test_a_dry_run_says_what_is_missing_and_writes_nothing(no_network, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(missing, "has_gpu", lambda: False)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else found(name))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["--profile", "agentv_4b", "--dry-run", "--set", "teacher.base_url=https://models.test/v1"]) == 0
    out = capsys.readouterr().out
    for line in (
        "student: Qwen/Qwen3-4B (4.02B), all weights, rollouts by vllm_server",
        "memory, SFT: ",
        "  a GPU: none is here",
        "  the package vllm: pip install -c constraints.txt -e '.[gpu]'",
        "  solver.base_url: an endpoint that serves Qwen/Qwen3-4B",
        "  teacher.base_url: https://models.test/v1 does not answer",
        "  the environment variable OPENAI_API_KEY, if models.test wants a key",
        "  grpo.vllm.base_url: an endpoint that serves Qwen/Qwen3-4B",
        "  the network: huggingface.co cannot be reached; needed for hf:polaris, math500",
        "assumed: one H100, 989 TFLOP/s",
    ):
        assert f"\n{line}" in out, line
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_cannot_be_opened_is_missing(no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "  tools.search.corpus is not set: give a JSONL file" in "\n".join(lines(load_config("reagent-tools-demo")))
    (tmp_path / "c.jsonl").write_text('{"title": "t", "text": "x"}\n')
    told = "\n".join(lines(load_config("reagent-tools-demo", ["tools.search.corpus=c.jsonl"])))
    assert "tools.search" not in told
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    assert "  SERPER_API_KEY is not set" in "\n".join(lines(load_config("reagent_8b")))


def test_what_one_gpu_does_not_hold_is_sharded(no_network):
    """8.19B x 16 bytes and activations of 12.2 GiB: 122 GiB of state over 72 - 12.2 GiB each is three."""
    told = "\n".join(lines(load_config("agentv_4b", ["student.model=Qwen/Qwen3-8B"])))
    act = KNOWN["Qwen/Qwen3-8B"].activation_bytes * 29_800
    assert -(-16 * 8_190_735_360 // int(0.9 * 80 * GIB - act)) == 3
    assert "  more than one H100 holds: shard it over 3 or more (train/accelerate/fsdp.yaml)" in told
    told = "\n".join(lines(load_config("agentv_4b", ["student.max_length=400000"])))
    assert "  the activations alone are more than one H100 holds: lower student.max_length" in told


def test_the_embedded_default_lacks_nothing(monkeypatch, no_network):
    told = list(lines(load_config()))
    assert told[-1] == "missing here: nothing"
    assert any("scripted-teacher at this process" in line for line in told)
    assert not any("H100" in line for line in told)


@pytest.mark.parametrize("profile", ["agentv_4b", "agentv_1.7b", "agentv_0.6b"])
def test_the_recipes_numbers(profile):
    """The paper's and its code's, as FACTS.md has them."""
    cfg = load_config(profile)
    assert cfg.name == profile
    assert cfg.student.model == f"Qwen/Qwen3-{profile.removeprefix('agentv_').upper()}"
    assert (cfg.solver.k, cfg.select.max_examples, cfg.select.max_prompts) == (8, 15_000, 50_000)
    assert (cfg.sft.lr, cfg.sft.batch, cfg.sft.epochs, cfg.sft.max_steps) == (5e-6, 8, 2, None)
    g = cfg.grpo
    assert (g.num_generations, g.groups, g.update_groups, g.lr, g.temperature) == (8, 128, 64, 1e-6, 1.0)
    assert (g.loss.clip_low, g.loss.clip_high, g.loss.beta) == (0.2, 0.28, 0.0)
    assert (g.max_tokens, g.max_tool_calls, g.forward_share) == (4096, 3, 0.5)
    assert cfg.student.max_length == 4200 + 25_600 and cfg.student.lora_share == 1.0
    assert (cfg.eval.aggregation, cfg.eval.forward_weight, cfg.teacher.max_tool_calls) == ("weighted", 0.7, 3)


def test_a_share_of_a_gpu_holds_so_many_conversations():
    """0.35 of 80 GiB less 1.11 GiB of weights, by 112 KiB x 29,800 = 3.18 GiB: 8."""
    (line,) = [line for line in lines(load_config("agentv_0.6b")) if "grpo.vllm.memory" in line]
    assert KNOWN["Qwen/Qwen3-0.6B"].kv_bytes == 112 * 1024
    assert (0.35 * 80 * GIB - 2 * 596_049_920) // (112 * 1024 * 29_800) == 8
    assert line.endswith("holds 8 such conversations at once")
