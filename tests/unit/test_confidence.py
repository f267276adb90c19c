"""The confidence of a verdict against probabilities worked out by hand."""

import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from agents.confidence import true_share, verdict_confidence, verdict_position


def reply(tokens: list[str], tops: list[dict[str, float]] | None, chosen: list[float] | None = None) -> AIMessage:
    """Return a reply whose alternatives are given as probabilities."""
    logs: Any = None if tops is None else [{t: math.log(p) for t, p in top.items()} for top in tops]
    logprobs = None if chosen is None else [math.log(p) for p in chosen]
    return AIMessage("".join(tokens), response_metadata={"tokens": tokens, "top_logprobs": logs, "logprobs": logprobs})


def test_mass_of_each_word_is_summed_over_the_tokens_that_begin_it() -> None:
    """True: 0.5 ("true") + 0.1 ("t") + 0.05 (" True") = 0.65; false: 0.2 + 0.15 = 0.35; "maybe" counts for neither."""
    top = {"true": 0.5, "t": 0.1, " True": 0.05, "false": 0.2, "fal": 0.15, "maybe": 0.0001}
    message = reply(["<verdict>", "true", "</verdict>"], [{"<verdict>": 1.0}, top, {"</verdict>": 1.0}])
    assert verdict_confidence(message) == pytest.approx(0.65)


def test_a_word_in_pieces_is_read_where_it_begins() -> None:
    """0.3 / (0.3 + 0.6) = 1/3; the later pieces ("rue") are certain and say nothing."""
    tops = [{"<verdict>": 1.0}, {"t": 0.3, "f": 0.6}, {"rue": 1.0}, {"</verdict>": 1.0}]
    assert verdict_confidence(reply(["<verdict>", "t", "rue", "</verdict>"], tops)) == pytest.approx(1 / 3)


def test_a_token_that_holds_the_end_of_the_tag_and_the_word() -> None:
    """Token ">true" 0.2 against ">false" 0.6 = 0.25; "true" without the tag's end is no verdict there."""
    tops = [{"<": 1.0}, {"verdict": 1.0}, {">true": 0.2, ">false": 0.6, "true": 0.1}, {"</": 1.0}]
    assert verdict_confidence(reply(["<", "verdict", ">true", "</"], tops)) == pytest.approx(0.25)


def test_the_sampled_token_counts_even_outside_the_top_ones() -> None:
    """Sampled "true" has 0.1 and is not among the top; false has 0.3: 0.1 / 0.4."""
    message = reply(["<verdict>", "true"], [{"<verdict>": 1.0}, {"false": 0.3, "x": 0.2}], [1.0, 0.1])
    assert verdict_confidence(message) == pytest.approx(0.25)


def test_the_last_verdict_counts() -> None:
    tokens = ["<verdict>", "true", "</verdict>", " no, ", "<verdict>", "false"]
    tops = [{"a": 1.0}, {"true": 0.9, "false": 0.1}, {"a": 1.0}, {"a": 1.0}, {"a": 1.0}, {"true": 0.2, "false": 0.8}]
    assert verdict_confidence(reply(tokens, tops)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("<verdict>true</verdict>"),
        reply(["<verdict>", "true"], None, [0.5, 0.5]),
        reply(["no ", "verdict"], [{"no ": 1.0}, {"verdict": 1.0}]),
        reply(["<verdict>", "true"], [{"<verdict>": 1.0}]),
        AIMessage("", response_metadata={"tokens": [], "top_logprobs": []}),
    ],
)
def test_none_where_there_is_nothing_to_read(message: AIMessage) -> None:
    assert verdict_confidence(message) is None


def test_no_mass_on_either_word() -> None:
    assert true_share({"maybe": -0.1, " ": -3.0, "": -4.0}) is None


def test_position() -> None:
    assert verdict_position(["a<ver", "dict>", "  TRUE", "</verdict>"]) == (2, "  ")
    assert verdict_position(["<verdict>maybe"]) is None
