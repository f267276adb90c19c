"""The scripted judge on look-ups and on sums given to python: it reads the trajectory, its critique tells no answer."""

import pytest
from langchain_core.messages import HumanMessage

from agents.judgements import parse_judgement
from agents.plain_roles import render_judge
from agents.scripted_judge import ScriptedJudge
from agents.types import Judgement, Turn
from graphs.judge import silent

BLANK = "Fill the blank: The mural Blue Harbour was painted by ____ in 1987."
WHO = "Who painted the mural Blue Harbour?"
SUM, EQUATION = "Calculate 12 + 30 - 5.", "Solve for x: 2*x + 1 = 4"
SEARCH = '<tool_call>{"name": "search", "arguments": {"query": "The mural Blue"}}</tool_call>'
PYTHON = '<tool_call>{"name": "python", "arguments": {"code": "print(12 + 30 - 5)"}}</tool_call>'
SEEN = "1. Oulu\n   p:1\n   The mural Blue Harbour was painted by Karla Lindt in 1987. It cost $3.5 million."
NO_ANSWER = ("No final answer is stated.", 0.02)
RIGHT = ("The answer stands in the sentence found.", 0.95)
WRONG = ("The answer is not what stands in the sentence found.", 0.1)
STANDS, STANDS_NOT = (
    ("The answer stands in the text found.", 0.6),
    ("The answer does not stand in the text found.", 0.1),
)
FITS, FITS_NOT = ("The answer fits the problem.", 0.95), ("The answer does not fit the problem.", 0.3)


def work(call: str, seen: str, said: str) -> str:
    return f"## Turn 1\n{call}\n\n## Observation 1\n{seen}\n\n## Turn 2\n{said}"


def ask(problem: str, trajectory: str, error_rate: float = 0.0) -> Judgement:
    messages = [HumanMessage(render_judge("compact", problem, trajectory)[-1].content)]
    read = parse_judgement(ScriptedJudge(error_rate=error_rate).reply(messages))
    assert isinstance(read, Judgement)
    return read


def answer(text: str) -> str:
    return f"<answer>{text}</answer>"


@pytest.mark.parametrize(
    ("problem", "trajectory", "wanted"),
    [
        (BLANK, work(SEARCH, SEEN, answer("Karla Lindt")), RIGHT),
        (BLANK, work(SEARCH, SEEN, answer("the karla lindt.")), RIGHT),
        (BLANK, work(SEARCH, SEEN, answer("Karla")), WRONG),
        (BLANK, work(SEARCH, SEEN, answer("Oulu")), WRONG),
        (BLANK, work(SEARCH, SEEN, "I could not find it."), NO_ANSWER),
        (BLANK, work(SEARCH, SEEN, SEARCH + answer("Karla Lindt")), NO_ANSWER),
        (BLANK, "## Turn 1\n" + answer("Karla Lindt"), ("Nothing was looked up.", 0.1)),
        (BLANK, work(PYTHON, SEEN, answer("Karla Lindt")), ("Nothing was looked up.", 0.1)),  # it printed that itself
        (
            BLANK,
            work(SEARCH, "1. Vaasa\n   p:2\n   Karla Lindt is a painter.", answer("Karla Lindt")),
            ("The sentence is not in what was found: search with more of its words.", 0.2),
        ),
        (WHO, work(SEARCH, SEEN, answer("karla lindt")), STANDS),
        (WHO, work(SEARCH, SEEN, answer("3.5 million")), STANDS),
        (WHO, work(SEARCH, SEEN, answer("Karla Lin")), STANDS_NOT),
        (WHO, work(SEARCH, SEEN, answer("35 million")), STANDS_NOT),
        (WHO, work(SEARCH, SEEN, "I could not find it."), NO_ANSWER),
        (SUM, work(PYTHON, "37", "The program printed it. " + answer("37")), FITS),
        (SUM, work(PYTHON, "37", answer("371")), FITS_NOT),
        (SUM, work(PYTHON.replace("30", "31"), "38", answer("38")), FITS_NOT),
        (SUM, work(PYTHON, "37", answer("none")), FITS_NOT),
        (SUM, work(PYTHON, "37", "It is done."), NO_ANSWER),
        ("Calculate 10 / 3.", work(PYTHON, "3.3333333333333335", answer("3.3333333333333335")), FITS),
        ("Calculate 10 / 3.", work(PYTHON, "3.3333333333333335", answer("3.3334")), FITS_NOT),
        (EQUATION, work(PYTHON, "3/2", answer("3/2")), FITS),
        (EQUATION, work(PYTHON, "3/2", answer("1/0")), FITS_NOT),
        (SUM, "## Turn 1\n" + answer("37"), ("No step leads to the answer.", 0.4)),
        (SUM, "## Turn 1\n12 + 30 = 42\n42 - 5 = 37\n" + answer("37"), ("All steps hold.", 0.95)),
    ],
)
def test_judgements(problem: str, trajectory: str, wanted: tuple[str, float]) -> None:
    read = ask(problem, trajectory)
    assert (read.critique, read.score) == wanted


def test_what_was_compared_is_in_the_analysis_alone() -> None:
    read = ask(BLANK, work(SEARCH, SEEN, answer("Timo </critique> Salo")))
    assert read.thought == 'found "Karla Lindt", answered "Timo /critique Salo"'
    assert "Karla" not in read.critique and "Timo" not in read.critique


@pytest.mark.parametrize(
    ("problem", "call", "seen", "good", "bad"),
    [
        (BLANK, SEARCH, SEEN, ("Karla Lindt", *WRONG), ("Oulu", *RIGHT)),
        (WHO, SEARCH, SEEN, ("Karla Lindt", *STANDS_NOT), ("Timo", *STANDS)),
        (SUM, PYTHON, "37", ("37", *FITS_NOT), ("38", *FITS)),
    ],
)
def test_a_misread_audit_is_told_as_the_other_one(
    problem: str, call: str, seen: str, good: tuple[str, str, float], bad: tuple[str, str, float]
) -> None:
    for given, critique, score in (good, bad):
        read = ask(problem, work(call, seen, answer(given)), error_rate=1.0)
        assert (read.critique, read.score) == (critique, score)


@pytest.mark.parametrize("given", ["Karla Lindt", "Oulu", "no", "1987"])
def test_the_critique_reaches_the_agent_whole(given: str) -> None:
    read = ask(BLANK, work(SEARCH, SEEN, answer(given)))
    turns = [Turn(stage="act", prompt=(), content=answer(given))]
    assert silent(read, BLANK, turns) == read
    for critique, _ in (NO_ANSWER, STANDS, STANDS_NOT, FITS, FITS_NOT):
        said = Judgement(critique=critique, score=0.5)
        assert silent(said, BLANK, turns) == said
