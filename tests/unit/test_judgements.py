"""The judge's wire format: what is read, what is refused, and that no text can break the parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.judgements import HINT, format_judgement, is_in_form, parse_judgement, thought_of
from agents.protocol import ParseFailure
from agents.types import Judgement

PLAIN = st.text(st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), min_size=1).filter(str.strip)
TAGS = ["<think>", "</think>", "<critique>", "</critique>", "<score>", "</score>", "0.5", "1", "nan", " ", "\n", "x"]
SOUP = st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=25).map("".join)
SCORES = st.integers(0, 10_000).map(lambda n: n / 10_000)


@given(PLAIN, PLAIN, SCORES, st.text(st.characters(blacklist_characters="<>"), max_size=20))
def test_what_is_written_is_read(thought: str, critique: str, score: float, stray: str) -> None:
    made = Judgement(thought=thought.strip(), critique=critique.strip(), score=score)
    text = format_judgement(made)
    assert parse_judgement(text) == made and is_in_form(text)
    assert parse_judgement(f"{text}\n{stray}") == made
    assert parse_judgement(text.removeprefix("<think>")) == made  # its opening may stand in the prompt
    assert is_in_form(text.removeprefix("<think>"))


@given(SOUP)
def test_no_text_breaks_the_parser(text: str) -> None:
    read = parse_judgement(text)
    if isinstance(read, ParseFailure):
        assert read.reason and read.hint == HINT and not is_in_form(text)
    else:
        assert 0 <= read.score <= 1 and read.critique.strip() == read.critique != ""
        assert "<score>" in text and "</critique>" in text


@given(SOUP, st.booleans())
def test_thoughts_are_never_the_judgement(soup: str, closed: bool) -> None:
    """What stands inside a thought that the model did not leave, or quotes in one that it did, is no judgement."""
    text = f"<think>{soup.replace('</think>', '')}"
    assert isinstance(parse_judgement(text + ("</think>" if closed else "")), ParseFailure)


@pytest.mark.parametrize(
    ("score", "value"),
    [("0", 0.0), ("1", 1.0), ("1.0", 1.0), ("0.85", 0.85), (".5", 0.5), (" 0.5\n", 0.5), ("1.", 1.0)],
)
def test_scores(score: str, value: float) -> None:
    read = parse_judgement(f"<critique>c</critique><score>{score}</score>")
    assert read == Judgement(critique="c", score=value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "There is no critique."),
        ("<score>0.5</score>", "There is no critique."),
        ("<critique> </critique><score>0.5</score>", "There is no critique."),
        ("<critique>c<score>0.5</score>", "There is no critique."),
        ("<critique>c</critique>", "There is no score."),
        ("<critique>c</critique><score>0.5", "There is no score."),
        ("<critique>c</critique><score>1.2</score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score>-0.1</score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score>80%</score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score>nan</score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score>٠</score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score></score>", "The score is no number from 0 to 1."),
        ("<critique>c</critique><score>0.2</score><score>0.8</score>", "There are two different scores."),
        ("<critique>c</critique><score>0.2</score><score>x</score>", "The score is no number from 0 to 1."),
        ("<think>x</think><think><critique>c</critique><score>0.5</score>", "There is no critique."),
    ],
)
def test_what_is_no_judgement(text: str, reason: str) -> None:
    assert parse_judgement(text) == ParseFailure(reason=reason, hint=HINT)


def test_the_last_critique_counts_and_a_score_may_be_said_twice() -> None:
    text = "<critique>first</critique><score>0.5</score>\n<critique>last</critique><score>.50</score>"
    assert parse_judgement(text) == Judgement(critique="last", score=0.5)


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think> a </think>b", "a"),
        ("a</think>b", "a"),
        ("<think>a</think><think>b</think>c", "ab"),
        ("<think>never ends", ""),
        ("none", ""),
    ],
)
def test_the_analysis(text: str, thought: str) -> None:
    assert thought_of(text) == thought


@pytest.mark.parametrize(
    "text",
    [
        "<critique>c</critique><score>0.5</score>",  # no analysis
        "<think> </think><critique>c</critique><score>0.5</score>",
        "<think>t</think><critique> </critique><score>0.5</score>",
        "<think>t</think><critique>c</critique><score>5</score>",
        "<think>t</think><score>0.5</score><critique>c</critique>",
        "<think>t</think>Well: <critique>c</critique><score>0.5</score>",
        "<think>t</think><critique>c</critique><score>0.5</score> So it is.",
        "<think>t</think><critique>c</critique><critique>d</critique><score>0.5</score>",
    ],
)
def test_what_is_not_in_form(text: str) -> None:
    assert not is_in_form(text)


def test_the_form_allows_white_space() -> None:
    assert is_in_form("\n<think>t</think>\n\n<critique>\nc\n</critique>\n<score> 0.5 </score>\n")
