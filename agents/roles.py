"""Roles with stages, the verifiers: which stages a role goes through, the prompt and the parser of each.

Prompts are the text files of `agents/prompts/<style>/<role>.<stage>.txt` and `<style>/system.txt`: style "compact" for
small students, "full" for Qwen3-class models. Where a mode (no plan, no tools, single pass) needs other words, a file
says so in its name: `<role>.<stage>.no_tools.txt`; the most specific file that there is is used. Roles without stages
are in `agents/plain_roles.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from agents.protocol import ParseFailure, parse_plan, parse_tool_calls, parse_verdict
from agents.templates import fill, is_template, template
from agents.types import Message, Role, content_id
from tools.base import ToolCall
from tools.errors import ConfigError

Stage = Literal["plan", "validate", "verdict", "reconcile"]
STAGES: tuple[Stage, ...] = ("plan", "validate", "verdict")
Style = Literal["compact", "full"]
Parser = Callable[[str], str | list[ToolCall] | bool | ParseFailure]


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
        Message(role="system" if name == "system" else "user", content=fill(_text(style, name, mode), values))
        for name in names
    ]


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
    return template(next((path for path in paths if is_template(path)), paths[-1]))
