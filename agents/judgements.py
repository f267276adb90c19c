"""The judge's wire format: `<think>`, `<critique>`, `<score>` in one reply (Agent-RRM's three parts).

Input: the text of ONE assistant turn, never a prompt: a trajectory that shows the tags is not a judgement. Output: a
`Judgement` or a `ParseFailure` with a hint that can be shown to the model. Parsing never raises on any text.
"""

import re

from agents.protocol import ParseFailure, strip_thoughts
from agents.types import Judgement

HINT = (
    "Write <think>…</think>, then <critique>…</critique>, then <score>…</score> with a number from 0 to 1, such as 0.85"
)

_CRITIQUE = re.compile(r"<critique>((?:(?!<critique>).)*?)</critique>", re.DOTALL)
_SCORE = re.compile(r"<score>([^<]{0,40})</score>")
_NUMBER = re.compile(r"[01](?:\.[0-9]{0,15})?|\.[0-9]{1,15}")
_FORM = re.compile(
    r"(?:<think>)?(?P<thought>(?:(?!</?think>).)*)</think>\s*"
    r"<critique>(?P<critique>(?:(?!</?critique>).)*)</critique>\s*<score>[^<]*</score>",
    re.DOTALL,
)


def parse_judgement(text: str) -> Judgement | ParseFailure:
    """Read the judgement of a turn.

    The analysis may be missing (an endpoint may hand it over apart from the text); critique and score may not. Of
    several critiques the last one counts; a turn that gives two different scores has given none.

    Args:
        text: One assistant turn.
    """
    said = strip_thoughts(text)
    critiques = [critique.strip() for critique in _CRITIQUE.findall(said)]
    if not critiques or not critiques[-1]:
        return ParseFailure(reason="There is no critique.", hint=HINT)
    scores = [score.strip() for score in _SCORE.findall(said)]
    if not scores:
        return ParseFailure(reason="There is no score.", hint=HINT)
    values = {float(score) if _NUMBER.fullmatch(score) else None for score in scores}
    if None in values or not all(value is not None and value <= 1 for value in values):
        return ParseFailure(reason="The score is no number from 0 to 1.", hint=HINT)
    if len(values) > 1:
        return ParseFailure(reason="There are two different scores.", hint=HINT)
    return Judgement(thought=thought_of(text), critique=critiques[-1], score=values.pop() or 0.0)


def thought_of(text: str) -> str:
    """Return the analysis of a turn without its tags; empty where there is none, or it never ends."""
    return text.rpartition("</think>")[0].replace("<think>", "").replace("</think>", "").strip()


def is_in_form(text: str) -> bool:
    """Return whether a turn is a judgement and nothing else: the three parts once each, in order, none empty.

    The opening `<think>` may stand in the prompt, as some chat templates have it.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or not found["thought"].strip():
        return False
    return not isinstance(parse_judgement(text), ParseFailure)


def format_judgement(judgement: Judgement) -> str:
    """Write a judgement; `parse_judgement` gives it back where its texts hold none of the tags."""
    score = f"{judgement.score:.15f}".rstrip("0").rstrip(".")
    return f"<think>{judgement.thought}</think>\n<critique>{judgement.critique}</critique>\n<score>{score}</score>"
