"""One model for several roles by the real command at tiny size: what it leaves, kill and resume, its data elsewhere."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.store import Store
from agents.types import EVERY_ROLE, Trajectory
from distill import export
from tests.integration.commands import kill_when, run
from tests.integration.conftest import Outcome, read_json
from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer
from train import grpo, sft
from train.launch import REPORT

pytestmark = pytest.mark.integration

SMALL = (
    *("tasks.n_harvest=6", "tasks.n_grpo=12", "tasks.n_eval=2", "solver.k=4", "eval.k=3", "eval.bootstrap=20"),
    *("sft.max_steps=2", "sft.batch=2", "sft.save_steps=1", "grpo.steps=2", "grpo.groups=4", "grpo.num_generations=2"),
    *("grpo.resample_budget=0", "grpo.max_tokens=8", "grpo.save_steps=1", "eval.max_tokens=8"),
    *("student.max_length=2048", "student.lora_rank=2"),
)
STAGES = ("base", "sft", "grpo")
HARVESTED = ("judge", "refiner", "agent")  # beside the verifiers' reviews; solutions are candidates


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ChatML model in a folder."""
    folder = tmp_path_factory.mktemp("tiny") / "student"
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(profile: str, out: Path, student: Path, *more: str) -> list[str]:
    """Return the arguments of a small run of a profile."""
    return ["--profile", profile, "--set", "name=tiny", f"out={out}", f"student.model={student}", *SMALL, *more]


@pytest.fixture(scope="module")
def unified(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run `unified-demo` once, undisturbed."""
    out = tmp_path_factory.mktemp("unified")
    done = run("distill.run", *arguments("unified-demo", out, student))
    return Outcome(out / "tiny", done.returncode, done.stdout, done.stderr)


def steps_of(folder: Path) -> list[dict]:
    """Return the lines of a training's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def lines_of(path: Path) -> list[str]:
    """Return the whole lines of a file; none where there is no file."""
    return [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"] if path.exists() else []


def done_by(line: str) -> tuple:
    """Return what a line of the role evaluation is about, and of a course which of its rounds it brings."""
    record = json.loads(line)
    rounds = tuple((r["index"], bool(r["reviews"])) for r in record["rounds"])
    return record["kind"], record["task_id"], record["candidate_id"], rounds


def taught(folder: Path) -> dict[str, Trajectory]:
    """Return the teachers' trajectories in a store by their keys."""
    with Store(folder / "store.sqlite", readonly=True) as store:
        made = [row.trajectory for row in store]
    return {t.key: t for t in made if t.model.startswith("scripted-")}


def what_was_said(made: dict[str, Trajectory]) -> dict[str, tuple]:
    """Return the trajectories without their times."""
    return {key: (t.role, t.stop_reason, t.verdict, [turn.content for turn in t.turns]) for key, t in made.items()}


def harvested(folder: Path) -> int:
    """Count the trajectories of other roles than the verifiers' in a store that a process writes; 0 without one."""
    path, marks = folder / "store.sqlite", ", ".join("?" for _ in HARVESTED)
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return db.execute(f"SELECT count(*) FROM trajectories WHERE role IN ({marks})", HARVESTED).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


# --- a run to its end -------------------------------------------------------------------------------------------------


def test_all_roles_are_harvested_learned_and_measured(unified: Outcome):
    assert unified.code == 0, unified.err
    assert "Traceback" not in unified.err
    results = read_json(unified.folder / "results.json")
    assert set(results["held_out"]) == set(results["roles"]) == set(STAGES)
    for measured in results["roles"].values():
        assert (measured["answers"], measured["trajectories"]) == (2, 2)  # of two held-out problems
        assert measured["judge"]["verdicts"]["n"] == 6
    funnel = results["funnel"]
    assert all(funnel[f"{name}/selected"] > 0 for name in ("verifiers", "judge", "solver", "refiner", "agent"))
    assert funnel["mixture"] >= len(EVERY_ROLE)
    assert len(steps_of(unified.folder / "sft")) == 2


def test_its_report_shows_the_other_roles(unified: Outcome):
    report = (unified.folder / "report.md").read_text()
    for text in (report, unified.out):
        assert "Other roles, held out" in text and "Held out, 95 %" in text
        assert all(row in text for row in ("first right", "refined right", "judge AUROC", "agent right"))
    assert all(len(line) <= 80 for line in unified.out.splitlines() if "│" in line)


def test_each_recipe_logs_its_own_metrics(unified: Outcome):
    steps = steps_of(unified.folder / "grpo")
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["rollouts/n"] == 16  # 4 groups of 2G rows
        taken = [step[f"{name}/groups_in_update"] for name in ("agentv", "rrm", "reagent_u")]
        assert taken == [2, 1, 1]
        for key in ("agentv/reward/mean", "rrm/reward/judge", "reagent_u/rule/first", "reagent_u/judge/refined"):
            assert key in step
        assert abs(step["grpo/reward"]) < 100  # a group without variance is not blown up


# --- killed and resumed -----------------------------------------------------------------------------------------------


def test_killed_in_harvest_grpo_and_role_evaluation(unified: Outcome, student: Path, tmp_path: Path):
    given, folder = arguments("unified-demo", tmp_path, student), tmp_path / "tiny"
    lines = folder / "roles_sft.jsonl"

    def killed(reached: Callable[[], bool]) -> None:
        kill_when(reached, "distill.run", *given)

    killed(lambda: harvested(folder) >= 3)
    assert not (folder / "sft").exists()
    made = taught(folder)
    whole = taught(unified.folder)
    assert len(made) < len(whole)

    killed((folder / "grpo" / "checkpoint-1" / "trainer_state.json").exists)
    assert not (folder / "roles_base.jsonl").exists()
    tuned = (folder / "sft" / "model" / "model.safetensors").stat().st_mtime_ns

    killed(lambda: bool(lines_of(lines)))
    read, base = lines_of(lines), lines_of(folder / "roles_base.jsonl")
    assert len(read) < len(lines_of(unified.folder / lines.name)) and not (folder / "results.json").exists()

    done = run("distill.run", *given)
    assert done.returncode == 0, done.stderr
    assert what_was_said(taught(folder)) == what_was_said(whole)
    assert {key: t for key, t in taught(folder).items() if key in made} == made  # with their times: not made again
    assert (folder / "sft" / "model" / "model.safetensors").stat().st_mtime_ns == tuned
    assert [step["step"] for step in steps_of(folder / "sft")] == [1, 2]
    assert [step["step"] for step in steps_of(folder / "grpo")] == [1, 2]
    assert lines_of(lines)[: len(read)] == read and lines_of(folder / "roles_base.jsonl") == base
    for stage in STAGES:
        ours, theirs = (Counter(map(done_by, lines_of(f / f"roles_{stage}.jsonl"))) for f in (folder, unified.folder))
        assert ours == theirs and set(ours.values()) == {1}
    ours, theirs = read_json(folder / "results.json"), read_json(unified.folder / "results.json")
    assert ours["funnel"] == theirs["funnel"] and ours["roles"]["base"] == theirs["roles"]["base"]


# --- its data elsewhere -----------------------------------------------------------------------------------------------


def test_exported_data_trains_elsewhere(unified: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, tuned, out = (tmp_path / name for name in ("data", "sft", "grpo"))
    mixture = read_json(unified.folder / "results.json")["funnel"]["mixture"]
    assert export.main(["--run", str(unified.folder), "--out", str(data)]) == 0
    assert f"sft: {mixture} rows" in capsys.readouterr().out
    assert sft.main(["--data", str(data), "--out", str(tuned), "--set", "sft.max_steps=1"]) == 0
    assert read_json(tuned / REPORT)["rows"] == mixture
    start = ["--data", str(data), "--student", str(tuned / "model")]
    assert grpo.main([*start, "--out", str(out), "--set", "grpo.steps=1"]) == 0
    (step,) = steps_of(out)
    assert [step[f"{name}/groups_in_update"] for name in ("agentv", "rrm", "reagent_u")] == [2, 1, 1]
    assert (out / "model" / "model.safetensors").is_file()


def test_a_dry_run_plans_the_profile():
    done = run("distill.run", "--dry-run", "--profile", "unified-demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("plan of 'unified-demo'")
    assert all(f"\n  {stage} " in done.stdout for stage in ("teacher writes", "SFT trains on", "rollouts write"))


def test_too_few_prompts_are_told_before_anything_is_trained(student: Path, tmp_path: Path):
    done = run("distill.run", *arguments("unified-demo", tmp_path, student, "grpo.groups=64"))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: grpo: ") and "prompts for 64 groups" in last
    assert not (tmp_path / "tiny" / "sft").exists()


# --- the agent answers ------------------------------------------------------------------------------------------------


def write_corpus(path: Path, passages: int) -> Path:
    """Write passages of one sentence each, in words that stand nowhere else."""
    parts = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su")
    with path.open("w") as out:
        for i in range(passages):
            a, b, c, d = (f"{parts[i // 10]}{parts[i % 10]}{end}" for end in ("lan", "mor", "tis", "nik"))
            text = f"The {a} bridge over the {b} river was built by the {c} engineer {d.title()} {d.title()}sen."
            out.write(json.dumps({"title": f"Passage {i}", "text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def acted(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run `reagent-tools-demo` once on a small corpus."""
    out = tmp_path_factory.mktemp("acted")
    corpus = write_corpus(out / "corpus.jsonl", 40)
    given = (f"tasks.source=cloze:{corpus}", f"tools.search.corpus={corpus}", "tasks.n_grpo=4", "solver.k=3")
    short = ("student.max_length=4096", "grpo.steps=1", "grpo.groups=2", "eval.k=2")
    done = run("distill.run", *arguments("reagent-tools-demo", out, student, *given, *short))
    return Outcome(out / "tiny", done.returncode, done.stdout, done.stderr)


def test_the_agent_is_harvested_learned_and_measured(acted: Outcome):
    """6 problems of 3 trajectories; judgements and revisions of those that differ, and nobody solves in one reply."""
    assert acted.code == 0, acted.err
    assert "Traceback" not in acted.err
    with Store(acted.folder / "store.sqlite", readonly=True) as store:
        rows, tasks = list(store), store.tasks()
        found = [c for task in tasks for c in store.candidates(task.id) or []]
    assert {c.model for c in found} == {"scripted-agent"} and all(c.turns for c in found)
    assert len(found) == 6 * 3 + 2 * 2 and {c.correct for c in found} == {True, False}
    assert any(call.name == "search" for c in found for turn in c.turns for call in turn.tool_calls)
    made = Counter(row.trajectory.role for row in rows)
    assert set(made) == {"judge", "refiner"} and 6 <= made["judge"] == made["refiner"] <= 18
    revised = [row.trajectory for row in rows if row.trajectory.role == "refiner"]
    assert {turn.stage for t in revised for turn in t.turns} == {"act"} and any(t.tool_calls for t in revised)
    results = read_json(acted.folder / "results.json")
    assert results["held_out"] == {} and set(results["roles"]) == set(STAGES)
    for measured in results["roles"].values():
        assert (measured["answerer"], measured["answers"], measured["trajectories"]) == ("agent", 2, None)
        assert measured["refined"] is not None and measured["judge"]["verdicts"]["n"] == 4
    assert all(results["funnel"][f"{name}/selected"] > 0 for name in ("judge", "refiner", "agent"))


def test_the_agent_is_trained_and_reported(acted: Outcome):
    """One step of 2 groups of 2G rows; a first and a refined answer are trajectories."""
    (step,) = steps_of(acted.folder / "grpo")
    assert step["rollouts/n"] == 8 and "rule/refined" in step and "judge/first" in step and step["pool/dropped"] == 0
    assert (acted.folder / "model" / "model.safetensors").is_file()
    report = (acted.folder / "report.md").read_text()
    assert "Other roles, held out, the agent answers" in report and "| first right |" in report
    assert "agent right" not in report and "solver" not in report


def test_what_the_agent_was_taught_trains_elsewhere(acted: Outcome, tmp_path: Path):
    data, out = tmp_path / "data", tmp_path / "grpo"
    assert export.main(["--run", str(acted.folder), "--out", str(data)]) == 0
    start = str(acted.folder / "sft" / "model")
    assert grpo.main(["--data", str(data), "--student", start, "--out", str(out)]) == 0
    (step,) = steps_of(out)
    assert step["rollouts/n"] == 8 and "rule/refined" in step


# --- without verifiers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recipe", "rows"), [("reagent_r", 8), ("reagent_u", 16)])
def test_a_mixture_without_verifiers(student: Path, tmp_path: Path, recipe: str, rows: int):
    """4 groups of G = 2, of Reagent-U 2G."""
    more = (f"grpo.recipe={recipe}", "sft.max_steps=1", "grpo.steps=1")
    done = run("distill.run", *arguments("reagent-demo", tmp_path, student, *more))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tiny"
    results = read_json(folder / "results.json")
    assert results["held_out"] == {} and results["best_of_n"] is None and set(results["roles"]) == set(STAGES)
    assert all(found["agent"] is None and found["first"] is not None for found in results["roles"].values())
    assert {t.role for t in taught(folder).values()} == {"judge", "refiner"}
    (step,) = steps_of(folder / "grpo")
    assert step["rollouts/n"] == rows and ("rule/refined" in step) == (recipe == "reagent_u")
    report = (folder / "report.md").read_text()
    assert "Other roles" in report and "agent right" not in report and "## Held out" not in report
