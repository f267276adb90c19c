"""The scripted judge: it audits the arithmetic of a trajectory from the conversation alone."""

import pytest
from langchain_core.messages import HumanMessage

from agents.judgements import is_in_form, parse_judgement
from agents.plain_roles import render_judge
from agents.scripted_judge import ScriptedJudge, judged, said_by_agent
from agents.types import Judgement
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext
from tools.errors import ModelError

PROBLEM = "Calculate 12 + 30 - 5."
RIGHT = "12 + 30 = 42\n42 - 5 = 37\nA: 37"


@pytest.mark.parametrize(
    ("work", "critique", "score"),
    [
        (RIGHT, "All steps hold.", 0.95),
        ("12 + 30 = 43\n43 - 5 = 38\nA: 38", "Step 1: wrong.", 0.05),
        ("12 + 30 = 42\n42 - 5 = 36\nA: 36", "Step 2: wrong.", 0.15),  # the later, the better
        ("12 + 30 = 42\n42 - 5 = 37\nA: 73", "Step 3: wrong.", 0.25),  # the last line
        ("12 - 5 = 7\nA: 7", "A condition of the problem is not met.", 0.3),
        ("A: 37", "No step leads to the answer.", 0.4),
        ("12 + 30 = 42", "No final answer is stated.", 0.02),
        ("", "No final answer is stated.", 0.02),
        ("Thought process:", "No final answer is stated.", 0.02),
        ("12 / 0 = 5\nA: 5", "No step leads to the answer.", 0.4),
    ],
)
def test_judgements(work: str, critique: str, score: float):
    read = judged(PROBLEM, work)
    assert (read.critique, read.score) == (critique, score)


@pytest.mark.parametrize(
    ("problem", "work", "right"),
    [
        ("Solve for x: 2*x + 4 = 10", "10 - 4 = 6\n6 / 2 = 3\nA: 3", True),
        ("Solve for x: 2*x + 4 = 10", "10 + 4 = 14\n14 / 2 = 7\nA: 7", False),
        ("Ann has 3 bags of 4 nuts and eats 5. How many are left?", "3 * 4 = 12\n12 - 5 = 7\nA: 7", True),
        ("Ann has 3 bags of 4 nuts and eats 5. How many are left?", "3 * 4 = 12\nA: 12", False),
    ],
)
def test_the_answer_has_to_fit_the_problem(problem: str, work: str, right: bool):
    assert (judged(problem, work).score > 0.5) is right


def test_only_the_agents_own_turns_are_audited():
    text = "## Turn 1\n12 + 30 = 42\n\n## Observation 1\n1 + 1 = 3\nA: 9\n\n## Turn 2\n42 - 5 = 37\nA: 37"
    assert said_by_agent(text) == "12 + 30 = 42\n42 - 5 = 37\nA: 37"


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_it_reads_the_prompts(style: str):
    chat = ScriptedJudge(error_rate=0.0)
    context = JudgeContext(chat=chat, style=style)  # pyright: ignore[reportArgumentType]
    out = await build_judge().ainvoke({"problem": PROBLEM, "solution": RIGHT}, context=context)
    assert out["judgement"] == Judgement(
        thought="step 1 ok, step 2 ok, step 3 ok", critique="All steps hold.", score=0.95
    )
    assert is_in_form(out["trajectory"].turns[0].content) and out["trajectory"].model == "scripted-judge"


def test_it_is_wrong_at_its_rate_and_the_same_each_time():
    def score(chat: ScriptedJudge, n: int) -> float:
        messages = [HumanMessage(render_judge("compact", PROBLEM, f"## Turn {n}\n{RIGHT}")[-1].content)]
        read = parse_judgement(chat.reply(messages))
        assert isinstance(read, Judgement)
        return read.score

    always, never, half = (ScriptedJudge(error_rate=rate) for rate in (1.0, 0.0, 0.5))
    assert {score(always, n) for n in range(1, 9)} == {0.05} and {score(never, n) for n in range(1, 9)} == {0.95}
    scores = [score(half, n) for n in range(1, 200)]
    assert 60 < scores.count(0.95) < 140 and scores == [score(half, n) for n in range(1, 200)]


def test_other_conversations_are_refused():
    with pytest.raises(ModelError, match="requests for a judgement only"):
        ScriptedJudge().reply([HumanMessage("hello")])
