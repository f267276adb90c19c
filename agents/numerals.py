"""Numerals in a text: their values, whatever they are written like ("1,200", "1200.0", "twelve")."""

import re

NUMBER = re.compile(  # "step 2", "turn 1", "c2" and "v2" are names, and so is no digit within a word
    r"(?<![Ss]tep )(?<![Cc]heck )(?<![Ll]ine )(?<![Tt]urn )(?<![Mm]essage )(?<![Oo]bservation )(?<![A-Za-z_\d.])"
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"|(?<![\w.])\.\d+"
)
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_OTHERS = {"twice": "2", "double": "2", "thrice": "3", "dozen": "12", "half": "2"}
_SPELLED = {word: str(i) for i, word in enumerate(_WORDS)} | _OTHERS


def values_in(text: str) -> set[str]:
    """Return the values of a text's numerals, signs left out, and of its number words."""
    spelled = {_SPELLED[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPELLED}
    return {value_of(numeral) for numeral in NUMBER.findall(text)} | spelled


def sole_value(answer: str) -> str | None:
    """Return the value of an answer that is one number with or without a sign and a unit, None for any other."""
    found = NUMBER.findall(answer)
    return value_of(found[0]) if len(found) == 1 and not re.search(r"[\\^]", answer) else None


def value_of(numeral: str) -> str:
    """Return one spelling of a numeral's value; as text, since a review may hold a numeral of any length."""
    whole, _, decimals = numeral.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
