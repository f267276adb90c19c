"""The bookkeeping of a run's stages: what a kill leaves behind."""

import json
import time
from pathlib import Path

import pytest

from agents.store import Store
from distill import pipeline
from distill.config import load_config
from distill.inputs import load_parts
from distill.pipeline import Run


def stages_of(folder: Path) -> dict[str, dict]:
    path = folder / "stages.json"
    return json.loads(path.read_text()) if path.exists() else {}


def a_run(tmp_path: Path, store: Store) -> Run:
    cfg = load_config(None, ["name=r", f"out={tmp_path}"])
    cfg.run_dir.mkdir(exist_ok=True)
    return Run(cfg, {}, store)


def test_the_time_of_a_stage_that_is_killed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "NOTE_SECONDS", 0.01)
    with Store(tmp_path / "store.sqlite") as store:
        run = a_run(tmp_path, store)
        with run.stage("sft"):
            time.sleep(0.1)
            seen = stages_of(run.dir)  # what a kill at this moment would leave
        assert 0 < seen["sft"]["wall_s"] <= stages_of(run.dir)["sft"]["wall_s"]
        assert "done" not in seen["sft"] and run.done("sft")


def test_sittings_add_up_and_a_failed_one_counts(tmp_path: Path):
    with Store(tmp_path / "store.sqlite") as store:
        run = a_run(tmp_path, store)
        with pytest.raises(ValueError), run.stage("sft"):
            raise ValueError
        first = run.stages["sft"]["wall_s"]
        assert first > 0 and not run.done("sft")
        again = a_run(tmp_path, store)
        with again.stage("sft") as entry:
            entry["report"] = {"loss": 1.0}
        assert again.done("sft") and again.stages["sft"]["wall_s"] > first
        assert stages_of(again.dir)["sft"]["report"] == {"loss": 1.0}


def test_the_harvest_has_more_of_what_is_hard_and_shares_no_problem():
    mix = ("tasks.families={chain_sum: 0.5, simple_equations: 0.5}", "tasks.harvest_emphasis={chain_sum: 3}")
    sizes = ("tasks.n_harvest=16", "tasks.n_grpo=8", "tasks.n_eval=8")
    parts = load_parts(load_config(None, [*mix, *sizes]))
    assert {name: len(part) for name, part in parts.items()} == {"harvest": 16, "grpo": 8, "eval": 8}
    sums = {name: sum(t.source.endswith("chain_sum") for t in part) for name, part in parts.items()}
    assert sums["harvest"] == 12 and sums["grpo"] + sums["eval"] == 8  # 3 to 1, and 1 to 1
    assert len({t.id for part in parts.values() for t in part}) == 32
