"""Exported data: the selection of the run, read back by `datasets`, and taken by TRL's SFTTrainer as it is."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.store import Store
from agents.types import ROLES
from distill.card import Contents, card
from distill.config import load_config
from distill.export import export, main, open_run, write_rows
from distill.prompts import prompts_of
from tests.unit.made_run import make_run
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from tools.errors import ConfigError, DataError
from train.inputs import read_mixed
from train.launch import load_settings, read_rows
from train.launch import parse as parse_training
from train.pools import Problem
from train.sft import IGNORED, tokenize


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a small run."""
    return make_run(tmp_path)


def test_both_kinds_are_read_back(run, tmp_path):
    """Forward: two problems have a right and a wrong review (2 pairs); backward is cut to as many: 8 rows."""
    from datasets import load_dataset

    out = tmp_path / "data"
    assert export(run, out) == {"sft": 8, "grpo": 8}
    cache = str(tmp_path / "cache")
    sft: Any = load_dataset(str(out), split="train", cache_dir=cache)  # the default configuration
    assert sft.num_rows == 8
    assert sorted(set(sft["role"])) == sorted(ROLES) and sum(sft["verdict"]) == 4
    messages = sft[0]["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[3]["content"] == "<tool_response>\n2\n</tool_response>"
    assert set(sft["model"]) == {"scripted-teacher"} and set(sft["completion_tokens"]) == {7}

    grpo: Any = load_dataset(str(out), "grpo", split="train", cache_dir=cache)
    assert grpo.num_rows == 8 and sum(grpo["label"]) == 4
    for row in grpo:
        assert [m["role"] for m in row["prompt"]] == ["system", "user"]
        assert row["label"] is (row["solution"] == "A: 0")
        assert row["prompt"][1]["content"] == f"{row['role']}: {row['problem']}, {row['solution']}?"
    assert not set(grpo["task_id"]) & set(sft["task_id"])


def test_trl_supervises_the_same_tokens_as_the_run(run, tmp_path):
    """SFTTrainer, given the exported rows and template, masks what `train.sft` masks."""
    from datasets import load_dataset
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from distill.select import to_examples

    out = tmp_path / "data"
    export(run, out, ["sft"])
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (out / "chat_template.jinja").read_text()
    assert tokenizer.chat_template == TEMPLATE
    trainer = SFTTrainer(
        model=tiny_model(),
        args=SFTConfig(
            output_dir=str(tmp_path / "t"),
            assistant_only_loss=True,
            max_length=512,
            use_cpu=True,
            bf16=False,
            report_to=[],
        ),
        train_dataset=load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache")),  # pyright: ignore
        processing_class=tokenizer,
    )
    theirs = [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]  # pyright: ignore
    with Store(run / "store.sqlite", readonly=True) as store:
        ours, _ = tokenize(to_examples(open_run(run, store).choose().rows), tokenizer, 512)
    assert theirs == [(row["input_ids"], row["labels"]) for row in ours]
    assert all(sum(label != IGNORED for label in labels) > 5 for _, labels in theirs)


def test_the_card_says_what_it_is(run, tmp_path):
    out = tmp_path / "data"
    export(run, out, ["sft"])
    _, head, text = (out / "README.md").read_text().split("---\n", 2)
    header = yaml.safe_load(head)
    assert header["configs"] == [
        {"config_name": "sft", "data_files": [{"split": "train", "path": "sft/train-*.parquet"}], "default": True}
    ]
    assert header["license"] == "other" and header["size_categories"] == ["n<1K"]
    assert "| right_verdict | 11 |" in text  # 12 trajectories, one verdict wrong
    assert "a program, not a language model" in text and "Not decided by Retort" in text
    assert "## `grpo`" not in text


def test_the_card_names_benchmarks_and_free_data():
    text = card(load_config(), Contents({"grpo": 2_000}, None, {"math500": ["q"] * 500}))
    assert "`math500` (500 questions)" in text and "license: apache-2.0" in text and "1K<n<10K" in text


def with_recipes(run: Path, recipe: str) -> Path:
    """Let the run mix recipes; its problems' answers are words that stand nowhere else."""
    path = run / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["grpo"]["recipe"] = recipe
    settings["mixture"]["weights"]["judge"] = 1.0
    path.write_text(yaml.safe_dump(settings))
    source = Path(settings["tasks"]["source"].partition(":")[2])
    rows = [json.loads(line) | {"answer": f"SECRET-{i}"} for i, line in enumerate(source.read_text().splitlines())]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize(
    ("recipe", "counts"),
    [
        ("agentv:2,rrm:1,reagent_u:1", {"agentv": 8, "rrm": 4, "reagent_u": 2}),
        ("rrm:1,agentv:1", {"agentv": 8, "rrm": 4}),  # no problem among them
        ("rrm:1,reagent_r:1", {"rrm": 4, "reagent_r": 2}),
    ],
)
def test_mixed_prompts_are_read_back(run, tmp_path, recipe, counts):
    """2 problems of 2 solutions, each for 2 verifiers and the judge; what rewards need is in no message."""
    out = tmp_path / "data"
    assert export(with_recipes(run, recipe), out, ["grpo"]) == {"grpo": sum(counts.values())}
    args = parse_training("grpo", ["--data", str(out), "--out", "o"])
    read = read_mixed(args)
    assert Counter(p.recipe for p in read) == counts and load_settings(args).grpo.recipe == recipe
    with Store(run / "store.sqlite", readonly=True) as store:
        made = prompts_of(open_run(run, store))
    assert [p.key for p in read] == [p.key for p in made]
    for ours, theirs in zip(made, read, strict=True):
        if isinstance(ours.prompt, Problem):
            assert isinstance(theirs.prompt, Problem)
            task, back = ours.prompt.task, theirs.prompt.task
            assert back == task.model_copy(update={"source": back.source}) and "SECRET-" in str(back.answer)
        else:
            assert ours == theirs and ours.prompt.label is (ours.prompt.solution == "A: 0")
    rows = read_rows(str(out), "grpo", ("recipe", "prompt", "source"))
    for row in rows:
        told = [m["content"] for m in row["prompt"]]
        assert not [text for text in told if "SECRET" in text or "True" in text or "label" in text]
        assert (row.get("question") or row["problem"]) in told[1]
    if "rrm" in counts:  # messages of a right and of a wrong solution differ in the solution alone
        judged = [r for r in rows if r["recipe"] == "rrm"]
        shown = {json.dumps(r["prompt"]).replace(r["solution"], "").replace(r["problem"], "") for r in judged}
        assert {r["label"] for r in judged} == {True, False} and len(shown) == 1
    assert "One row a prompt of a `recipe`" in (out / "README.md").read_text()


def test_mixed_data_without_a_column_is_one_line(run, tmp_path):
    """Data of one recipe, read as a mixture's; problems of a file, which have no recipe."""
    out = tmp_path / "data"
    export(run, out, ["grpo"])
    with pytest.raises(DataError, match="no column recipe"):
        read_mixed(parse_training("grpo", ["--data", str(out), "--out", "o"]))
    write_rows([{"recipe": "rrm", "key": "k", "problem": "p"}], tmp_path / "less" / "grpo")
    with pytest.raises(DataError, match="no column solution, role, label; there are recipe, key, problem"):
        read_mixed(parse_training("grpo", ["--data", str(tmp_path / "less"), "--out", "o"]))
    with pytest.raises(ConfigError, match="several recipes train on --data"):
        read_mixed(parse_training("grpo", ["--tasks", "jsonl:x", "--out", "o"]))


def test_what_goes_wrong_is_one_line(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for args, said, code in [
        (["--run", str(run), "--out", str(tmp_path / "full")], "is there already", 2),
        (["--run", str(tmp_path / "none"), "--out", str(tmp_path / "x")], "no store at", 2),
        (["--run", str(run), "--out", str(tmp_path / "data"), "--what", "sft"], None, 0),
    ]:
        assert main(args) == code
        told = capsys.readouterr()
        assert said is None or (said in told.err and told.err.count("\n") == 1)
    assert "sft: 8 rows" in told.out
    before = {p.name: p.stat().st_mtime_ns for p in run.iterdir()}
    assert "stages.json" not in before  # the run's folder is only read


def test_nothing_selected_is_exit_code_3(run, tmp_path, capsys):
    config = run / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["select"]["max_completion_tokens"] = 1
    config.write_text(yaml.safe_dump(settings))
    assert main(["--run", str(run), "--out", str(tmp_path / "data"), "--what", "sft"]) == 3
    assert "nothing to export for sft" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
