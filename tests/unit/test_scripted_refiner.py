"""The scripted refiner: it mends the step that a review names, from the conversation alone."""

import random

import pytest
from langchain_core.messages import HumanMessage

from agents.plain_roles import render_refiner
from agents.scripted_refiner import ScriptedRefiner, revise
from tools.errors import ModelError

PROBLEM = "Calculate 12 + 30 - 5."
RIGHT = "12 + 30 = 42\n42 - 5 = 37\nA: 37"


def mended(solution: str, review: str | None, slips: bool = False) -> str:
    return revise(PROBLEM, solution, review, random.Random(0), slips)


@pytest.mark.parametrize(
    ("solution", "review"),
    [
        ("12 + 30 = 43\n43 - 5 = 38\nA: 38", "Forward review: the solution is wrong.\nStep 1: wrong."),  # a slip
        ("12 + 30 = 42\n42 - 7 = 35\nA: 35", "Step 2: wrong."),  # a number misread
        ("12 + 30 = 42\n42 - 7 = 35\nA: 35", "Backward review: the solution is wrong."),  # no step is named
        ("12 + 30 = 42\n42 - 5 = 37\nA: 73", "Step 3: wrong."),  # the last line
        (RIGHT, "Step 1: wrong."),  # a false alarm
    ],
)
def test_what_a_review_names_is_done_again(solution: str, review: str):
    assert mended(solution, review) == RIGHT


def test_a_step_that_is_not_named_stays():
    assert mended("12 + 30 = 43\n43 - 5 = 38\nA: 38", "Step 2: wrong.") == "12 + 30 = 43\n43 - 5 = 38\nA: 38"


def test_a_missing_step_is_not_found():
    assert mended("12 - 5 = 7\nA: 7", "Step 1: wrong.") != RIGHT


def test_labels_and_negative_numbers():
    solution = "Step 1: 3 - 10 = 7\nStep 2: 7 + 2 = 9\nA: 9"
    assert revise("Calculate 3 - 10 + 2.", solution, "Step 1: wrong.", random.Random(0)) == (
        "Step 1: 3 - 10 = -7\nStep 2: -7 + 2 = -5\nA: -5"
    )


def test_a_slip_makes_it_wrong():
    assert mended(RIGHT, "Step 1: wrong.", slips=True) != RIGHT
    assert mended(RIGHT, "Step 9: wrong.", slips=True) != RIGHT


@pytest.mark.parametrize("solution", ["", ":", "Thought process:", "x = y"])
def test_what_has_no_equations_stays(solution: str):
    assert mended(solution, "Step 1: wrong.") == solution


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_it_reads_the_prompts(style: str):
    def conversation(critique: str | None) -> list[HumanMessage]:
        solution = "12 + 30 = 43\n43 - 5 = 38\nA: 38"
        return [HumanMessage(m.content) for m in render_refiner(style, PROBLEM, solution, critique)]

    refiner = ScriptedRefiner(error_rate=0.0)
    assert str((await refiner.ainvoke(conversation("Step 1: wrong."))).content) == RIGHT
    alone = {str((await ScriptedRefiner(error_rate=0.0, seed=s).ainvoke(conversation(None))).content) for s in range(9)}
    assert len(alone) == 2 and RIGHT in alone  # without a review it depends on the step that it happens to look at
    with pytest.raises(ModelError, match="requests for a revision only"):
        await refiner.ainvoke([HumanMessage("hello")])


async def test_its_error_rate():
    refiner, wrong = ScriptedRefiner(error_rate=0.3), 0
    for n in range(200):
        prompt = render_refiner("compact", f"Calculate {n} + 30.", f"{n} + 30 = 1\nA: 1", "Step 1: wrong.")
        reply = await refiner.ainvoke([HumanMessage(m.content) for m in prompt])
        wrong += not str(reply.content).endswith(f"A: {n + 30}")
    assert 0.2 < wrong / 200 < 0.4
