"""The real command at tiny size: what it leaves, kill and resume, bad input, nothing accepted."""

import json
from pathlib import Path
from typing import Any

import pytest

from agents.store import Store
from tests.integration.commands import kill_when, trajectories_in
from tests.integration.conftest import TINY, Outcome, read_json, run_cli

pytestmark = pytest.mark.integration


def test_the_run_ends_well(tiny_run: Outcome):
    assert tiny_run.code == 0, tiny_run.err
    assert "SFT+GRPO" in tiny_run.out and "scripted auditor, not a language model" in tiny_run.out
    assert "Traceback" not in tiny_run.err


def test_results_hold_every_figure(tiny_run: Outcome):
    results = read_json(tiny_run.folder / "results.json")
    for stage in ("base", "sft", "grpo"):
        held = results["held_out"][stage]
        assert held["n"] == 6
        for key in (
            "accuracy",
            "balanced_accuracy",
            "tpr",
            "tnr",
            "auroc",
            "ece",
            "format_rate",
            "tool_calls",
            "tokens",
        ):
            assert key in held
    assert {"pass_at_1", "majority", "verifier", "weighted", "oracle"} <= results["best_of_n"].keys()
    assert {"harvest", "select", "sft", "grpo", "eval", "total"} == results["wall_s"].keys()
    assert all(seconds > 0 for seconds in results["wall_s"].values())
    assert results["funnel"]["generated"] >= results["funnel"]["selected"] > 0
    assert 500 < results["peak_memory_mb"] < 6000


def test_files_of_a_run(tiny_run: Outcome):
    for name in ("config.yaml", "report.md", "sft/metrics.jsonl", "grpo/metrics.jsonl", "model/chat_template.jinja"):
        assert (tiny_run.folder / name).stat().st_size > 0
    steps = [json.loads(line) for line in (tiny_run.folder / "grpo" / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps] == [1]
    for key in ("reward/mean", "groups/zero_variance", "clip_ratio/region_mean", "time/rollout_s", "time/step_s"):
        assert key in steps[0]


def test_the_model_loads_in_transformers_and_answers(tiny_run: Outcome):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_run.folder / "model"
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert "generation" in tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>" and model.generation_config.eos_token_id == tokenizer.eos_token_id
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_the_same_command_again_repeats_nothing(tiny_run: Outcome):
    before = read_json(tiny_run.folder / "results.json")
    done = run_cli("name=tiny", f"out={tiny_run.folder.parent}", *TINY)
    assert done.returncode == 0, done.stderr
    after = read_json(tiny_run.folder / "results.json")
    assert after["held_out"] == before["held_out"] and after["wall_s"]["sft"] == before["wall_s"]["sft"]


def rows_of(folder: Path, model: str) -> list[tuple]:
    with Store(folder / "store.sqlite", readonly=True) as store:
        return [
            (r.task.id, r.candidate.text, r.trajectory.role, r.trajectory.stop_reason, r.trajectory.verdict)
            for r in store
            if r.trajectory.model == model
        ]


def test_kill_and_resume_in_the_harvest_and_in_training(tiny_run: Outcome, tmp_path: Path):
    sets = ("name=tiny", f"out={tmp_path}", *TINY)
    folder = tmp_path / "tiny"
    conditions = (
        lambda: trajectories_in(folder) >= 5,
        lambda: trajectories_in(folder) >= 20,
        lambda: any(folder.glob("sft/checkpoint-1/trainer_state.json")),
    )
    for reached in conditions:
        kill_when(reached, "distill.run", "--set", *sets)
    done = run_cli(*sets)
    assert done.returncode == 0, done.stderr
    assert rows_of(folder, "scripted-teacher") == rows_of(tiny_run.folder, "scripted-teacher")
    ours, theirs = read_json(folder / "results.json"), read_json(tiny_run.folder / "results.json")
    assert ours["funnel"] == theirs["funnel"]
    steps = [json.loads(line)["step"] for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_another_config_in_the_folder_is_refused(tiny_run: Outcome):
    before = {p: p.stat().st_mtime_ns for p in tiny_run.folder.rglob("*") if p.is_file()}
    done = run_cli("name=tiny", f"out={tiny_run.folder.parent}", *TINY, "sft.lr=0.5")
    assert done.returncode == 2
    assert "sft.lr" in done.stderr and done.stderr.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in tiny_run.folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["sft.bach=1"], "sft.batch"),
        (["sft.batch=many"], "sft.batch"),
        (["tasks.source=jsonl:/no/such/file.jsonl"], "/no/such/file.jsonl"),
        (["tasks.source=jsonl:{bad}"], "bad.jsonl:2"),
        (["tasks.source=jsonl:{empty}"], "holds no task"),
        (["tasks.source=cloze:/no/such/corpus"], "/no/such/corpus"),
        (["tasks.source=cloze:{empty}"], "makes a question"),
        (["teacher.model=x", "teacher.base_url=http://127.0.0.1:9/v1"], "127.0.0.1:9"),
        (["student.model=/no/such/model"], "/no/such/model"),
        (["tools.enabled=python,vision", "teacher.style=full"], "tools.vision.base_url"),
        (["out=/proc/retort"], "/proc/retort"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, sets: list[str], said: str):
    (tmp_path / "bad.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n{oops\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    filled = [s.format(bad=tmp_path / "bad.jsonl", empty=tmp_path / "empty.jsonl") for s in sets]
    done = run_cli(f"out={tmp_path}/runs", *TINY, *filled)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_nothing_accepted_is_a_sentence_and_exit_code_3(tmp_path: Path):
    done = run_cli("name=none", f"out={tmp_path}", *TINY, "teacher.error_rate=1.0", "tasks.families={chain_sum: 1}")
    assert done.returncode == 3, done.stderr
    assert "nothing of" in done.stderr and "stronger teacher" in done.stderr
