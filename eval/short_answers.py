"""Short answers of mixed form: a number, a list, or words (GAIA, xbench). Equality of whole answers, never containment.

Numbers are compared by value (a unit on one side only is passed over), lists item by item in their order, and words
after SQuAD's normalisation (`eval.qa`), save that a point or comma inside a number stays: "3.5" is not "35". This
follows the rule by which GAIA is scored, from which it differs in passing over units of words.
"""

import re

from eval import qa
from eval.answers import normalise
from eval.quantities import Number, equal_numbers, read_number

_SEPARATOR = re.compile(r"[,;，；、]")
_LISTED = re.compile(r"[,;，；、]\s+\S")  # thousands are not set apart by a space after the comma
_INSIDE_NUMBER = re.compile(r"(?<=\d)[.,:/-](?=\d)")


def equal(a: str, b: str) -> bool:
    """Return whether two answers are the same. An empty one equals nothing."""
    left, right = items(a), items(b)
    if len(left) != len(right) or not left:
        return False
    return all(_same(x, y) for x, y in zip(left, right, strict=True))


def items(answer: str) -> list[str]:
    """Return the items of a list; of a number, with its thousands separators, or of other words, the whole."""
    if not _LISTED.search(answer) and _number(answer) is not None:
        return [answer.strip()]
    return [item for part in _SEPARATOR.split(answer) if (item := part.strip())]


def _same(a: str, b: str) -> bool:
    left, right = _number(a), _number(b)
    if left is not None and right is not None:
        return equal_numbers(left, right)
    return left is right is None and qa.equal(_guarded(a), _guarded(b))


def _number(text: str) -> Number | None:
    return read_number(normalise(text))


def _guarded(text: str) -> str:
    """Return a text in which the marks inside numbers are letters, which the normalisation leaves alone."""
    return _INSIDE_NUMBER.sub(lambda mark: f"x{ord(mark.group())}x", text)
