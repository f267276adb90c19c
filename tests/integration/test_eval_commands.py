"""The evaluation commands as a user runs them: the scripted teacher on a small file, killed and resumed."""

import json
import subprocess
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from eval.verifier import Verifier, context_of, identity, open_model
from tests.integration import commands
from tests.integration.commands import kill_when, trajectories_in, write_sums

SMALL = ("--model", "scripted-teacher", "--bootstrap", "50", "--draws", "8")
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve sums with six solutions each, half of them wrong, scored by a scorer that knows."""
    return write_sums(
        tmp_path_factory.mktemp("data") / "sums.jsonl",
        12,
        6,
        evaluations=lambda _, right: [{"correct": r} for r in right],
        orm_scores=lambda _, right: [float(r) for r in right],
        level=lambda i, _: f"Level {1 + i % 2}",
    )


def run(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    return commands.run(f"eval.{name}", *args)


def kill_after(name: str, folder: Path, trajectories: int, *args: object) -> None:
    """Start a command and kill it when its store holds so many trajectories."""
    more = ("--out", folder, "--concurrency", 1)
    kill_when(lambda: trajectories_in(folder) >= trajectories, f"eval.{name}", *args, *more, seconds=120)


def numbers(folder: Path, name: str) -> dict:
    """Read a report without what differs between runs: the time of trajectories."""
    report = json.loads((folder / name).read_text())
    for curve in report.get("curves", {}).values():
        for point in curve["points"]:
            del point["seconds"]
    for group in report.get("groups", {}).values():
        del group["cost"]["seconds"]
    return report


def test_best_of_n_killed_and_resumed_equals_a_run_in_one_go(candidates: Path, tmp_path: Path):
    args = ("--candidates", candidates, *SMALL)
    whole = run("best_of_n", *args, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    kill_after("best_of_n", tmp_path / "killed", 9, *args)
    held = trajectories_in(tmp_path / "killed")
    resumed = run("best_of_n", *args, "--out", tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert 9 <= held < trajectories_in(tmp_path / "killed") == trajectories_in(tmp_path / "whole")
    ours, theirs = (numbers(tmp_path / name, "best_of_n.json") for name in ("killed", "whole"))
    assert ours == theirs
    assert set(ours["curves"]) >= {"pass_at_1", "majority", "orm", "verifier", "weighted", "selective", "oracle"}
    at_6 = {name: curve["points"][-1] for name, curve in ours["curves"].items()}
    assert at_6["orm"]["accuracy"] == at_6["oracle"]["accuracy"] >= at_6["weighted"]["accuracy"]
    assert at_6["weighted"]["accuracy"] > at_6["pass_at_1"]["accuracy"]  # the teacher is right in 95 of 100
    assert 0 < at_6["selective"]["tokens"] < at_6["weighted"]["tokens"]
    assert (tmp_path / "whole" / "best_of_n.png").stat().st_size > 1000
    assert "verifier-weighted majority" in whole.stdout and "review: " not in whole.stdout
    assert "review: " in whole.stderr and any(rate in whole.stderr for rate in ("/s", " s each"))
    simulated = run("simulate", "--reviews", tmp_path / "whole", "--n", "8,32", "--draws", 4, "--bootstrap", 20)
    assert simulated.returncode == 0, simulated.stderr
    assert "imulated" in simulated.stdout
    report = json.loads((tmp_path / "whole" / "simulation.json").read_text())
    assert [s["n"] for s in report["savings"]] == [8, 32] and report["savings"][1]["share"] < 1


def test_selective_reviews_less_and_resumes(candidates: Path, tmp_path: Path):
    args = ("--candidates", candidates, *SMALL, "--selective")
    kill_after("best_of_n", tmp_path / "s", 5, *args)
    done = run("best_of_n", *args, "--out", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "Selective verification asked for" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "s" / "candidates.jsonl").read_text().splitlines()]
    assert (
        trajectories_in(tmp_path / "s")
        == 2 * len({r["text"] for r in rows if r["reviewed"]})
        < 2 * len({r["text"] for r in rows})
    )
    refused = run("simulate", "--reviews", tmp_path / "s")
    assert refused.returncode == 2 and "without --selective" in refused.stderr


def test_another_verifier_beside_it(candidates: Path, tmp_path: Path):
    args = ("--candidates", candidates, *SMALL, "--limit", 2, "--out", tmp_path / "c")
    done = run("best_of_n", *args, "--compare", "genrm", "single_pass=true")
    assert done.returncode == 0, done.stderr
    assert "genrm: verifier" in done.stdout
    curves = json.loads((tmp_path / "c" / "best_of_n.json").read_text())["curves"]
    ours, theirs = (curves[name]["points"][-1] for name in ("verifier", "genrm/verifier"))
    assert theirs["tool_calls"] == 0 < ours["tool_calls"] and theirs["turns"] < ours["turns"]


def test_verdicts_killed_and_resumed(candidates: Path, tmp_path: Path):
    args = ("--candidates", candidates, "--model", "scripted-teacher", "--bootstrap", "50")
    kill_after("verdicts", tmp_path / "v", 9, *args)
    done = run("verdicts", *args, "--out", tmp_path / "v")
    assert done.returncode == 0, done.stderr
    report = numbers(tmp_path / "v", "verdicts.json")
    assert set(report["groups"]) == {"all", "level Level 1", "level Level 2"}
    metrics = report["groups"]["all"]["metrics"]
    assert metrics["n"] == 72 and metrics["balanced_accuracy"] > 0.7
    assert report["disagreements"] == []
    assert (tmp_path / "v" / "reliability.png").stat().st_size > 1000
    again = run("verdicts", *args, "--out", tmp_path / "v")
    assert again.returncode == 0 and numbers(tmp_path / "v", "verdicts.json") == report


@pytest.mark.parametrize("name", ["best_of_n", "verdicts"])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--candidates", "none.jsonl", "--model", "scripted-teacher"], "no such file 'none.jsonl'"),
        (["--candidates", "{file}", "--model", "no/such"], "no --base-url"),
        (["--candidates", "{file}", "--model", "x", "--base-url", "http://127.0.0.1:9/v1"], "cannot reach"),
        (["--candidates", "{file}", "--model", "scripted-teacher", "--set", "max_token=5"], "did you mean max_tokens"),
        (["--candidates", "{bad}", "--model", "scripted-teacher"], "bad.jsonl:1: not JSON"),
        (["--candidates", "{file}", "--model", "scripted-teacher", "--out", "/proc/no"], "/proc/no"),
    ],
)
def test_errors_are_one_line(candidates: Path, tmp_path: Path, name: str, args: list[str], said: str):
    (tmp_path / "bad.jsonl").write_text("{\n")
    filled = [a.format(file=candidates, bad=tmp_path / "bad.jsonl") for a in args]
    done = run(name, *filled, *(() if "--out" in filled else ("--out", tmp_path / "out")), "--limit", 1)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / f"{name}.json").exists()


async def test_a_folder_is_run_in_this_process(tmp_path: Path):
    from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer

    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    verifier = Verifier(context_of(str(folder), None, ["max_trajectory_tokens=256"]), width=1)
    with open_model(verifier) as chat:
        reply = await chat.ainvoke([HumanMessage("Is 2 + 2 = 4?")], session="s", stage="verdict", max_tokens=3)
    assert reply.usage_metadata is not None and 1 <= reply.usage_metadata["output_tokens"] <= 3
    before = identity(verifier)
    assert len(before["weights"]) == 1
    tiny_model(seed=1).save_pretrained(folder)
    assert identity(verifier) != before  # other weights at the same place are another verifier
