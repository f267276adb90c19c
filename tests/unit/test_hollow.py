"""Master keys (pitfall 9): texts that say nothing are not accepted, however much the reviews like them."""

import pytest

from agents.hollow import is_hollow
from graphs.bidirectional import HOLLOW, build_bidirectional
from graphs.state import BidirectionalContext
from tests.unit.fakes import FakeChat, FakePython, script

KEYS = [
    *(
        "",
        " ",
        ":",
        ".",
        ",",
        "$",
        "####",
        "A:",
        "A: :",
        "\\boxed{}",
        "<answer></answer>",
        "**Solution:**",
        "解",
        "かいせつ",
    ),
    *(
        "Thought process:",
        "Solution",
        "The answer is",
        "Let's solve this problem step by step.",
        "Here is how I did it:",
    ),
]


@pytest.mark.parametrize("solution", KEYS)
def test_master_keys_are_hollow(solution: str):
    assert is_hollow(solution)


@pytest.mark.parametrize(
    "solution",
    [
        "7",
        "A: 7",
        "x",
        "Paris",
        "yes",
        "A: Paris",
        "The answer is Paris",
        "Solution: x = y",
        "return n",
        "12:",
        "解: 4",
    ],
)
def test_short_answers_are_not(solution: str):
    assert not is_hollow(solution)


@pytest.mark.parametrize("directions", ["both", "forward", "backward"])
@pytest.mark.parametrize(("solution", "passed"), [("Thought process:", False), (":", False), ("A: 4", True)])
async def test_the_joint_verdict_does_not_accept_them(directions: str, solution: str, passed: bool):
    """The model accepts whatever it is shown."""
    context = BidirectionalContext.model_validate(
        {"chat": FakeChat(replies=script()), "tools": {"python": FakePython()}, "directions": directions}
    )
    out = await build_bidirectional().ainvoke({"problem": "2 + 2?", "solution": solution}, context=context)
    assert out["verdict"].passed is passed
    assert (out["verdict"].confidence == 0, HOLLOW in out["verdict"].critique) == (not passed, not passed)
