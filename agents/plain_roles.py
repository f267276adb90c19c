"""Roles without stages: solver, refiner, judge, agent and grader. Who is asked what, and which version of it.

Prompts are text files, as those of the verifiers (`agents/templates.py`): `<style>/<role>.<name>.txt`, and for solver
and grader, who have one style, a folder of their own.
"""

from collections.abc import Iterable
from typing import NamedTuple

from agents.templates import fill, template, tool_schemas
from agents.types import Kind, Message, Role, content_id
from tools.base import Tool

REFINER: Role = "refiner"  # revises solutions
JUDGE: Role = "judge"  # scores and criticises trajectories; its parser is in agents/judgements.py
SOLVER: Role = "solver"  # writes solutions
AGENT: Role = "agent"  # answers questions with tools; its turns are all of one stage
ACT = "act"
NO_REVIEW = "(none)"
SOLVER_PROMPTS: dict[Kind, str] = {
    "math": "solver/system.txt",
    "qa": "solver/qa.txt",
    "short": "solver/qa.txt",
    "program": "solver/program.txt",
}


def render_solver(problem: str, kind: Kind = "math") -> list[Message]:
    """Write the messages that ask a solver for one solution; the user message is the problem and nothing else."""
    return [Message(role="system", content=template(SOLVER_PROMPTS[kind])), Message(role="user", content=problem)]


def solver_version(kind: Kind) -> str:
    """Return the hash of what a solver is told for a kind of task."""
    return content_id(template(SOLVER_PROMPTS[kind]))


def render_refiner(style: str, problem: str, solution: str, critique: str | None) -> list[Message]:
    """Write the messages that ask for a revised solution.

    Args:
        style: "compact" or "full".
        problem: The problem.
        solution: The solution to revise.
        critique: What a critic says of it; None asks for a revision without one.
    """
    system, user = _refiner_names(style, critique is not None)
    values = {"problem": problem, "solution": solution, "review": critique or ""}
    return [
        Message(role="system", content=template(system)),
        Message(role="user", content=fill(template(user), values)),
    ]


def refiner_version(style: str) -> str:
    """Return the hash of every prompt that a refiner is shown in a style."""
    names = {name for critiqued in (True, False) for name in _refiner_names(style, critiqued)}
    return content_id(*(template(name) for name in sorted(names)))


def _refiner_names(style: str, critiqued: bool) -> tuple[str, str]:
    return f"{style}/{REFINER}.system.txt", f"{style}/{REFINER}.revise{'' if critiqued else '.no_critique'}.txt"


def render_judge(style: str, problem: str, trajectory: str) -> list[Message]:
    """Write the messages that ask for a judgement.

    Args:
        style: "compact" or "full".
        problem: The problem.
        trajectory: All that an agent did on it, as text (`agents/transcript.py`).
    """
    system, user, _ = _judge_names(style)
    values = {"problem": problem, "trajectory": trajectory}
    return [
        Message(role="system", content=template(system)),
        Message(role="user", content=fill(template(user), values)),
    ]


def render_repair(style: str, fault: str) -> list[Message]:
    """Write the message that asks for a malformed judgement again; `fault` says what is wrong with it."""
    return [Message(role="user", content=fill(template(_judge_names(style)[2]), {"fault": fault}))]


def judge_version(style: str) -> str:
    """Return the hash of every prompt that a judge is shown in a style."""
    return content_id(*(template(name) for name in _judge_names(style)))


def _judge_names(style: str) -> tuple[str, str, str]:
    system, judge, repair = (f"{style}/{JUDGE}.{stage}.txt" for stage in ("system", "judge", "repair"))
    return system, judge, repair


class Earlier(NamedTuple):
    """An agent's attempt before this one: what it did (`agents/transcript.py`), and what a critic says of it."""

    attempt: str
    review: str


def render_agent(style: str, problem: str, tools: str, earlier: Earlier | None = None) -> list[Message]:
    """Write the messages that ask an agent for an answer.

    Args:
        style: "compact" or "full".
        problem: The question, and nothing else of its task.
        tools: What the system prompt says of the tools, by `agent_tools`.
        earlier: What it is to mend; None: it answers for the first time.
    """
    values = {"problem": problem, "tools": tools}
    system, first, again = _agent_names(style)
    if earlier is not None:
        values |= {"trajectory": earlier.attempt, "review": earlier.review or NO_REVIEW}
    return [
        Message(role="system", content=fill(template(system), values)),
        Message(role="user", content=fill(template(first if earlier is None else again), values)),
    ]


def agent_tools(style: str, tools: Iterable[Tool]) -> str:
    """Write what an agent's system prompt says of its tools: their schemas, in style "compact" their signatures."""
    return tool_schemas(tools) if style == "full" else ", ".join(map(_signature, tools))


def agent_version(style: str, tools: str = "") -> str:
    """Return the hash of what an agent is shown beside the question: prompts, and tools (by `agent_tools`)."""
    return content_id(*(template(name) for name in _agent_names(style)), tools)


def _agent_names(style: str) -> tuple[str, str, str]:
    system, first, again = (f"{style}/{AGENT}.{name}.txt" for name in ("system", ACT, "again"))
    return system, first, again


def _signature(tool: Tool) -> str:
    """Write a tool as `search(query, [page])`: what may be left out stands in brackets."""
    required = tool.parameters.get("required", [])
    names = [n if n in required else f"[{n}]" for n in tool.parameters.get("properties", {})]
    return f"{tool.name}({', '.join(names)})"


def render_grader(problem: str, reference: str, given: str) -> list[Message]:
    """Write the messages that ask a model whether an answer says the same as the reference answer.

    This is the one prompt that shows ground truth; no model whose answers are measured is sent it.
    """
    values = {"problem": problem, "reference": reference, "given": given}
    return [
        Message(role="system", content=template("grader/system.txt")),
        Message(role="user", content=fill(template("grader/grade.txt"), values)),
    ]


def grader_version() -> str:
    """Return the hash of what a grader is told."""
    return content_id(template("grader/system.txt"), template("grader/grade.txt"))
