"""How the scripted agent reads: what the sentences that are most like a question name. No language is known here.

Input: a question and texts. Output: names, numbers or yes and no, the likeliest first.
"""

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NAME = re.compile(r"[A-Z][\w'’-]*(?:\s+(?:(?:of|de|von|van|la)\s+)?[A-Z][\w'’-]*)*")
_NUMBER = re.compile(r"\b\d[\d,]*(?:\.\d+)?\b")
_YES_NO = re.compile(r"^(?:is|are|was|were|do|does|did|has|have|had|can|could)\b", re.IGNORECASE)
_COUNT = re.compile(r"\b(?:how many|how much|how old|what year|which year|in what year|when)\b", re.IGNORECASE)
_COMMON = frozenset(
    _WORD.findall(
        "a an the of in on at to for from by with and or as not than is are was were be been do does did has have had "
        "also one it its he she his her they their this that what which who whom whose when where why how"
    )
)


def best_names(question: str, texts: Sequence[str]) -> list[str]:
    """Return what may answer a question, the likeliest first, each once.

    Args:
        question: Its form says what is wanted: yes or no, a number, or a name.
        texts: To be read.

    Returns:
        Candidates from the sentences that share most words with the question, none of them a part of it; empty where
        there is none.
    """
    asked = content_words(question)
    if _YES_NO.match(question.strip()):
        known = set().union(*(content_words(text) for text in texts)) if texts else set()
        return ["yes", "no"] if asked and asked <= known else ["no", "yes"]
    wanted = _NUMBER if _COUNT.search(question) else _NAME
    sentences = [s for text in texts for s in sentences_of(text)]
    ranked = sorted(enumerate(sentences), key=lambda pair: (-len(asked & content_words(pair[1])), pair[0]))
    found = [name for _, sentence in ranked for name in _candidates(sentence, wanted)]
    return [name for name in dict.fromkeys(found) if not content_words(name) <= asked]


def content_words(text: str) -> set[str]:
    """Return the words of a text that mean something by themselves, in lower case."""
    return {word for word in _WORD.findall(text.lower()) if word not in _COMMON}


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; a line ends one."""
    return [sentence for sentence in _SENTENCE.split(text) if sentence.strip()]


def names_and_numbers(sentence: str) -> list[str]:
    """Return the names of a sentence, then its numbers."""
    return [*_candidates(sentence, _NAME), *_candidates(sentence, _NUMBER)]


def _candidates(sentence: str, wanted: re.Pattern[str]) -> list[str]:
    """Return the names or numbers of a sentence in order; a common word at the beginning is no part of a name."""
    out = []
    for match in wanted.finditer(sentence):
        words = match.group().split()
        while words and words[0].lower() in _COMMON:
            words = words[1:]
        if words:
            out.append(" ".join(words).rstrip("'’-"))
    return out
