"""Training from exported data: settings, rows, and both commands end to end on a tiny model."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from distill import export
from distill.config import load_config
from distill.sections import RunConfig
from tests.unit.made_run import make_run
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from tools.errors import ConfigError, DataError
from train import grpo, sft
from train.callbacks import trainer_callback
from train.launch import OF_A_RUN, REPORT, load_settings, parse, read_rows
from train.settings import TrainingSettings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What is exported of a small run."""
    export.export(make_run(tmp_path), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A tiny ChatML model in a folder."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def settings(*argv: str, data: str = "none") -> Any:
    return load_settings(parse("sft", ["--data", data, "--out", "x", *argv]))


def test_settings_come_from_the_export_then_from_the_line(data):
    assert settings(data=str(data)).sft == settings().sft
    (data / "settings.yaml").write_text("seed: 3\nsft: {lr: 0.5, batch: 6}\n")
    made = settings("--set", "sft.lr=1e-5", "grpo.loss.beta=0.1", "--student", "org/m", data=str(data))
    assert (made.seed, made.sft.lr, made.sft.batch) == (3, 1e-5, 6)
    assert (made.grpo.loss.beta, made.student.model) == (0.1, "org/m")


def test_the_export_holds_the_runs_settings(data, tmp_path):
    cfg = yaml.safe_load((tmp_path / "made" / "config.yaml").read_text())
    saved = yaml.safe_load((data / "settings.yaml").read_text())
    assert {name: saved[name] for name in ("student", "sft", "grpo")} == {
        name: cfg[name] for name in ("student", "sft", "grpo")
    }
    assert saved["style"] == cfg["teacher"]["style"]


PROFILES = sorted((ROOT / "distill" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_serves_as_settings_of_the_training(path):
    """What it says of training is taken, what it says of the rest of a run is passed over."""
    profile: dict[str, Any] = yaml.safe_load(path.read_text())
    made = load_settings(parse("grpo", ["--data", "none", "--out", "x", "--settings", str(path)])).model_dump()
    for name in ("student", "sft", "grpo", "judge"):
        given = {key: value for key, value in profile.get(name, {}).items() if not isinstance(value, dict)}
        assert {key: made[name][key] for key in given} == given


def test_a_profile_with_a_mixture_is_read():
    path = ROOT / "distill" / "profiles" / "unified.yaml"
    assert "mixture" in yaml.safe_load(path.read_text())
    made = load_settings(parse("grpo", ["--tasks", "jsonl:x", "--out", "x", "--settings", str(path)]))
    assert made.grpo.shares == {"agentv": 2.0, "rrm": 1.0, "reagent_u": 1.0} and made.answers == "solver"


def test_a_runs_sections_are_of_training_or_known_to_be_not():
    """A new section of a run that training does not know would make its profiles unreadable."""
    assert set(RunConfig.model_fields) <= set(OF_A_RUN) | set(TrainingSettings.model_fields)
    assert not set(OF_A_RUN) & set(TrainingSettings.model_fields)


@pytest.mark.parametrize(
    ("weights", "answers"), [({"agent": 1, "judge": 1}, "agent"), ({"agent": 1, "solver": 1}, "solver")]
)
def test_who_answers_is_exported(weights, answers, tmp_path):
    run: Any = SimpleNamespace(cfg=load_config(None, [f"mixture.weights={weights}", "grpo.recipe=reagent_u"]))
    (tmp_path / "settings.yaml").write_text(export._settings(run))
    assert settings(data=str(tmp_path)).answers == answers


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--set", "sft.rl=1"], "sft.rl: Extra inputs"),
        (["--set", "sft.lr=-1"], "sft.lr: .*greater than 0, got -1"),
        (["--set", "sft"], "expected a.b=c"),
        (["--set", "answers=refiner"], "answers: Input should be 'solver' or 'agent'"),
        (["--set", "seed.x=1", "seed.x.y=2"], "is a value"),
        (["--settings", "/none.yaml"], "/none.yaml: cannot be read"),
    ],
)
def test_wrong_settings_are_one_line(argv, said):
    with pytest.raises(ConfigError, match=said):
        settings(*argv)


def test_wrong_data_are_one_line(data, capsys):
    with pytest.raises(DataError, match=r"no sft data there.*distill\.export"):
        read_rows("/none", "sft", ())
    with pytest.raises(DataError, match="no column colour; there are messages"):
        read_rows(str(data), "sft", ("messages", "colour"))
    assert sft.main(["--data", "/none", "--out", "/none", "--student", "/none"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: student.model='/none'") and told.count("\n") == 1


def test_rows_are_those_of_the_folder_not_of_another_of_its_name(data, tmp_path):
    """The cache of `datasets` goes by a folder's last name: two folders `data` would be one."""
    import pyarrow as pa
    import pyarrow.parquet

    other = tmp_path / "other" / "data" / "sft"
    other.mkdir(parents=True)
    (other.parent / "README.md").write_text((data / "README.md").read_text())
    for i in range(2):
        table = pa.table({"messages": [[{"role": "user", "content": f"{i}"}]]})
        pyarrow.parquet.write_table(table, other / f"train-0000{i}-of-00002.parquet")
    assert len(read_rows(str(data), "sft", ("messages",))) == 8
    assert [row["messages"][0]["content"] for row in read_rows(str(other.parent), "sft", ("messages",))] == ["0", "1"]
    (other / "train-00000-of-00002.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="no sft data there"):
        read_rows(str(other.parent), "sft", ())


def test_sft_trains_on_exported_rows(data, student, tmp_path, capsys):
    out = tmp_path / "trained"
    small = ["--set", "sft={max_steps: 2, batch: 2}", "student.lora_rank=2", "student.max_length=512"]
    assert sft.main(["--data", str(data), "--student", str(student), "--out", str(out), *small]) == 0
    report = json.loads((out / REPORT).read_text())
    assert report["rows"] == 8 and report["too_long"] == 0
    assert (out / "model" / "model.safetensors").is_file() and (out / "model" / "chat_template.jinja").is_file()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    told = capsys.readouterr()
    assert "sft: step 2/2" in told.err and f"model {out / 'model'}" in told.out


def test_grpo_is_given_the_exported_prompts(data, student, tmp_path, monkeypatch):
    given: dict[str, Any] = {}

    def train_grpo(prompts: list, around: Any, job: Any) -> dict[str, float]:
        given.update(around._asdict(), prompts=prompts, start=job.start)
        return {"prompts": len(prompts), "steps": 1}

    monkeypatch.setattr(grpo, "train_grpo", train_grpo)
    notes = tmp_path / "notes"
    notes.mkdir()
    tools = f"tools: {{enabled: [python, files], folder: {notes}, files: {{folder: {notes}}}}}"
    (data / "settings.yaml").write_text(f"style: full\ngrpo: {{max_turns: 9}}\n{tools}\n")
    assert grpo.main(["--data", str(data), "--student", str(student), "--out", str(tmp_path / "g")]) == 0
    assert len(given["prompts"]) == 8 and len({p.key for p in given["prompts"]}) == 8
    assert sum(p.label for p in given["prompts"]) == 4 and given["start"] == student
    assert (given["context"].style, given["context"].max_turns, given["context"].top_logprobs) == ("full", 9, None)

    async def names() -> set[str]:
        async with given["open_tools"]() as opened:
            return set(opened)

    assert asyncio.run(names()) == {"python", "files"}


def test_prompts_that_do_not_tell_of_a_tool_are_refused(data, student, tmp_path, capsys):
    (data / "settings.yaml").write_text("tools: {enabled: [python, files]}\n")
    assert grpo.main(["--data", str(data), "--student", str(student), "--out", str(tmp_path / "g")]) == 2
    assert "prompts of style=compact speak of python alone" in capsys.readouterr().err


def test_only_the_main_process_writes(tmp_path):
    shown: list[int] = []
    callback = trainer_callback(tmp_path / "m.jsonl", lambda step, steps, row: shown.append(step), "sft")
    for main_process in (False, True):
        state: Any = SimpleNamespace(global_step=1, max_steps=1, is_world_process_zero=main_process)
        callback.on_train_begin(None, state, None)  # pyright: ignore[reportArgumentType]
        callback.on_log(None, state, None, logs={"loss": 1.0})  # pyright: ignore[reportArgumentType]
        assert len(shown) == int(main_process)
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero3"])
def test_accelerate_reads_the_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(ROOT / "train" / "accelerate" / f"{name}.yaml"))
    assert config.mixed_precision == "bf16" and config.num_processes == 4
    if name == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    else:
        assert config.deepspeed_config["zero_stage"] == 3 and config.deepspeed_config["zero3_save_16bit_model"] is True
