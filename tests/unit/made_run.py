"""The folder of a small run after its harvest, made by hand."""

import json
from pathlib import Path

from agents.store import Store
from agents.types import ROLES, Candidate, Message, StopReason, Task, Trajectory, Turn, Verdict
from distill.config import load_config, save_config
from distill.inputs import load_parts

SETS = ["tasks.n_harvest=3", "tasks.n_grpo=2", "tasks.n_eval=1", "solver.k=2"]


def trajectory(task: Task, candidate: Candidate, role: str, passed: bool) -> Trajectory:
    """Two turns with a tool's output between them; the second one says the verdict."""
    asked = f"{role}: {task.question}, {candidate.text}?"
    opening = (Message(role="system", content="system"), Message(role="user", content=asked))
    turns = (
        Turn(stage="plan", prompt=opening, content="<plan>check</plan>", completion_tokens=3),
        Turn(
            stage="verdict",
            prompt=(Message(role="tool", content="2"),),
            content=f"<verdict>{str(passed).lower()}</verdict>",
            completion_tokens=4,
        ),
    )
    return Trajectory(
        role=role,  # pyright: ignore[reportArgumentType]
        task_id=task.id,
        candidate_id=candidate.id,
        model="scripted-teacher",
        turns=turns,
        stop_reason=StopReason.COMPLETED,
        verdict=Verdict(passed=passed),
    )


def make_run(tmp_path: Path) -> Path:
    """Make a run's folder `made`: six problems, a right and a wrong solution each, every verdict right but one."""
    source = tmp_path / "problems.jsonl"
    rows = [{"question": f"{i} + {i}", "answer": str(2 * i)} for i in range(6)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = load_config(sets=[f"out={tmp_path}", "name=made", f"tasks.source=jsonl:{source}", *SETS])
    save_config(cfg, cfg.run_dir)
    parts = load_parts(cfg)
    with Store(cfg.run_dir / "store.sqlite") as store:
        for task in [*parts["harvest"], *parts["grpo"]]:
            store.add_task(task)
            found = [Candidate(task_id=task.id, index=i, text=f"A: {i}", correct=i == 0) for i in range(2)]
            store.add_candidates(task.id, found)
            for candidate in found:
                for role in ROLES:
                    lapse = task == parts["harvest"][0] and candidate.index == 0 and role == ROLES[0]
                    store.add_trajectory(trajectory(task, candidate, role, bool(candidate.correct) is not lapse))
    return cfg.run_dir
