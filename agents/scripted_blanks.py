"""How the scripted agent fills a blank: it searches with the sentence's words, and reads off what stands there.

Input: what the conversation says, and a lapse. Output: the next tool call, or the final answer.
"""

import random
import re

from agents.cloze import BLANK, filling, sentence_of
from agents.final_answer import format_final
from agents.protocol import format_tool_call
from agents.reading import best_names, content_words
from agents.scripted_talk import Talk
from agents.transcript import parts_read
from tools.base import ToolCall

MAX_QUERY = 300  # characters
SHORT = 3  # words of a query that is too short
UNKNOWN = "unknown"
LAST_PAGE = ", the last]"  # ends the last page of results
NOT_FOUND = "I could not find it."
BLANK_LAPSES = ("head", "second", "short", "mute")
_LISTED = re.compile(r"^\d+\. ", re.MULTILINE)  # else the search says that it found nothing
_FRAME = re.compile(r"^\d+\. .*\n {3}.*\n|^[\[(].*$", re.MULTILINE)  # a result's title and address, notes in brackets


def next_of_blank(talk: Talk, lapse: str, draw: random.Random) -> str:
    """Return the next step: a search, a second one where that did not find the sentence, then what fills the blank.

    Args:
        talk: The conversation.
        lapse: "head" searches nothing and names a part of the question, "second" names something else that it found,
            "short" searches with too few words and names the first thing found, "mute" gives no answer; "": none.
        draw: Where the lapse's details come from.
    """
    if lapse == "head":
        names = best_names("", (sentence_of(talk.question) or "").split(BLANK))
        return format_final(draw.choice(names) if names else UNKNOWN)
    plan = _plan(talk, lapse)
    found = next((found for result in talk.results if (found := filling(talk.question, result))), None)
    over = bool(talk.results) and (lapse in ("short", "mute") or LAST_PAGE in talk.results[-1])
    if talk.steps < len(plan) and not over and found is None:
        return format_tool_call(plan[talk.steps])
    if lapse == "mute":
        return NOT_FOUND
    bodies = [_FRAME.sub("", result) for result in talk.results if _LISTED.search(result)]
    if lapse == "short":
        named = [name for name in best_names("", bodies) if not content_words(name) <= content_words(talk.question)]
    elif lapse == "second" and found is not None:
        named = _others(talk.question, found, bodies) or [found]
    else:
        named = [found] if found is not None else best_names(talk.question, bodies)
    return format_final(named[0] if named else UNKNOWN)


def _plan(talk: Talk, lapse: str) -> list[ToolCall]:
    """Return the searches: the first page and the next; of a second attempt those that did not fail before."""
    words = [word for word in (sentence_of(talk.question) or "").replace(BLANK, " ").split() if re.search(r"\w", word)]
    if lapse == "short":
        return [ToolCall(name="search", arguments={"query": " ".join(words[:SHORT])})]
    query = " ".join(words)[:MAX_QUERY].strip()
    pages = [{"query": query}, {"query": query, "page": 2}, {"query": query, "page": 3}]
    calls = [ToolCall(name="search", arguments=page) for page in pages]
    seen = [text for kind, text in parts_read(talk.attempt) if kind == "Observation"]
    if not any(filling(talk.question, text) for text in seen):
        calls = [call for call in calls if format_tool_call(call) not in talk.attempt]
    return calls[:2]


def _others(question: str, found: str, bodies: list[str]) -> list[str]:
    """Return what else of the same kind stands in the texts: numbers for a number, names for a name."""
    asked = " ".join(sorted(content_words(sentence_of(question) or "")))
    wanted = "When" if found[:1].isdigit() else "Which"
    names = best_names(f"{wanted}: {asked}", bodies)
    return [name for name in names if not content_words(name) & content_words(found)]
