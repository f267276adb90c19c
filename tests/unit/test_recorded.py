"""Reviews that a run made itself: read in place of a model, and told apart from settings that would make others."""

import json
from pathlib import Path

import pytest

from agents.store import Store
from agents.types import ROLES, StopReason, Trajectory, Verdict
from eval import ablations, best_of_n_command, verdicts
from eval.recorded import RunStage, recorded
from tests.unit.test_ablations import run_of
from tests.unit.test_reviews import PROBLEMS

HELD_OUT = PROBLEMS[0]  # right, wrong, and the first one's text again


def reviewed(tmp_path: Path, stage: str = "grpo", candidates: int = 2) -> Path:
    """Make a run whose model of a stage reviewed held-out candidates: forward all well, backward always false."""
    run = run_of(tmp_path)
    with Store(run / "store.sqlite") as store:
        for candidate in HELD_OUT.candidates[:candidates]:
            for role in ROLES:
                passed = bool(candidate.correct) and role == "forward_verifier"
                store.add_trajectory(
                    Trajectory(
                        task_id=HELD_OUT.task.id,
                        candidate_id=candidate.id,
                        role=role,
                        model=f"student:{stage}",
                        verdict=Verdict(passed=passed, score=0.9 if passed else 0.1, source="logprobs"),
                        stop_reason=StopReason.COMPLETED,
                    )
                )
    return run


def test_names(tmp_path: Path):
    run = run_of(tmp_path)
    assert recorded(f"{run}:grpo") == RunStage(run, "grpo")
    assert recorded(f"{run}:best") is None and recorded(f"{tmp_path}:grpo") is None and recorded("org/model") is None


def test_variants_are_read_off_without_a_model(tmp_path: Path):
    run, out = reviewed(tmp_path), tmp_path / "out"
    command = ["--candidates", str(run), "--model", f"{run}:grpo", "--out", str(out), "--bootstrap", "0"]
    assert ablations.main(command) == 0
    made = json.loads((out / "ablations.json").read_text())["variants"]
    found = {name: variant["metrics"]["balanced_accuracy"] for name, variant in made.items()}
    assert found == {"both": 0.5, "forward": 1.0, "backward": 0.5, "cascade": 1.0}  # 0.9 and 0.1 decide forward


def test_settings_that_would_make_other_reviews_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = reviewed(tmp_path)
    command = ["--candidates", str(run), "--model", f"{run}:grpo", "--out", str(tmp_path / "out")]
    assert verdicts.main([*command, "--set", "aggregation=min"]) == 0
    assert verdicts.main([*command, "--set", "use_tools=false"]) == 2
    assert "made already, so use_tools cannot be set" in capsys.readouterr().err


def test_selective_verification_has_nothing_to_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = reviewed(tmp_path)
    command = ["--candidates", str(run), "--model", f"{run}:grpo", "--out", str(tmp_path / "out"), "--selective"]
    assert best_of_n_command.main(command) == 2
    assert "are made already: leave --selective out" in capsys.readouterr().err


@pytest.mark.parametrize(("stage", "candidates", "missing"), [("grpo", 1, "1 of 2"), ("sft", 2, "2 of 2")])
def test_a_review_that_is_missing_is_one_line(
    stage: str, candidates: int, missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = reviewed(tmp_path, stage, candidates)
    assert verdicts.main(["--candidates", str(run), "--model", f"{run}:grpo", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"has no reviews of {missing} candidates" in told and told.count("\n") == 1
