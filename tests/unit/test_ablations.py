"""Variants of the verifier: what is read off the reviews of both directions, what is reviewed anew, and the table."""

import json
from pathlib import Path

import pytest

from agents.store import Store
from agents.types import StopReason, Trajectory, Verdict
from eval import ablations
from eval.ablations import VARIANTS, options, read_off_reviews, variants
from eval.candidates import load_candidates
from graphs.state import BidirectionalContext
from tests.unit.fakes import EvenJudge
from tests.unit.test_reviews import PROBLEMS, judge  # noqa: F401
from tools.errors import DataError


def sides(forward: float, backward: float) -> dict[str, Trajectory]:
    """Return reviews of both directions with such confidences."""
    made = {"forward_verifier": forward, "backward_verifier": backward}
    return {
        role: Trajectory(
            role=role,  # pyright: ignore[reportArgumentType]
            verdict=Verdict(passed=score > 0.5, score=score, source="logprobs"),
            stop_reason=StopReason.COMPLETED,
        )
        for role, score in made.items()
    }


@pytest.mark.parametrize(
    ("settings", "forward", "kept"),
    [
        ({"directions": "forward"}, 0.5, {"forward_verifier"}),
        ({"directions": "backward"}, 0.5, {"backward_verifier"}),
        ({"cascade": (0.2, 0.8)}, 0.5, {"forward_verifier", "backward_verifier"}),
        ({"cascade": (0.2, 0.8)}, 0.9, {"forward_verifier"}),
        ({"cascade": (0.2, 0.8)}, 0.1, {"forward_verifier"}),
    ],
)
def test_what_another_verifier_would_not_have_asked_is_left_out(settings: dict, forward: float, kept: set[str]):
    assert set(read_off_reviews(sides(forward, 0.3), BidirectionalContext(**settings))) == kept


def test_names_are_checked(capsys: pytest.CaptureFixture[str]):
    assert variants("both, no_tools,both") == ("both", "no_tools")
    base = ["--candidates", "f", "--model", "m"]
    for bad, told in ((["--variants", "bath"], "no variant 'bath'"), (["--band", "0.9,0.1"], "LOW,HIGH")):
        with pytest.raises(SystemExit):
            options().parse_args([*base, *bad])
        assert told in capsys.readouterr().err


def run_of(tmp_path: Path) -> Path:
    """Make the store of a run in which the first problem is held out."""
    run = tmp_path / "run"
    run.mkdir()
    with Store(run / "store.sqlite") as store:
        for problem in PROBLEMS:
            store.add_task(problem.task)
            store.add_candidates(problem.task.id, problem.candidates)
        store.hold_out([PROBLEMS[0].task.id])
    return run


def test_the_held_out_problems_of_a_run_are_measured(
    judge: EvenJudge,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    run, out = run_of(tmp_path), tmp_path / "out"
    command = ["--candidates", str(run), "--model", "scripted-teacher", "--out", str(out), "--bootstrap", "0"]
    chosen = ["--variants", "both,forward,single_pass"]
    assert ablations.main([*command, *chosen, "--beside", "same=scripted-teacher"]) == 0
    made = json.loads((out / "ablations.json").read_text())["variants"]
    assert list(made) == ["both", "forward", "single_pass", "same"]
    assert made["both"]["metrics"]["n"] == 3 and made["both"]["metrics"]["balanced_accuracy"] == 1.0
    turns = {name: found["cost"]["turns"] for name, found in made.items()}
    assert turns == {"both": 6, "forward": 3, "single_pass": 2, "same": 6}
    assert "single pass" in capsys.readouterr().out and (out / "ablations.png").stat().st_size > 1000
    asked = len(judge.sent)
    assert ablations.main([*command, *chosen]) == 0
    assert len(judge.sent) == asked  # nothing was reviewed again


def test_a_run_without_held_out_problems_is_one_line(tmp_path: Path):
    run = run_of(tmp_path)
    with Store(run / "store.sqlite") as store:
        store.hold_out([])
    with pytest.raises(DataError, match="notes no held-out problems"):
        load_candidates(run)


def test_a_label_may_not_be_a_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["--candidates", str(run_of(tmp_path)), "--model", "scripted-teacher", "--beside", "both=x"]
    assert ablations.main(command) == 2
    assert "no variant's name" in capsys.readouterr().err


def test_every_variant_but_the_whole_differs():
    assert all(variant.settings or variant.read_off for name, variant in VARIANTS.items() if name != "both")
