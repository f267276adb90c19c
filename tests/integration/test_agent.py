"""`python -m eval.agent` as a user runs it: a scripted agent on questions with their paragraphs, killed, resumed."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration import commands
from tests.integration.commands import kill_when

PEOPLE = ("Karla Lindt", "Anton Berg", "Mira Salo", "Otto Haas", "Ines Roth", "Paul Weiss", "Vera Koch", "Jan Vrba")
PLACES = ("Oulu", "Brno", "Graz", "Lund", "Turku", "Kiel", "Bern", "Linz")
pytestmark = pytest.mark.integration


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return commands.run("eval.agent", *args)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight questions in HotpotQA's form: each with a paragraph on the work, one on the person, and one beside it."""
    path = tmp_path_factory.mktemp("data") / "hotpot.jsonl"
    with path.open("w") as out:
        for i, (person, place) in enumerate(zip(PEOPLE, PLACES, strict=True)):
            work = f"Mural {chr(65 + i)}{i}"
            context = [
                {"title": work, "text": f"The mural {work} in the town hall was painted by {person} long ago."},
                {"title": person, "text": f"{person} is a painter. {person} was born in {place}."},
                {"title": "Town halls", "text": f"A town hall number {i} is a building."},
            ]
            row = {
                "question": f"Who painted the mural {work}?",
                "ground_truth": person,
                "level": ("easy", "hard")[i % 2],
            }
            out.write(json.dumps({**row, "context": context}) + "\n")
    return path


def args_of(questions: Path, **more: object) -> list[object]:
    given = {"benchmark": f"hotpotqa:{questions}", "model": "scripted-agent", "tools": "python,search"}
    given |= {"corpus": questions, "repeats": 2, "bootstrap": 50, "skill": 0.6, **more}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def trajectories(folder: Path) -> list[dict]:
    path = folder / "trajectories.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def report(folder: Path) -> dict:
    found = json.loads((folder / "agent.json").read_text())
    for group in found["groups"].values():
        del group["costs"]["seconds"]
    return found


def test_killed_and_resumed_equals_a_run_in_one_go(questions: Path, tmp_path: Path) -> None:
    args, whole, killed = args_of(questions, concurrency=1, repeats=4), tmp_path / "whole", tmp_path / "killed"
    done = run(*args, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "pass@1" in done.stdout and "pass@4" in done.stdout and "agent: " in done.stderr
    kill_when(lambda: len(trajectories(killed)) >= 5, "eval.agent", *args, "--out", killed)
    held = trajectories(killed)
    again = run(*args, "--out", killed)
    assert again.returncode == 0, again.stderr
    after = trajectories(killed)
    assert after[: len(held)] == held and len(after) == 32
    assert len({(t["task_id"], t["sample_index"]) for t in after}) == 32  # nothing twice
    ours, theirs = report(killed), report(whole)
    assert ours["groups"] == theirs["groups"] and ours["tools"] == theirs["tools"]
    assert set(ours["groups"]) == {"all", "level easy", "level hard"}
    rule = ours["groups"]["all"]["rule"]
    assert 0.0 < rule["pass_at"]["1"] < 1.0 and rule["pass_at"]["1"] <= rule["pass_at"]["2"]
    assert ours["tools"]["search"]["calls"] >= 32
    stamp = (killed / "trajectories.jsonl").stat().st_mtime_ns
    assert run(*args, "--out", killed).returncode == 0
    assert (killed / "trajectories.jsonl").stat().st_mtime_ns == stamp
    other = run(*args, "--temperature", 0, "--out", killed)
    assert other.returncode == 2 and "holds trajectories of another agent (temperature: 0.6 there" in other.stderr


def test_a_careful_agent_is_right_and_ground_truth_is_in_no_prompt(questions: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    secret = "REFERENCE-5d1c"
    marked.write_text("".join(json.dumps({**row, "aliases": [f"{secret} {i}"]}) + "\n" for i, row in enumerate(rows)))
    out = tmp_path / "out"
    done = run(*args_of(marked, corpus=questions, skill=1, repeats=1), "--out", out)
    assert done.returncode == 0, done.stderr
    found = report(out)
    assert found["groups"]["all"]["rule"]["pass_at"]["1"] == 1.0
    assert found["groups"]["all"]["costs"]["tool_calls"] == 3.0
    assert secret not in (out / "trajectories.jsonl").read_text()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def test_rounds_go_on_in_a_folder_and_a_kill_loses_none(questions: Path, tmp_path: Path) -> None:
    args, whole, killed = args_of(questions, concurrency=1, skill=0.3), tmp_path / "whole", tmp_path / "killed"
    rounds = ["--rounds", 2, "--judge", "scripted-judge"]
    done = run(*args, *rounds, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "after round 2" in done.stdout and "critique: tokens" in done.stdout and "rounds: " in done.stderr
    assert run(*args, "--out", killed).returncode == 0  # without rounds, to begin with
    firsts = (killed / "trajectories.jsonl").read_bytes()
    unreachable = run(*args, "--rounds", 2, "--judge", "x", "--judge-url", "http://127.0.0.1:9/v1", "--out", killed)
    assert unreachable.returncode == 2 and "cannot reach" in unreachable.stderr
    kill_when(lambda: len(lines(killed / "rounds.jsonl")) >= 4, "eval.agent", *args, *rounds, "--out", killed)
    held = lines(killed / "rounds.jsonl")
    again = run(*args, *rounds, "--out", killed)
    assert again.returncode == 0, again.stderr
    assert (killed / "trajectories.jsonl").read_bytes() == firsts
    assert lines(killed / "rounds.jsonl")[: len(held)] == held

    def figures(folder: Path) -> dict:
        found = json.loads((folder / "agent.json").read_text())["rounds"]
        for after in found["after"]:
            del after["point"]["seconds"]
        return found

    assert figures(killed) == figures(whole) and figures(whole)["trajectories"] == 16
    first, _, last = (after["point"] for after in figures(whole)["after"])
    assert first["accuracy"] == json.loads((whole / "agent.json").read_text())["groups"]["all"]["rule"]["pass_at"]["1"]
    assert 0.0 < last["accepted"] <= 1.0
    stamp = (killed / "rounds.jsonl").stat().st_mtime_ns
    assert run(*args, *rounds, "--out", killed).returncode == 0
    assert (killed / "rounds.jsonl").stat().st_mtime_ns == stamp
    other = run(*args, *rounds, "--judge-accepts", 1, "--out", killed)
    assert other.returncode == 2 and "holds rounds with another judge (accepts: 0.5 there, 1.0 here)" in other.stderr


def test_sums_go_through_the_sandbox(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"Calculate {i} + 58 - 19.", "answer": f"#### {i + 39}"} for i in range(10, 14)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    done = run("--benchmark", f"gsm8k:{path}", "--model", "scripted-agent", "--skill", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    assert report(out)["groups"]["all"]["rule"]["pass_at"]["1"] == 1.0
    assert report(out)["tools"] == {"python": {"calls": 4, "failed": 0}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--benchmark", "hotpot:{q}"], "did you mean hotpotqa?"),
        (["--tools", "python,search"], "tools.search.corpus"),
        (["--tools", "files"], "tools.files.folder"),
        (["--model", "no/such"], "no --base-url"),
        (["--model", "x", "--base-url", "http://127.0.0.1:9/v1"], "cannot reach"),
        (["--set", "max_turn=1"], "unknown setting 'max_turn'"),
    ],
)
def test_errors_are_one_line(questions: Path, tmp_path: Path, words: list[str], said: str) -> None:
    base = ["--benchmark", f"hotpotqa:{questions}", "--model", "scripted-agent", "--limit", "1", "--out", str(tmp_path)]
    done = run(*base, *(word.format(q=questions) for word in words))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and said in last
    assert "Traceback" not in done.stderr
