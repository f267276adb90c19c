"""Settings: layers, errors that name the key, run folders."""

from pathlib import Path

import pytest
import yaml

from distill.config import (
    RunConfig,
    check_run_dir,
    data_hash,
    describe,
    flatten,
    load_config,
    profile_path,
    save_config,
)
from tools.errors import ConfigError, DataError


def value(key: str, *sets: str, profile: Path | None = None) -> object:
    return flatten(load_config(profile, sets))[key]


def test_defaults_profile_and_sets_in_this_order(tmp_path: Path) -> None:
    profile = tmp_path / "p.yaml"
    profile.write_text("teacher:\n  samples: 3\n  max_turns: 7\n")
    cfg = load_config(profile, ["teacher.samples=5", "sft.lr=1e-5"])
    assert (cfg.teacher.samples, cfg.teacher.max_turns, cfg.teacher.max_tool_calls) == (5, 7, 3)
    assert cfg.sft.lr == 1e-5
    assert load_config(profile, []).teacher.samples == 3


def test_every_field_is_described_and_classes_are_small() -> None:
    assert [key for key, text in describe().items() if not text and not key.startswith("sandbox.")] == []
    for name, info in RunConfig.model_fields.items():
        fields = getattr(info.annotation, "model_fields", {})
        assert len(fields) < 20, name


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("tasks.source=reasoning_gym:", "tasks.source", "reasoning_gym:"),
        ("tasks.source=jsonl:../data/a.jsonl", "tasks.source", "jsonl:../data/a.jsonl"),
        ("tasks.source=cloze:texts", "tasks.source", "cloze:texts"),
        ("name=007", "name", "007"),
        ("name=on", "name", "on"),
        ("name=2026-01-01", "name", "2026-01-01"),
        ("tasks.families={chain_sum: 1}", "tasks.families", {"chain_sum": 1.0}),
        (
            "tasks.families.chain_sum=2",
            "tasks.families",
            {"simple_equations": 0.45, "chain_sum": 2.0, "gsm_symbolic": 0.15},
        ),
        ("select.max_examples=null", "select.max_examples", None),
        ("tasks={n_eval: 3}", "tasks.n_eval", 3),
        ("sandbox.memory_mb=256", "sandbox.memory_mb", 256),
    ],
)
def test_values(text: str, key: str, expected: object) -> None:
    assert value(key, text) == expected


def test_roles_of_the_mixture_and_who_is_asked() -> None:
    """A role without weight is not learned; a refiner needs the judge, as do Reagent's rewards."""
    text = "mixture.weights={agent: 1, judge: 0, backward_verifier: 2}"
    cfg = load_config(None, [text, "grpo.steps=0"])
    assert cfg.mixture.roles == ("backward_verifier", "agent") and not cfg.asks_judge
    assert load_config(None, ["mixture.weights={refiner: 1}", "grpo.steps=0"]).asks_judge
    assert load_config(None, ["grpo.recipe=agentv:1,reagent_r:1"]).asks_judge
    assert not load_config(None, []).asks_judge


@pytest.mark.parametrize(
    ("weights", "answerer", "refines", "asks"),
    [
        ("{solver: 1, refiner: 1}", "solver", True, True),
        ("{agent: 1, refiner: 1, judge: 1}", "agent", True, False),  # the student criticises itself
        ("{agent: 1, refiner: 1}", "agent", True, True),
        ("{agent: 1, solver: 1, refiner: 1, judge: 1}", "solver", True, False),  # the solver goes before
        ("{agent: 1, solver: 0, judge: 1}", "agent", False, False),  # a role without weight is not learned
        ("{refiner: 1, judge: 1}", "solver", False, False),  # nobody learns to answer
    ],
)
def test_who_answers(weights: str, answerer: str, refines: bool, asks: bool) -> None:
    mixture = load_config(None, [f"mixture.weights={weights}", "grpo.steps=0"]).mixture
    assert (mixture.answerer, mixture.refines, mixture.needs_critic) == (answerer, refines, asks)
    outside = mixture.model_copy(update={"critic": "judge"})
    assert outside.needs_critic == refines  # the judge is asked wherever there is something to refine


def test_who_writes_the_candidates() -> None:
    acts = ("mixture.weights={agent: 1, refiner: 1}", "grpo.steps=0")
    named = ("solver.model=org/m", "solver.base_url=http://a/v1")
    assert load_config(None, acts).answering_model == "scripted-agent"
    assert load_config(None, [*acts, *named]).answering_model == load_config(None, named).answering_model == "org/m"
    assert load_config(None, []).answering_model == "scripted-solver"


def test_an_agent_needs_no_python_and_verifiers_do() -> None:
    """Verifiers' prompts tell them to use python: also those that only GRPO's recipe asks for."""
    acts = ["mixture.weights={agent: 2, refiner: 1, judge: 1}", "tools.enabled=[search]"]
    assert load_config(None, [*acts, "grpo.recipe=reagent_u"]).tools.enabled == ("search",)
    for bad in (["mixture.weights={agent: 1, forward_verifier: 1}", "grpo.recipe=reagent_u"], ["grpo.recipe=agentv"]):
        with pytest.raises(ConfigError, match=r"tools\.enabled should hold python"):
            load_config(None, [*acts, "grpo.steps=0", *bad])


def test_section_mapping_keeps_its_other_keys() -> None:
    assert value("tasks.n_grpo", "tasks.n_grpo=5", "tasks={n_eval: 3}") == 5


def test_several_urls() -> None:
    urls = "http://a:1/v1,http://b:1/v1"
    for text in (urls, "[http://a:1/v1, http://b:1/v1]"):
        assert value("teacher.base_url", f"teacher.base_url={text}", "teacher.model=q") == urls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher.modle=x", "unknown key 'teacher.modle'; did you mean teacher.model?"),
        ("n_harvest=3", "unknown key 'n_harvest'; did you mean tasks.n_harvest?"),
        ("k=3", "unknown key 'k'; did you mean solver.k or eval.k?"),
        ("tacher.samples=3", "unknown key 'tacher.samples'; did you mean teacher.samples"),
        ("sft.learning_rat.x=1", "unknown key 'sft.learning_rat.x'; did you mean"),
        ("tasks.n_harvest=abc", "tasks.n_harvest: expected a valid integer, got 'abc'"),
        ("tasks.n_harvest=1.5", "tasks.n_harvest: expected a valid integer, got 1.5"),
        ("tasks.n_harvest=0", "tasks.n_harvest: expected greater than or equal to 1, got 0"),
        ("select.balance=maybe", "select.balance: expected a valid boolean, got 'maybe'"),
        ("sandbox.backend=docker", "sandbox.backend: expected 'local' or 'e2b', got 'docker'"),
        ("sandbox.e2b.templat=x", "unknown key 'sandbox.e2b.templat'; did you mean sandbox.e2b.template?"),
        ("sandbox.e2b.lease_seconds=0", "sandbox.e2b.lease_seconds: expected greater than or equal to 1, got 0"),
        ("teacher.style=long", "teacher.style: expected 'compact' or 'full', got 'long'"),
        ("sft.lr=.nan", "sft.lr: expected a finite number, got nan"),
        ("tasks=5", "tasks: expected a valid dictionary, got 5"),
        ("seed.x=1", "seed is a value, not a section"),
        ("foo", "--set 'foo': expected a.b=c"),
        ("=3", "--set '=3': expected a.b=c"),
        ("sft.lr=[1", "--set 'sft.lr=[1': the value is not YAML"),
        ("name=../x", "name: should be a plain folder name, got '../x'"),
        ("tasks.families={chain_sum: 0}", "tasks.families: should give at least one a weight above 0"),
        ("teacher.base_url=http://a:1/v1", "base_url is given but model is still 'scripted-teacher'"),
        ("mixture.weights={judge: 0}", "mixture.weights: should give at least one a weight above 0, and none below"),
        ("mixture.weights={judge: 1, agent: -1}", "mixture.weights: should give at least one a weight above 0"),
        ("mixture.weights={}", "mixture.weights: should give at least one a weight above 0"),
        ("mixture.weights={judg: 1}", "mixture.weights.judg"),
        ("mixture.agent_turns=0", "mixture.agent_turns: expected greater than or equal to 1, got 0"),
    ],
)
def test_errors_are_one_precise_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, [text])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_profiles(tmp_path: Path) -> None:
    assert profile_path(None).name == "default.yaml"
    with pytest.raises(ConfigError, match=r"no profile 'nope'; there are .*default"):
        load_config("nope")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nseed: [1\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml line 3: not YAML"):
        load_config(broken)
    broken.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected `key: value` lines, got list"):
        load_config(broken)
    broken.write_text("teacher: {modle: x}\n")
    with pytest.raises(ConfigError, match=r"'teacher\.modle'; did you mean teacher\.model\?"):
        load_config(broken)


def test_saved_settings_load_again(tmp_path: Path) -> None:
    cfg = load_config(None, ["grpo.lr=5e-6", "tasks.source=jsonl:x", "teacher.max_seconds=1.5"])
    path = save_config(cfg, tmp_path / "new" / "run")
    assert load_config(path) == cfg
    assert [p.name for p in path.parent.iterdir()] == ["config.yaml"]
    assert yaml.safe_load(path.read_text())["grpo"]["lr"] == 5e-6


def test_save_names_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*config\.yaml"):
        save_config(RunConfig(), tmp_path / "file" / "run")


def test_run_folder_of_other_settings_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "demo"
    check_run_dir(run, RunConfig())
    run.mkdir()
    check_run_dir(run, RunConfig())
    path = save_config(RunConfig(), run)
    before = path.read_bytes()
    check_run_dir(run, RunConfig())
    with pytest.raises(ConfigError, match=r"sft\.lr: 0\.001 there, 0\.5 here.*--set name=") as raised:
        check_run_dir(run, load_config(None, ["sft.lr=0.5"]))
    assert "more" not in str(raised.value)
    with pytest.raises(ConfigError, match="and 1 more"):
        check_run_dir(run, load_config(None, ["seed=1", "sft.lr=1", "sft.batch=1", "grpo.steps=1"]))
    assert path.read_bytes() == before


def test_operational_settings_may_change_on_resumption(tmp_path: Path) -> None:
    there = load_config(None, ["teacher.model=q", "teacher.base_url=http://a:1/v1"])
    save_config(there, tmp_path)
    moved = load_config(
        None, ["teacher.model=q", "teacher.base_url=http://b:1/v1", "teacher.concurrency=2", "sandbox.max_live=3"]
    )
    check_run_dir(tmp_path, moved)
    assert data_hash(moved) == data_hash(there)


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="not the folder of a run"):
        check_run_dir(tmp_path, RunConfig())


def test_data_hash_follows_what_makes_the_data() -> None:
    base = data_hash(RunConfig())
    assert data_hash(load_config(None, ["sft.lr=1", "select.balance=false", "name=x"])) == base
    for text in ("seed=1", "tasks.n_harvest=65", "solver.k=4", "teacher.error_rate=0", "sandbox.exec_seconds=1"):
        assert data_hash(load_config(None, [text])) != base, text
