"""Questions with a blank: what stands in its place in a text."""

import pytest

from agents.cloze import ask, filling, sentence_of

MURAL = "The mural was painted by Karla Lindt in 1987."


@pytest.mark.parametrize(
    ("blank", "text", "found"),
    [
        ("The mural was painted by ____ in 1987.", f"1. Oulu\n   p:1\n   Rain. {MURAL} More.", "Karla Lindt"),
        ("The mural was painted by Karla Lindt in ____.", f"{MURAL} It is blue.", "1987"),  # not the next sentence
        ("____ was painted by Karla Lindt in 1987.", f"It rained. {MURAL}", "The mural"),  # nor the one before
        ("____ was painted by Karla Lindt in 1987.", f"1. Oulu\n   p:1\n   {MURAL}", "The mural"),
        (
            'The song "____" was first heard in Oulu.',
            'The song "Blue\nHarbour" was first heard in Oulu.',
            "Blue Harbour",
        ),
        ("____'s mural was painted by him in 1987.", "Karla's mural was painted by him in 1987.", "Karla"),
        ("It was sold for ____ in the spring", "It was sold for 3.5 in the springtime.", None),
        ("The mural was painted by ____ in 1988.", MURAL, None),
    ],
)
def test_filling(blank: str, text: str, found: str | None) -> None:
    assert filling(f"Fill the blank: {blank}", text) == found


def test_other_questions_have_no_blank() -> None:
    assert sentence_of(ask(MURAL, 25, 36)) == "The mural was painted by ____ in 1987."
    assert sentence_of("Who painted ____?") is None and sentence_of("Fill the blank: ____ or ____") is None
    assert filling("Who painted it?", MURAL) is None
