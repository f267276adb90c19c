"""Reagent's recipes as settings: sizes of groups, TRL's options, the profile's numbers, problems in and out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from agents.store import Store
from agents.types import Task
from distill.config import load_config
from distill.export import export, open_run
from distill.plan import CPU, expected_tokens, lines
from distill.prompts import problems
from graphs.state import VerifierContext
from tests.unit.made_run import make_run
from tools.errors import ConfigError, DataError
from train import grpo
from train.grpo import batches, grpo_arguments
from train.inputs import read_problems
from train.launch import load_settings, parse
from train.pools import Problem
from train.reagent import answer_context
from train.recipes import RECIPES
from train.settings import GrpoConfig, JudgeConfig

SIZES: dict[str, Any] = {"groups": 4, "mini_groups": 2, "num_generations": 4, "micro_batch": 2}


def made_run(tmp_path: Path) -> Path:
    """A run's folder whose settings name Reagent-U."""
    folder = make_run(tmp_path)
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["grpo"] |= {"recipe": "reagent_u", "num_generations": 2, "groups": 2}
    path.write_text(yaml.safe_dump(settings))
    return folder


def test_a_pool_of_reagent_u_has_twice_the_rows(tmp_path):
    """4 problems of 2 x 4 rows in updates of 2: 32 rows a batch, 16 an update, 2 a forward pass."""
    assert [GrpoConfig(recipe=r, **SIZES).group_rows for r in ("agentv", "reagent_r", "reagent_u")] == [4, 4, 8]
    u = GrpoConfig(recipe="reagent_u", loss={"average": "rollouts", "beta": 0.1}, **SIZES)  # pyright: ignore
    wanted = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8, "steps_per_generation": 16}
    assert batches(u, processes=1) == wanted
    made = grpo_arguments(u, 512, tmp_path, 0)
    assert (made.num_generations, made.loss_type, made.beta, made.scale_rewards) == (8, "grpo", 0.1, "group")
    assert grpo_arguments(GrpoConfig(**SIZES), 512, tmp_path, 0).loss_type == "dapo"


def test_the_policy_solves_and_refines_with_the_same_sampling():
    context = answer_context(GrpoConfig(temperature=0.7, max_tokens=77), VerifierContext(style="full"))
    for who in ("solver", "refiner"):
        assert (getattr(context, f"{who}_temperature"), getattr(context, f"{who}_max_tokens")) == (0.7, 77)
    assert (context.style, context.refiner_style) == ("full", None)


def test_the_policy_acts_within_the_limits_of_the_rollouts():
    given: dict[str, Any] = {
        "style": "full",
        "temperature": 0.7,
        "max_tokens": 77,
        "max_turns": 5,
        "max_tool_calls": 2,
        "max_trajectory_tokens": 900,
        "max_seconds": 9.0,
    }
    context = answer_context(GrpoConfig(), VerifierContext(**given), "agent")
    assert context.agent is not None and {name: getattr(context.agent, name) for name in given} == given
    assert context.max_transcript == 1800  # two characters a token
    assert answer_context(GrpoConfig(), VerifierContext()).agent is None


def test_a_judge_at_a_url_has_a_name():
    with pytest.raises(ValidationError, match="name the model that it serves"):
        JudgeConfig(base_url="http://a/v1")
    with pytest.raises(ConfigError, match=r"judge: base_url is given|base_url is given"):
        load_config(None, ["judge.base_url=http://a/v1"])


def test_a_run_does_not_train_a_judge():
    """Its data come from distill.rrm; told before anything is harvested."""
    with pytest.raises(ConfigError, match=r"grpo trains roles that SFT does not teach: give mixture\.weights judge"):
        load_config(None, ["grpo.recipe=rrm"])
    assert load_config(None, ["grpo.recipe=rrm", "grpo.steps=0"]).grpo.steps == 0


def test_the_profile_has_the_papers_numbers():
    cfg = load_config("reagent_8b")
    g = cfg.grpo
    assert (cfg.student.model, g.recipe, cfg.judge.weight) == ("Qwen/Qwen3-8B", "reagent_u", 0.3)
    assert (g.num_generations, g.group_rows, g.groups, g.update_groups) == (8, 16, 32, 16)
    assert (g.lr, g.temperature, g.loss.clip_high, g.loss.beta, g.loss.average) == (5e-6, 0.7, 0.34, 0.001, "rollouts")
    assert cfg.student.max_length == 16_384 + 11_000 and g.max_tokens == 11_000


def test_the_plan_names_the_judge_and_counts_both_stages(monkeypatch):
    monkeypatch.setattr("distill.missing._answers", lambda host, port: False)
    told = "\n".join(lines(load_config("reagent_8b")))
    assert "judge: Qwen/Qwen3-32B" in told and "judge.base_url: an endpoint that serves Qwen/Qwen3-32B" in told
    assert "memory, reference model of the KL term (grpo.loss.beta): weights 30.5 GiB" in told  # 4 x 8.19e9 bytes
    assert "reference model" not in "\n".join(lines(load_config()))
    r, u = (expected_tokens(load_config(None, [f"grpo.recipe=reagent_{v}"]), CPU).rollouts for v in "ru")
    assert u == 2 * r > 0


def test_a_profile_serves_as_settings_of_the_training():
    profile = Path(__file__).parents[2] / "distill" / "profiles" / "reagent_8b.yaml"
    args = parse("grpo", ["--tasks", "jsonl:x", "--out", "o", "--settings", str(profile), "--set", "grpo.lr=1e-3"])
    settings = load_settings(args)
    assert (settings.grpo.recipe, settings.grpo.lr, settings.judge.style) == ("reagent_u", 1e-3, "full")


def test_problems_are_exported_and_read_back(tmp_path):
    """The made run has two problems for GRPO; no verifier's pair is among them, and no answer in a prompt."""
    from datasets import load_dataset

    folder = made_run(tmp_path)
    out = tmp_path / "data"
    assert export(folder, out, ["grpo"]) == {"grpo": 2}
    rows: Any = load_dataset(str(out), "grpo", split="train", cache_dir=str(tmp_path / "cache"))
    for row in rows:
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        assert row["prompt"][1]["content"] == row["question"]
    assert "One row a problem" in (out / "README.md").read_text()
    args = parse("grpo", ["--data", str(out), "--out", "o"])
    assert load_settings(args).grpo.recipe == "reagent_u"
    problems = read_problems(args)
    assert [(p.key, p.task.question, p.task.answer) for p in problems] == [
        (row["key"], row["question"], row["answer"]) for row in rows
    ]


def test_problems_of_a_file(tmp_path):
    path = tmp_path / "p.jsonl"
    records = [{"question": "a", "answer": "1"}, {"problem": "b", "ground_truth": "c", "task_type": "qa"}] * 2
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    problems = read_problems(parse("grpo", ["--tasks", f"jsonl:{path}", "--out", "o"]))
    assert [(p.task.answer, p.task.kind) for p in problems] == [("1", "math"), ("c", "qa")]
    with pytest.raises(ConfigError, match="no such file; give jsonl:PATH"):
        read_problems(parse("grpo", ["--tasks", "hf:polaris", "--out", "o"]))


def test_the_recipe_decides_what_is_trained_on(tmp_path, monkeypatch, capsys):
    given: dict[str, Any] = {}

    def train(problems: Any, around: Any, job: Any) -> dict[str, float]:
        given.update(around=around, problems=problems, job=job)
        return {"prompts": len(problems), "steps": 1}

    monkeypatch.setattr(grpo, "train_grpo", train)
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n')
    base = ["--tasks", f"jsonl:{path}", "--out", str(tmp_path / "o"), "--student", str(student(tmp_path))]
    assert grpo.main([*base, "--set", "grpo.recipe=reagent_r"]) == 0
    assert len(given["problems"]) == 1 and given["job"].settings.recipe == "reagent_r"
    capsys.readouterr()
    assert grpo.main(base) == 2
    assert "--tasks is for grpo.recipe=reagent_r" in capsys.readouterr().err


def student(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "student"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_run_gives_its_problems_to_the_recipe(tmp_path, monkeypatch):
    """Not the teacher's pairs; those of a named benchmark are left out."""
    given: dict[str, Any] = {}

    def train(problems: Any, around: Any, job: Any) -> dict[str, float]:
        given.update(around=around, problems=problems, job=job)
        return {"prompts": len(problems), "steps": 1}

    monkeypatch.setattr(grpo, "train_grpo", train)
    folder = made_run(tmp_path)
    with Store(folder / "store.sqlite") as store:
        run = open_run(folder, store)
        assert run.grpo(tmp_path / "start") == folder / "grpo" / "model"
        assert [p.task for p in given["problems"]] == run.parts["grpo"] and len(given["problems"]) == 2
        job = given["job"]
        assert (job.start, job.out) == (tmp_path / "start", folder / "grpo")
        assert (given["around"].context.style, given["around"].judge) == ("compact", JudgeConfig())
        run.benchmarks = {"held": [run.parts["grpo"][0].question]}
        assert [p.task for p in problems(run)] == run.parts["grpo"][1:]


@pytest.mark.parametrize("recipe", ["reagent_r", "reagent_u"])
def test_problems_that_no_rule_can_grade_are_refused(recipe):
    problems = [Problem("a", Task(question="a")), Problem("b", Task(question="b", answer="1"))]
    order = RECIPES[recipe].order
    with pytest.raises(DataError, match="1 of 2 problems cannot be graded by a rule"):
        order(problems, GrpoConfig(recipe=recipe), 0)
    assert order(problems[1:], GrpoConfig(recipe=recipe), 0) == problems[1:]
