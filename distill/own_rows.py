"""What a student learns of the rollouts of a graph of one's own: the rewarded ones, a row a conversation.

Input: tasks, rollouts, the least reward. Output: rows of the `sft` data with a funnel, and the folder that
`python -m train.sft` trains on. Of a conversation every reply is supervised: the recorder saw that the model wrote it.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from agents.store import Row
from agents.types import Candidate, StopReason, Task, Trajectory, Turn, content_id
from distill.export import SETTINGS, TEMPLATE, sft_row, write_rows
from distill.own_rollouts import Place, Rollout, place_of
from tools.whole import write_whole

Item = TypeVar("Item")


class Harvest(NamedTuple):
    """The rows, and the funnel: stage, how many are left, and of what (rollouts or conversations)."""

    rows: list[dict[str, Any]]
    funnel: list[tuple[str, int, str]]
    conversations: int  # of a kept rollout, at the most


class Origin(NamedTuple):
    """Where rollouts come from: names of graph, reward and model."""

    graph: str
    reward: str
    model: str


def select(tasks: Sequence[Task], samples: int, made: Mapping[Place, Rollout], keep: float, origin: Origin) -> Harvest:
    """Choose what is learned: scored, rewarded enough, each once, no reply cut at its limit.

    A rollout that is not there was an outage's.

    Args:
        tasks: problems.
        samples: rollouts a problem; those beyond are left out.
        made: rollouts by place, those of outages left out.
        keep: the least reward.
        origin: for the records.
    """
    found = [(task, made[p]) for task in tasks for i in range(samples) if (p := place_of(task, i)) in made]
    lost = len(tasks) * samples - len(found)
    scored = [(task, rollout) for task, rollout in found if rollout.reward is not None]
    limits = sum(rollout.error is not None for _, rollout in found)
    kept = [(task, r) for task, r in scored if r.reward is not None and r.reward >= keep]
    unique = _each_once(kept, lambda pair: content_id(*map(said, pair[1].conversations)))
    held = [(task, r, i) for task, r in unique for i in range(len(r.conversations))]
    whole = [(task, r, i) for task, r, i in held if all(t.finish_reason != "length" for t in r.conversations[i])]
    once = _each_once(whole, lambda found: said(found[1].conversations[found[2]]))
    funnel = [
        ("made", len(found) + lost, f"rollouts of {len(tasks)} problems"),
        (
            "scored",
            len(scored),
            f"{lost} outages, {limits} over a limit, {len(found) - limits - len(scored)} unrewarded",
        ),
        ("kept", len(kept), f"with a reward of {keep:g} or more, of {len({t.id for t, _ in kept})} problems"),
        ("unique", len(unique), "said something that no other rollout said"),
        ("whole", len(whole), f"of their {len(held)} conversations: no reply was cut at its limit"),
        ("rows", len(once), "each conversation once"),
    ]
    rows = [row_of(task, rollout, i, origin) for task, rollout, i in once]
    return Harvest(rows, funnel, max((len(r.conversations) for _, r in kept), default=0))


def _each_once(items: Iterable[Item], key: Callable[[Item], str]) -> list[Item]:
    """Return the first item of each key, in their order."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())


def said(turns: Sequence[Turn]) -> str:
    """Return what tells a conversation from others: roles and texts of all its messages."""
    return content_id(*([*((m.role, m.content) for m in t.prompt), (t.reasoning, t.content)] for t in turns))


def row_of(task: Task, rollout: Rollout, number: int, origin: Origin) -> dict[str, Any]:
    """Return a conversation as a row of the `sft` data, of the role `agent`, and right: its rollout was rewarded."""
    candidate = Candidate(task_id=task.id, index=rollout.index, text="", correct=True, model=origin.model)
    trajectory = Trajectory(
        role="agent",
        task_id=task.id,
        candidate_id=candidate.id,
        sample_index=rollout.index,
        model=origin.model,
        prompt_version=f"{origin.graph} {number}",  # tells the conversations of a rollout apart
        turns=rollout.conversations[number],
        stop_reason=StopReason.COMPLETED,
    )
    more = {"reward": rollout.reward, "conversation": number, "graph": origin.graph}
    return sft_row(Row(task, candidate, trajectory)) | more


def write(out: Path, harvest: Harvest, origin: Origin, *, max_length: int | None, seed: int) -> None:
    """Write data, settings, chat template and card into the harvest's folder; what it held of them is replaced."""
    from train.settings import StudentConfig, TrainingSettings
    from train.student import CHATML

    part = out / "sft.part"
    shutil.rmtree(part, ignore_errors=True)
    write_rows(harvest.rows, part)
    shutil.rmtree(out / "sft", ignore_errors=True)
    part.rename(out / "sft")
    student = StudentConfig() if max_length is None else StudentConfig(max_length=max_length)
    settings = TrainingSettings(seed=seed, student=student)
    write_whole(out / SETTINGS, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    write_whole(out / TEMPLATE, CHATML.read_text(encoding="utf-8"))
    write_whole(out / "README.md", card(out.name, harvest, origin))


def card(name: str, harvest: Harvest, origin: Origin) -> str:
    """Return the text of README.md."""
    files = {"config_name": "sft", "data_files": [{"split": "train", "path": "sft/train-*.parquet"}]}
    head = yaml.safe_dump({"configs": [files], "tags": ["retort", "graph"]}, sort_keys=False)
    table = [("stage", "left", "of what"), ("---", "---", "---"), *harvest.funnel]
    who = f"`{origin.model}`{' (a program, not a language model)' if origin.model.startswith('scripted-') else ''}"
    return (
        f"---\n{head}---\n\n# {name}\n\nMade by Retort (`python -m distill.own_graph`): {len(harvest.rows):,} rows in "
        f"`sft`, conversations of {who} in the graph `{origin.graph}`, kept by the reward `{origin.reward}`; loss "
        "belongs on the assistant messages only. `rollouts.jsonl` holds every rollout.\n\n## Funnel\n\n"
        + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)
        + "\n\n## Licence\n\nNot decided by Retort: problems and conversations keep the terms of their sources.\n"
    )
