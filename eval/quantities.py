r"""Plain numbers in answers: read exactly, with their unit, and compare.

Forms: `18`, `-3.50`, `1,234`, `3/4`, `\frac{3}{4}`, `2 1/2`, each with an optional unit of words (`18 dollars`,
`5 cm^2`, `40%`). Anything else is left to math-verify; powers of ten too, since an exact `1e999999999` would not fit in
memory.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_CHARS = 100
_FORM = re.compile(
    r"(?P<sign>[-+]?)\s*(?:"
    r"\\frac\s*(?:\{\s*(?P<ln>\d+)\s*\}\s*\{\s*(?P<ld>\d+)\s*\}|(?P<sn>\d)\s*(?P<sd>\d))"
    r"|(?:(?P<whole>\d+)\s+)?(?P<n>\d+)\s*/\s*(?P<d>\d+)"
    r"|(?P<int>\d{1,3}(?:,\d{3})+|\d+)(?:\.(?P<places>\d*))?"
    r"|\.(?P<bare>\d+))(?P<unit>(?:\s*%|\s*[A-Za-z].*)?)"
)
_UNIT_WORD = re.compile(r"([A-Za-z]+)\.?(\^\{?[23]\}?|[²³])?")
_SHORT_UNITS = frozenset(
    {"in", "mm", "cm", "km", "dm", "ft", "yd", "mi", "mg", "kg", "lb", "oz", "ml", "mL", "cl", "hr"}
)
_LINKS = frozenset({"a", "an", "per", "of", "in"})
_NOT_UNITS = frozenset(
    {
        "hundred",
        "thousand",
        "million",
        "billion",
        "trillion",
        "dozen",
        "half",
        "and",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "log",
        "exp",
        "mod",
        "because",
        "since",
        "not",
        "but",
    }
)
_MIN_ROUNDED_PLACES = 4


@dataclass(frozen=True)
class Number:
    """An exact value, the decimals that it was written with (None for a fraction), and its unit's words."""

    value: Fraction
    places: int | None
    unit: tuple[str, ...]


def read_number(text: str) -> Number | None:
    """Read a normalised answer as a plain number; None when it is anything else."""
    match = _FORM.fullmatch(text) if len(text) <= _MAX_CHARS else None
    unit = read_unit(match["unit"]) if match else None
    if match is None or unit is None:
        return None
    value, places = _read_value(match)
    if value is None:
        return None
    return Number(-value if match["sign"] == "-" else value, places, unit)


def read_unit(text: str) -> tuple[str, ...] | None:
    """Read the words of a unit ("dollars", "cm^2", "miles per hour", "%") in singular.

    Returns:
        The words, empty for an empty text; None when the text is no unit: a single letter is a variable.
    """
    words: list[str] = []
    for token in text.replace("/", " per ").split():
        match = _UNIT_WORD.fullmatch("percent" if token == "%" else token)
        word = match[1] if match else ""
        if word in _NOT_UNITS or (len(word) < 3 and word not in _SHORT_UNITS | (_LINKS if words else frozenset())):
            return None
        words.append(word.lower().removesuffix("s") + (match[2] if match and match[2] else "").strip("^{}"))
    return tuple(words)


def equal_numbers(a: Number, b: Number) -> bool:
    """Return whether two numbers are equal and their units do not contradict each other.

    Equality is exact, but for a decimal of at least four places beside a fraction that no decimal can
    hold: 0.3333 is 1/3.
    """
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if a.value == b.value:
        return True
    rounded, exact = (a, b) if a.places is not None else (b, a)
    if rounded.places is None or exact.places is not None or _terminates(exact.value):
        return False
    return rounded.places >= _MIN_ROUNDED_PLACES and abs(rounded.value - exact.value) < Fraction(1, 10**rounded.places)


def _read_value(match: re.Match[str]) -> tuple[Fraction | None, int | None]:
    """Return the absolute value and the decimals written (None for a fraction); no value for a division by zero."""
    numerator = match["ln"] or match["sn"] or match["n"]
    if numerator:
        denominator = int(match["ld"] or match["sd"] or match["d"])
        if denominator == 0:
            return None, None
        return int(match["whole"] or 0) + Fraction(int(numerator), denominator), None
    places = match["places"] or match["bare"] or ""
    digits = (match["int"] or "0").replace(",", "") + places
    return Fraction(int(digits), 10 ** len(places)), len(places)


def _terminates(value: Fraction) -> bool:
    """Return whether a fraction has a finite decimal form."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
