"""How the scripted judge reads trajectories that look something up: whether the answer stands in what was found.

Input: a problem and a transcript (`agents/transcript.py`), no label. Output: a `Judgement` whose critique is one of the
sentences below: it names what to mend and never holds an answer; the analysis says what was compared.
"""

import re
import unicodedata

from agents.cloze import filling
from agents.final_answer import parse_final
from agents.protocol import ParseFailure, parse_tool_calls
from agents.transcript import parts_read
from agents.types import Judgement

HOLDS, LIKELY, NOTHING = 0.95, 0.6, 0.02  # scores
MISSED, UNLIKELY = 0.2, 0.1
SHOWN = 60  # characters of an answer in an analysis
NO_ANSWER = "No final answer is stated."
NOT_LOOKED_UP = "Nothing was looked up."
NOT_FOUND = "The sentence is not in what was found: search with more of its words."
READ_OFF = Judgement(thought="as found", critique="The answer stands in the sentence found.", score=HOLDS)
MISREAD = Judgement(
    thought="not as found", critique="The answer is not what stands in the sentence found.", score=UNLIKELY
)
STANDS = Judgement(thought="found", critique="The answer stands in the text found.", score=LIKELY)
STANDS_NOT = Judgement(thought="not found", critique="The answer does not stand in the text found.", score=UNLIKELY)
_ARTICLES = frozenset({"a", "an", "the"})


def judged_blank(problem: str, trajectory: str) -> Judgement:
    """Return the judgement of work on a blank: whether the sentence was found, and read off rightly."""
    answer = final_of(trajectory)
    if answer is None:
        return Judgement(thought="no answer", critique=NO_ANSWER, score=NOTHING)
    if not looks_up(trajectory):
        return Judgement(thought="no search", critique=NOT_LOOKED_UP, score=UNLIKELY)
    found = next((found for text in observations(trajectory) if (found := filling(problem, text))), None)
    if found is None:
        return Judgement(thought="sentence not found", critique=NOT_FOUND, score=MISSED)
    told = f'found "{_short(found)}", answered "{_short(answer)}"'
    if _words(found) == _words(answer):
        return READ_OFF.model_copy(update={"thought": told})
    return MISREAD.model_copy(update={"thought": told})


def judged_lookup(problem: str, trajectory: str) -> Judgement:
    """Return the judgement of work on another question: whether the answer is a phrase of what was found."""
    answer = final_of(trajectory)
    if answer is None:
        return Judgement(thought="no answer", critique=NO_ANSWER, score=NOTHING)
    phrase = f" {' '.join(_words(answer))} "
    stands = any(phrase in f" {' '.join(_words(text))} " for text in observations(trajectory))
    told = f'"{_short(answer)}" {"found" if stands else "not found"}'
    return (STANDS if stands else STANDS_NOT).model_copy(update={"thought": told})


def final_of(trajectory: str) -> str | None:
    """Return the final answer of a transcript's last turn; one beside a tool call is none."""
    last = next((text for kind, text in reversed(parts_read(trajectory)) if kind == "Turn"), "")
    return parse_final(last) if parse_tool_calls(last) == [] else None


def calls_of(turn: str) -> set[str]:
    """Return the names of the tools that a turn calls; none where its calls cannot be read."""
    calls = parse_tool_calls(turn)
    return set() if isinstance(calls, ParseFailure) else {call.name for call in calls}


def looks_up(trajectory: str) -> bool:
    """Return whether a tool was called that finds or reads something: any but python."""
    return any(calls_of(text) - {"python"} for kind, text in parts_read(trajectory) if kind == "Turn")


def observations(trajectory: str) -> list[str]:
    """Return what look-ups found, in order; what a program printed is the agent's own."""
    found, looked = [], False
    for kind, text in parts_read(trajectory):
        if kind == "Turn":
            looked = bool(calls_of(text) - {"python"})
        elif kind == "Observation" and looked:
            found.append(text)
    return found


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case without articles and punctuation, numbers with their points."""
    plain = re.sub(r"(?!(?<=\d)[.,](?=\d))[^\w\s]", "", unicodedata.normalize("NFC", text).casefold())
    return [word for word in plain.split() if word not in _ARTICLES]


def _short(text: str) -> str:
    return re.sub(r"[<>]", "", " ".join(text.split()))[:SHOWN]  # no tag of an answer is one of the judge's
