"""Roles: which stages a role goes through, the prompt of each stage, and the parser of its reply.

Prompts are the text files of `agents/prompts/<style>/<role>.<stage>.txt` and `<style>/system.txt`: style "compact" for
small students, "full" for Qwen3-class models. They are read once, when this module is imported (a graph's nodes do no
file I/O). Placeholders are replaced in one pass: braces, LaTeX and "{solution}" inside a problem stay as they are.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from agents.protocol import ParseFailure, parse_plan, parse_tool_calls, parse_verdict
from agents.types import Message, Role, content_id
from tools.base import Tool, ToolCall
from tools.errors import ConfigError

Stage = Literal["plan", "validate", "verdict"]
Style = Literal["compact", "full"]
Parser = Callable[[str], str | list[ToolCall] | bool | ParseFailure]

PROMPTS = Path(__file__).parent / "prompts"
_TEMPLATES = {p.relative_to(PROMPTS).as_posix(): p.read_text("utf-8").rstrip("\n") for p in PROMPTS.rglob("*.txt")}
_PLACEHOLDER = re.compile(r"\{(problem|solution|tools)\}")


@dataclass(frozen=True)
class RoleSpec:
    """A role: its name, the parser of each stage's reply, and what its findings on steps begin with.

    The compact forward reviews count their checks along the solution's equations, so that check k is about step k, and
    the check after the last one is about the answer. The checks of backward reviews are about the problem.
    """

    name: Role
    labels: tuple[str, ...] = ("step",)
    parsers: Mapping[Stage, Parser] = field(
        default_factory=lambda: {"plan": parse_plan, "validate": parse_tool_calls, "verdict": parse_verdict}
    )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order."""
        return tuple(self.parsers)


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


def render(role: str, stage: str, style: str, **values: str) -> list[Message]:
    """Write the messages that open a stage: system and user for `plan`, user for the others.

    Args:
        role: A name of `SPECS`.
        stage: A stage of the role.
        style: "compact" or "full".
        **values: Text for the placeholders, put in as it is: `problem` and `solution` for `plan`, and `tools` (see
            `tool_schemas`) where the style's system prompt shows them.

    Returns:
        The messages, in order.

    Raises:
        ConfigError: unknown role, stage or style, or a placeholder without a value.
    """
    names = ["system", f"{role}.{stage}"] if stage == "plan" else [f"{role}.{stage}"]
    return [
        Message(role="system" if name == "system" else "user", content=_fill(_template(f"{style}/{name}.txt"), values))
        for name in names
    ]


def render_solver(problem: str) -> list[Message]:
    """Write the messages that ask a solver for one solution; the user message is the problem and nothing else."""
    return [Message(role="system", content=_template("solver/system.txt")), Message(role="user", content=problem)]


def tool_schemas(tools: Iterable[Tool]) -> str:
    """Write the tools' schemas as Qwen3's chat template does, one JSON object a line."""
    return "\n".join(json.dumps(tool.schema, ensure_ascii=False) for tool in tools)


@cache
def prompt_version(role: str, style: str) -> str:
    """Return the hash of every prompt that a role is shown in a style."""
    names = ["system", *(f"{role}.{stage}" for stage in spec_of(role).stages)]
    return content_id(*(_template(f"{style}/{name}.txt") for name in names))


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
