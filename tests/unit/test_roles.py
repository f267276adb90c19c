"""Prompts: what each stage is shown, that values survive, and that a version follows the text."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import templates
from agents.plain_roles import SOLVER_PROMPTS, render_solver, solver_version
from agents.roles import SPECS, Mode, prompt_version, render, spec_of
from agents.templates import tool_schemas
from agents.types import ROLES, Message
from tests.unit.fakes import FakePython
from tools.errors import ConfigError

STYLES = ["compact", "full"]
VALUE = st.text() | st.sampled_from(["{solution}", "{problem} {tools}", r"\frac{1}{2} \1 \g<0>", "{0} {} {{x}}"])


@given(problem=VALUE, solution=VALUE, tools=VALUE, style=st.sampled_from(STYLES), role=st.sampled_from(ROLES))
def test_values_are_put_in_as_they_are(problem: str, solution: str, tools: str, style: str, role: str) -> None:
    system, user = render(role, "plan", style, problem=problem, solution=solution, tools=tools)
    assert (system.role, user.role) == ("system", "user")
    assert user.content.startswith(f"Problem:\n{problem}\n\nSolution:\n{solution}\n\n# Plan (")
    assert ("<tools>\n" + tools + "\n</tools>" in system.content) == (style == "full")


@pytest.mark.parametrize("style", STYLES)
def test_both_directions_share_everything_before_the_heading(style: str) -> None:
    values: dict[str, Any] = {"problem": "p", "solution": "s", "tools": "t"}
    forward, backward = (render(role, "plan", style, **values) for role in ROLES)
    assert forward[0] == backward[0]
    shared = "Problem:\np\n\nSolution:\ns\n\n# Plan ("
    assert forward[1].content.startswith(shared + "forward)")
    assert backward[1].content.startswith(shared + "backward)")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("role", "direction"), [("forward_verifier", "forward"), ("backward_verifier", "backward")])
@pytest.mark.parametrize("stage", ["plan", "validate", "verdict"])
def test_every_stage_prompt_has_its_heading(role: str, direction: str, stage: str, style: str) -> None:
    message = render(role, stage, style, problem="p", solution="s", tools="")[-1]
    headings = [line for line in message.content.splitlines() if line.startswith("# ")]
    assert headings == [f"# {stage.capitalize()} ({direction})"]
    if stage != "plan":
        assert message.content.startswith(headings[0])


def test_the_full_prompts_say_what_the_paper_says() -> None:
    values: dict[str, Any] = {"problem": "p", "solution": "s", "tools": ""}
    forward = render("forward_verifier", "plan", "full", **values)[-1].content
    backward = render("backward_verifier", "plan", "full", **values)[-1].content
    assert "sufficiency" in forward and "v1" in forward and "vn" in forward
    assert "necessity" in backward and "final answer" in backward


def test_the_full_system_prompt_ends_with_the_tools_block_of_qwen3() -> None:
    schemas = tool_schemas([FakePython()])
    assert json.loads(schemas)["function"]["name"] == "python"
    block = (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        f"{schemas}\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    )
    system = render("forward_verifier", "plan", "full", problem="p", solution="s", tools=schemas)[0]
    assert system.content.endswith(block)


def test_a_solver_is_shown_the_problem_and_nothing_else() -> None:
    system, user = render_solver("1 {problem} + 1")
    assert user.content == "1 {problem} + 1"
    assert "Answer:" in system.content


def test_a_solver_is_told_what_its_kind_of_task_asks_for() -> None:
    told = {kind: render_solver("p", kind)[0].content for kind in SOLVER_PROMPTS}
    assert "Answer:" in told["math"] and "Answer:" in told["qa"] and "```python" in told["program"]
    assert len(set(told.values())) == len({solver_version(kind) for kind in SOLVER_PROMPTS}) == 3


def test_the_version_follows_role_style_and_text(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {prompt_version(role, style) for role in ROLES for style in STYLES}
    assert len(versions) == 4
    before = prompt_version("forward_verifier", "compact")
    changed = {**templates._TEMPLATES, "compact/forward_verifier.verdict.txt": "changed"}
    monkeypatch.setattr(templates, "_TEMPLATES", changed)
    prompt_version.cache_clear()
    assert prompt_version("forward_verifier", "compact") != before
    prompt_version.cache_clear()


def test_stages_in_order() -> None:
    assert list(SPECS) == list(ROLES)
    assert Mode().stages == ("plan", "validate", "verdict")
    assert Mode(use_plan=False).stages == ("validate", "verdict")
    assert Mode(single_pass=True, use_plan=False).stages == ("verdict",)


MODES = [Mode(use_plan, use_tools) for use_plan in (True, False) for use_tools in (True, False)]
MODES.append(Mode(single_pass=True))


def shown(role: str, style: str, mode: Mode) -> list[Message]:
    """Return every prompt of a mode, in order."""
    values = {"problem": "p", "solution": "s", "tools": "TOOLS"}
    return [m for stage in mode.stages for m in render(role, stage, style, mode, **values)]


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("role", ROLES)
def test_each_mode_begins_with_the_problem_and_speaks_of_what_it_has(role: str, style: str, mode: Mode) -> None:
    prompts = shown(role, style, mode)
    direction = role.partition("_")[0]
    assert [m.role for m in prompts] == ["system"] + ["user"] * len(mode.stages)
    assert prompts[1].content.startswith(
        f"Problem:\np\n\nSolution:\ns\n\n# {mode.opening.capitalize()} ({direction})\n"
    )
    headings = [re.findall(r"^# (.*)", m.content, re.MULTILINE) for m in prompts[1:]]
    assert headings == [[f"{stage.capitalize()} ({direction})"] for stage in mode.stages]
    text = "\n".join(m.content for m in prompts)
    assert all(word in text for word in ("<verdict>", "true", "false"))
    has_tools = mode.use_tools and not mode.single_pass
    assert ("python" in text) == ("<tool_call>" in text) == has_tools
    assert ("TOOLS" in text) == (has_tools and style == "full")
    assert bool(re.search(r"\bplan\b|\bv1\b", text, re.IGNORECASE)) == ("plan" in mode.stages)


@pytest.mark.parametrize("style", STYLES)
def test_each_mode_has_a_version_of_its_own(style: str) -> None:
    assert len({prompt_version(role, style, mode) for role in ROLES for mode in MODES}) == 2 * len(MODES)
    assert prompt_version("forward_verifier", style, Mode()) == prompt_version("forward_verifier", style)


@pytest.mark.parametrize(
    ("role", "stage", "style"),
    [("poet", "plan", "full"), ("forward_verifier", "sing", "full"), ("forward_verifier", "verdict", "loud")],
)
def test_unknown_names_are_errors_that_say_what_there_is(role: str, stage: str, style: str) -> None:
    with pytest.raises(ConfigError, match=r"forward_verifier\.plan\.txt"):
        render(role, stage, style, problem="p", solution="s", tools="")
    with pytest.raises(ConfigError, match="forward_verifier, backward_verifier"):
        spec_of("poet")


def test_a_placeholder_without_a_value_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"\{solution\}"):
        render("forward_verifier", "plan", "compact", problem="p")
