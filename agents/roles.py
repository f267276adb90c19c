"""Roles: which stages a role goes through, the prompt of each stage, and the parser of its reply.

Prompts are the text files of `agents/prompts/<style>/<role>.<stage>.txt` and `<style>/system.txt`: style "compact" for
small students, "full" for Qwen3-class models. Where a mode (no plan, no tools, single pass) needs other words, a file
says so in its name: `<role>.<stage>.no_tools.txt`; the most specific file that there is is used. They are read once,
when this module is imported (a graph's nodes do no file I/O). Placeholders are replaced in one pass: braces, LaTeX and
"{solution}" inside a problem stay as they are.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from agents.protocol import ParseFailure, parse_plan, parse_tool_calls, parse_verdict
from agents.types import Kind, Message, Role, content_id
from tools.base import Tool, ToolCall
from tools.errors import ConfigError

Stage = Literal["plan", "validate", "verdict", "reconcile"]
STAGES: tuple[Stage, ...] = ("plan", "validate", "verdict")
Style = Literal["compact", "full"]
REFINER = "refiner"  # revises solutions; one turn, so it has no stages and no parser beyond its text
AGENT: Role = "agent"  # answers questions with tools; its turns are all of one stage
ACT = "act"
Parser = Callable[[str], str | list[ToolCall] | bool | ParseFailure]

PROMPTS = Path(__file__).parent / "prompts"
_TEMPLATES = {p.relative_to(PROMPTS).as_posix(): p.read_text("utf-8").rstrip("\n") for p in PROMPTS.rglob("*.txt")}
_PLACEHOLDER = re.compile(r"\{(problem|solution|tools|review|reference|given)\}")


@dataclass(frozen=True)
class RoleSpec:
    """A role: its name, the parser of each stage's reply, and what its findings on steps begin with.

    The compact forward reviews count their checks along the solution's equations, so that check k is about step k, and
    the check after the last one is about the answer. The checks of backward reviews are about the problem.
    """

    name: Role
    labels: tuple[str, ...] = ("step",)
    parsers: Mapping[Stage, Parser] = field(
        default_factory=lambda: {
            "plan": parse_plan,
            "validate": parse_tool_calls,
            "verdict": parse_verdict,
            "reconcile": parse_verdict,
        }
    )


@dataclass(frozen=True)
class Mode:
    """Which parts of a review are there. `single_pass` is one turn that ends in a verdict: no plan, no tools."""

    use_plan: bool = True
    use_tools: bool = True
    single_pass: bool = False

    @property
    def opening(self) -> Stage:
        """The first stage, whose prompt holds the problem and the solution."""
        return "verdict" if self.single_pass else "plan" if self.use_plan else "validate"

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order."""
        return STAGES[STAGES.index(self.opening) :]

    @property
    def variants(self) -> tuple[str, ...]:
        """What a prompt's file name may end with, the most specific first."""
        if self.single_pass:
            return (".single_pass", "")
        without = [name for name, used in ((".no_plan", self.use_plan), (".no_tools", self.use_tools)) if not used]
        return ("".join(without), *without, "")


WHOLE = Mode()
SOLVER: dict[Kind, str] = {
    "math": "solver/system.txt",
    "qa": "solver/qa.txt",
    "short": "solver/qa.txt",
    "program": "solver/program.txt",
}
SPECS: dict[str, RoleSpec] = {
    "forward_verifier": RoleSpec("forward_verifier", labels=("step", "check")),
    "backward_verifier": RoleSpec("backward_verifier"),
}


def spec_of(role: str) -> RoleSpec:
    """Return a role's specification.

    Raises:
        ConfigError: there is no such role.
    """
    if role not in SPECS:
        raise ConfigError(f"unknown role {role!r}; the roles are {', '.join(SPECS)}")
    return SPECS[role]


def render(role: str, stage: str, style: str, mode: Mode = WHOLE, **values: str) -> list[Message]:
    """Write the messages that open a stage: system and user for the mode's first stage, user for the others.

    Args:
        role: A name of `SPECS`.
        stage: A stage of the role.
        style: "compact" or "full".
        mode: Which parts of the review there are.
        **values: Text for the placeholders, put in as it is: `problem` and `solution` for the first stage, and `tools`
            (see `tool_schemas`) where the style's system prompt shows them; `review` for `reconcile`.

    Returns:
        The messages, in order.

    Raises:
        ConfigError: unknown role, stage or style, or a placeholder without a value.
    """
    names = ["system", f"{role}.{stage}"] if stage == mode.opening else [f"{role}.{stage}"]
    return [
        Message(role="system" if name == "system" else "user", content=_fill(_text(style, name, mode), values))
        for name in names
    ]


def render_solver(problem: str, kind: Kind = "math") -> list[Message]:
    """Write the messages that ask a solver for one solution; the user message is the problem and nothing else."""
    return [Message(role="system", content=_template(SOLVER[kind])), Message(role="user", content=problem)]


def solver_version(kind: Kind) -> str:
    """Return the hash of what a solver is told for a kind of task."""
    return content_id(_template(SOLVER[kind]))


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
        Message(role="system", content=_template(system)),
        Message(role="user", content=_fill(_template(user), values)),
    ]


def refiner_version(style: str) -> str:
    """Return the hash of every prompt that a refiner is shown in a style."""
    names = {name for critiqued in (True, False) for name in _refiner_names(style, critiqued)}
    return content_id(*(_template(name) for name in sorted(names)))


def _refiner_names(style: str, critiqued: bool) -> tuple[str, str]:
    return f"{style}/{REFINER}.system.txt", f"{style}/{REFINER}.revise{'' if critiqued else '.no_critique'}.txt"


def render_agent(style: str, problem: str, tools: str) -> list[Message]:
    """Write the messages that ask an agent for an answer.

    Args:
        style: "compact" or "full".
        problem: The question, and nothing else of its task.
        tools: What the system prompt says of the tools, by `agent_tools`.
    """
    values = {"problem": problem, "tools": tools}
    system, user = _agent_names(style)
    return [
        Message(role="system", content=_fill(_template(system), values)),
        Message(role="user", content=_fill(_template(user), values)),
    ]


def agent_tools(style: str, tools: Iterable[Tool]) -> str:
    """Write what an agent's system prompt says of its tools: their schemas, in style "compact" their signatures."""
    return tool_schemas(tools) if style == "full" else ", ".join(map(_signature, tools))


def agent_version(style: str, tools: str = "") -> str:
    """Return the hash of what an agent is shown beside the question: prompts, and tools (by `agent_tools`)."""
    return content_id(*(_template(name) for name in _agent_names(style)), tools)


def _agent_names(style: str) -> tuple[str, str]:
    return f"{style}/{AGENT}.system.txt", f"{style}/{AGENT}.{ACT}.txt"


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
        Message(role="system", content=_template("grader/system.txt")),
        Message(role="user", content=_fill(_template("grader/grade.txt"), values)),
    ]


def grader_version() -> str:
    """Return the hash of what a grader is told."""
    return content_id(_template("grader/system.txt"), _template("grader/grade.txt"))


def tool_schemas(tools: Iterable[Tool]) -> str:
    """Write the tools' schemas as Qwen3's chat template does, one JSON object a line."""
    return "\n".join(json.dumps(tool.schema, ensure_ascii=False) for tool in tools)


@cache
def prompt_version(role: str, style: str, mode: Mode = WHOLE) -> str:
    """Return the hash of every prompt that a role is shown in a style and mode (before reconciliation)."""
    names = ["system", *(f"{spec_of(role).name}.{stage}" for stage in mode.stages)]
    return content_id(*(_text(style, name, mode) for name in names))


def reconciled_version(version: str, role: str, style: str) -> str:
    """Return the version of a review that was shown the other one after the prompts of `version`."""
    return content_id(version, _text(style, f"{role}.reconcile", WHOLE))


def _text(style: str, name: str, mode: Mode) -> str:
    paths = [f"{style}/{name}{variant}.txt" for variant in mode.variants]
    return _template(next((path for path in paths if path in _TEMPLATES), paths[-1]))


def _template(path: str) -> str:
    if path not in _TEMPLATES:
        raise ConfigError(f"there is no prompt {path!r} in {PROMPTS}; the prompts are {', '.join(sorted(_TEMPLATES))}")
    return _TEMPLATES[path]


def _fill(template: str, values: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ConfigError(f"the prompt needs a value for {match[0]}")
        return values[match[1]]

    return _PLACEHOLDER.sub(value_of, template)
