"""Prompts of GRPO as rows of a data set: the messages that open a rollout, and what is for the reward alone.

Input: a run whose harvest is done. Output: rows of `grpo`. No label and no reference answer is in a message.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tools.errors import DataError

if TYPE_CHECKING:
    from agents.types import Message, Trajectory
    from distill.pipeline import Run
    from train.pools import Problem
    from train.reviews import Prompt


def grpo_rows(run: "Run") -> list[dict[str, Any]]:
    """Return the prompts of GRPO: the messages that open a rollout, and what is for the reward alone.

    That is the label of a solution, or the reference answer of a problem: neither is in a message. Where several
    recipes are mixed, a column says of which a prompt is.
    """
    from distill.judgements import opening
    from distill.prompts import BY_RECIPE
    from graphs.judge_state import transcript_for
    from train.settings import ON_PROBLEMS

    cfg, mixed = run.cfg, len(run.cfg.grpo.recipes) > 1
    acts = bool(set(cfg.grpo.recipes) & set(ON_PROBLEMS)) and cfg.mixture.answerer == "agent"
    told = _agents_instructions(run) if acts else None
    reviewed = {row.trajectory.key: row.trajectory for row in run.teacher_rows}
    sources = {task.id: task.source for task in run.parts["grpo"]}
    rows = []
    for name in cfg.grpo.recipes:
        for prompt in BY_RECIPE[name](run):
            if name in ON_PROBLEMS:
                row = _problem_to_answer(prompt, told)
            elif name == "rrm":
                shown = transcript_for(cfg.student.max_length)
                row = solution_to_review(prompt, opening(prompt, cfg.teacher.style, shown))
            else:
                row = solution_to_review(prompt, _opening_of(reviewed[prompt.key]))
            rows.append(row | {"source": sources[row["task_id"]]} | ({"recipe": name} if mixed else {}))
    columns = dict.fromkeys(column for row in rows for column in row)
    return [columns | row for row in rows]


def _opening_of(review: "Trajectory") -> "Sequence[Message]":
    if not review.turns:
        raise DataError(f"trajectory {review.key} has no turn; run the harvest again")
    return review.turns[0].prompt


def solution_to_review(prompt: "Prompt", messages: "Sequence[Message]") -> dict[str, Any]:
    """Return a solution to review or to judge, with the messages that open the rollout."""
    from agents.protocol import wire_messages
    from agents.transcript import JUDGED
    from agents.types import task_id

    return {
        "key": prompt.key,
        "prompt": wire_messages(messages),
        "role": prompt.role,
        "label": prompt.label,
        "problem": prompt.problem,
        "solution": prompt.solution,
        "turns": json.dumps([turn.model_dump(mode="json", include=JUDGED) for turn in prompt.turns]),
        "task_id": task_id(prompt.problem),
    }


def _agents_instructions(run: "Run") -> "Message":
    """Return what the agent of the harvest was told of its task and its tools: the student is told the same."""
    found = (c for task in run.parts["harvest"] for c in run.store.candidates(task.id) or [] if c.turns)
    first = next(found, None)
    if first is None:
        raise DataError("the harvest has no trajectory of the agent; run it again")
    return first.turns[0].prompt[0]


def _problem_to_answer(problem: "Problem", instructions: "Message | None") -> dict[str, Any]:
    """Return a problem to answer; `instructions` are the agent's, None: the solver answers."""
    from agents.plain_roles import render_agent, render_solver
    from agents.protocol import wire_messages

    question, kind = problem.task.question, problem.task.kind
    asked = render_solver(question, kind)
    if instructions is not None:
        asked = [instructions, *render_agent("compact", question, "")[1:]]  # the question is put alike in both styles
    return {
        "key": problem.key,
        "prompt": wire_messages(asked),
        "question": problem.task.question,
        "answer": problem.task.answer,
        "aliases": list(problem.task.aliases),
        "task_type": problem.task.kind,
        "task_id": problem.task.id,
    }
