"""An agent's final answer: where it stands, what is none, and that any answer written in a tag is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.final_answer import answer_of, final_answer, format_final, gives_answer, parse_final
from agents.protocol import strip_thoughts
from agents.types import StopReason, Trajectory, Turn
from tests.unit.fakes import CALL


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is <answer>Paris</answer>.", "Paris"),
        ("<answer>\n 1,234 \n</answer>", "1,234"),
        ("<ANSWER>x</Answer>", "x"),
        ("<answer>first</answer> no, <answer>second</answer>", "second"),
        ("<answer>open <answer>closed</answer>", "closed"),
        (r"\boxed{42}", "42"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{whole} but \boxed{cut off", "whole"),
        (r"\fboxed{7}", "7"),
        (r"\boxed{no} <answer>\boxed{\sqrt{3}}</answer>", r"\sqrt{3}"),
        (r"<answer>tag</answer> \boxed{box}", "tag"),
        ("<think><answer>thought</answer></think>", None),
        ("<answer>thought</answer></think>said", None),
        ("<think>open <answer>x</answer>", None),
        ("<answer></answer>", None),
        ("<answer> : </answer>", None),
        (r"<answer>…</answer> \boxed{5}", None),
        ("<answer>never closed", None),
        ("Answer: 5", None),
        ("The answer is 5.", None),
        (r"\boxed{}", None),
        (r"\boxed 5", None),
        ("", None),
    ],
)
def test_where_an_answer_stands(text: str, answer: str | None) -> None:
    assert parse_final(text) == answer


PLAIN = st.text(max_size=60).filter(
    lambda s: not any(mark in s.lower() for mark in ("answer>", "boxed", "think>")) and any(c.isalnum() for c in s)
)


@given(answer=PLAIN, before=PLAIN, after=PLAIN)
def test_an_answer_in_a_tag_is_read_back(answer: str, before: str, after: str) -> None:
    assert parse_final(f"{before}{format_final(answer)}{after}") == answer.strip()


@given(answer=PLAIN.filter(lambda s: "{" not in s and "}" not in s), before=PLAIN)
def test_an_answer_in_a_box_is_read_back(answer: str, before: str) -> None:
    assert parse_final(f"{before}\\boxed{{{answer}}}") == answer.strip()


PIECES = st.lists(
    st.sampled_from(
        ["<answer>", "</answer>", "\\boxed{", "}", "{", "<think>", "</think>", "<tool_call>", "42", " ", "\n", "\\"]
    )
    | st.text(max_size=5),
    max_size=12,
).map("".join)


@given(text=PIECES)
def test_reading_never_raises_and_gives_a_part_of_what_is_said(text: str) -> None:
    answer = parse_final(text)
    assert answer is None or (answer in strip_thoughts(text) and answer == answer.strip() and answer)


@given(text=PIECES, hidden=PLAIN)
def test_what_is_only_thought_is_no_answer(text: str, hidden: str) -> None:
    assert parse_final(f"<think>{hidden}{format_final(hidden)}</think>") is None
    assert parse_final(f"{text.replace('<', '').replace('boxed', '')}<think>{format_final(hidden)}") is None


def turn(content: str) -> Turn:
    return Turn(stage="act", prompt=(), content=content)


def test_an_answer_beside_a_call_is_none() -> None:
    assert gives_answer(turn("<answer>2</answer>"))
    assert not gives_answer(turn(f"{CALL}<answer>2</answer>"))
    assert not gives_answer(turn("<tool_call>{ <answer>2</answer>"))
    assert gives_answer(turn(f"<think>{CALL}</think><answer>2</answer>"))


@pytest.mark.parametrize("stop", [s for s in StopReason if s is not StopReason.COMPLETED])
def test_only_a_completed_trajectory_has_an_answer(stop: StopReason) -> None:
    turns = (turn("<answer>1</answer>"), turn("<answer>2</answer>"))
    assert final_answer(turns, StopReason.COMPLETED) == "2" and final_answer((), StopReason.COMPLETED) is None
    assert answer_of(Trajectory(role="agent", turns=turns, stop_reason=stop)) is None
