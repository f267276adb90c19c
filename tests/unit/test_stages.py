"""The bookkeeping of a run's stages: what a kill leaves behind."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from agents.outages import raise_first
from agents.store import Store
from agents.types import Candidate, Task
from distill import pipeline
from distill.config import load_config
from distill.inputs import load_parts
from distill.pipeline import Run
from graphs.react_state import ReactContext
from tests.unit.fakes import FakeChat, FakePython
from tools.errors import ModelError


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


class Counting(FakeChat):
    """Solves; notes how many solutions are being written at once. Fails on the question `down`."""

    model_id: str = "counting"
    at_work: list[int] = Field(default_factory=list)

    async def _agenerate(self, messages: list[Any], *args: Any, **kwargs: Any) -> Any:
        self.at_work.append(len(self.sent) - len(self.replies["done"]))
        try:
            return await super()._agenerate(messages, *args, **kwargs)
        finally:
            self.replies["done"].append("")

    def reply_to(self, stage: str, session: str, asked: int) -> str | Exception:
        """Answer 1, or be down for the evaluation of others."""
        down = any("down" in str(m.content) for m in self.sent[-1][0])
        return ModelError("no eval server") if down else "A: 1"


async def sampled(tmp_path: Path, part: str, questions: list[str]) -> tuple[Counting, int]:
    """Sample a part's problems, two solutions each and at most two problems at once; return what was made."""
    solver = Counting(replies={"done": []}, delay=0.01, at_work=[])
    tasks = [Task(question=q, answer="1") for q in questions]
    kinds = {"solver": solver, "teacher": solver, "tools": {}, "label": None}
    with Store(tmp_path / "store.sqlite") as store:
        cfg = load_config(None, ["name=r", f"out={tmp_path}", "teacher.concurrency=4"])
        cfg.run_dir.mkdir(exist_ok=True)
        run = Run(cfg, {part: tasks}, store)
        await run._sample(part, 2, **kinds)
        asked = len(solver.sent)
        await run._sample(part, 2, **kinds)  # nothing is left
        assert len(solver.sent) == asked
        return solver, sum(len(store.candidates(t.id) or []) for t in tasks)


async def test_problems_are_sampled_side_by_side(tmp_path: Path):
    solver, made = await sampled(tmp_path, "harvest", ["p", "q", "r", "s", "t"])
    assert (made, len(solver.sent), max(solver.at_work)) == (10, 10, 3)  # beside the one that begins


@pytest.mark.parametrize(("part", "told"), [("eval", "held-out problem"), ("grpo", "grpo problem")])
async def test_a_solver_that_fails_is_told_in_its_own_words(tmp_path: Path, part: str, told: str):
    with pytest.raises(ExceptionGroup) as group:
        await sampled(tmp_path, part, ["p", "down"])
    with pytest.raises(ModelError, match=rf"{told}: the solver failed \(no eval server\); run again to resume"):
        raise_first(group.value)


ACTS = ("mixture.weights={agent: 1, refiner: 1, judge: 1}", "grpo.recipe=reagent_u", "teacher.error_rate=0")
SUMS = [Task(question=f"Calculate {i} + 30 - 5.", answer=str(i + 25)) for i in (12, 13)]


async def sampled_by_agent(tmp_path: Path, *sets: str) -> tuple[list[Candidate], FakePython]:
    """Sample the held-out problems twice each with a python that prints 37."""
    python = FakePython("37")
    cfg = load_config(None, ["name=r", f"out={tmp_path}", *ACTS, *sets])
    cfg.run_dir.mkdir(exist_ok=True)
    with Store(tmp_path / "store.sqlite") as store:
        await Run(cfg, {"eval": SUMS}, store)._sample("eval", 2, tools={"python": python})
        return [c for task in SUMS for c in store.candidates(task.id) or []], python


async def test_where_the_agent_answers_its_trajectories_are_the_candidates(tmp_path: Path):
    """Offline it is the scripted agent at the solver's rate of lapses; python says 37, which is right of the first."""
    found, python = await sampled_by_agent(tmp_path, "solver.error_rate=0")
    assert [(c.model, c.index, c.answer, c.correct) for c in found] == [
        ("scripted-agent", i, "37", right) for right in (True, False) for i in (0, 1)
    ]
    assert all(len(c.turns) == 2 and "## Observation 1\n37" in c.text for c in found) and len(python.calls) == 4


async def test_the_sampling_agent_lapses_at_the_solvers_rate(tmp_path: Path):
    found, _ = await sampled_by_agent(tmp_path, "solver.error_rate=1")
    assert len(found) == 4 and not any(c.answer == "37" for c in found)


async def test_an_agent_that_fails_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    down = FakeChat(replies={"act": [ModelError("no server")]})
    monkeypatch.setattr(pipeline, "sampling_agent", lambda cfg, tools: ReactContext(chat=down, tools=tools))
    with pytest.raises(ExceptionGroup) as group:
        await sampled_by_agent(tmp_path)
    with pytest.raises(ModelError, match=r"held-out problem: the agent failed \(no server\); run again to resume"):
        raise_first(group.value)


def test_the_harvest_has_more_of_what_is_hard_and_shares_no_problem():
    mix = ("tasks.families={chain_sum: 0.5, simple_equations: 0.5}", "tasks.harvest_emphasis={chain_sum: 3}")
    sizes = ("tasks.n_harvest=16", "tasks.n_grpo=8", "tasks.n_eval=8")
    parts = load_parts(load_config(None, [*mix, *sizes]))
    assert {name: len(part) for name, part in parts.items()} == {"harvest": 16, "grpo": 8, "eval": 8}
    sums = {name: sum(t.source.endswith("chain_sum") for t in part) for name, part in parts.items()}
    assert sums["harvest"] == 12 and sums["grpo"] + sums["eval"] == 8  # 3 to 1, and 1 to 1
    assert len({t.id for part in parts.values() for t in part}) == 32
