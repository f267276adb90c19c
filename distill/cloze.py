"""Questions made of one's own corpus: a sentence with a name or a number left out, whose answer a search finds.

Input: a corpus as the search tool reads it (a JSONL file of passages or a folder of texts). Output: a list of `Task`,
each with one answer in the whole corpus for whoever goes by the words around the blank (`agents.cloze.filling`).
"""

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from agents.cloze import BLANK, CONTEXT, ask, filling, sentence_of
from agents.reading import content_words, names_and_numbers, sentences_of
from agents.types import Task
from tools.corpus import Passage, read_corpus
from tools.errors import DataError

SHORTEST, LONGEST = 50, 140  # characters of a sentence
PER_PASSAGE = 2  # questions at most
BESIDE = 2  # words next to the blank, on one of its sides at least
WINDOW = 1000  # characters in which the words around a blank and what fills it stand
_BEGINS = re.compile(r"[A-Z0-9\"“(]")
_CUT = re.compile(
    r"(?:^|\W)(?:[^\W\d]|[A-Z]\w{1,2}|vs|ca|Bros|Corp|Prof|Capt|Sept)\.$"
)  # may be an abbreviation (St., Inc.), no end
_OPENS = re.compile(r"[\s(\[\"“]$")
_CLOSES = re.compile(r"(?:['’]s\b)?[.,;:!?)\]\"”]*(?:\s|$)")
_PARAGRAPH = re.compile(r"\n\s*\n")
_POSSESSIVE = re.compile(r"['’]s$")
_COMPOUND = re.compile(r"-[a-z]")  # Paris-based


def cloze_tasks(where: str, n: int, seed: int, apart_from: Sequence[Task] = ()) -> list[Task]:
    """Return up to `n` questions about the sentences of a corpus, the same for one seed.

    A passage gives one question, and a second one only where there are too few passages. Those of one passage stand
    next to each other: a list that is split by its order shares no passage between its parts, or one at a border.

    Args:
        where: a JSONL file of passages, or a folder of text files.
        n: how many.
        seed: of the passages, the sentences and the blanks.
        apart_from: questions of this corpus; their passages are left out.

    Raises:
        DataError: there is no such corpus, it cannot be read, or none of its sentences makes a question.
    """
    passages = _passages(where)
    rng = random.Random(seed)
    rng.shuffle(passages)
    source, texts, known = f"cloze:{Path(where).name}", _Texts([p.text for p in passages]), _sentences_asked(apart_from)
    more: list[Iterator[Task]] = []
    found: list[list[Task]] = []
    for passage in passages:
        if len(found) == n:
            break
        sentences = _sentences(passage.text)
        if known.isdisjoint(sentences):
            known.update(sentences)  # one that stands in two passages is asked once
            questions = _questions(passage, sentences, texts, rng.getrandbits(32), source)
            if first := list(islice(questions, 1)):
                found.append(first)
                more.append(questions)
    lacking = n - len(found)
    for held, questions in zip(found, more, strict=True):
        if lacking <= 0:
            break
        second = list(islice(questions, min(lacking, PER_PASSAGE - 1)))
        held += second
        lacking -= len(second)
    if n and not found:
        raise DataError(f"{where}: no sentence in it makes a question with one answer; give more passages of prose")
    return [task for held in found for task in held]


def _passages(where: str) -> list[Passage]:
    """Return the passages of a corpus with white space folded inside their paragraphs, each text once."""
    path = Path(where).expanduser()
    if not where or not path.exists():
        raise DataError(
            f"tasks.source='cloze:{where}': no such corpus; give a JSONL file of passages or a folder of text files"
        )
    texts: dict[str, Passage] = {}
    try:
        for passage in read_corpus(path):
            text = "\n".join(" ".join(part.split()) for part in _PARAGRAPH.split(passage.text))
            texts.setdefault(text, passage._replace(text=text))
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read: {error.strerror}") from error
    return list(texts.values())


def _sentences(text: str) -> list[str]:
    """Return the whole sentences of a text that are neither short nor long."""
    out, cut = [], False
    for sentence in sentences_of(text):
        whole = not cut and _BEGINS.match(sentence) and sentence.rstrip('"”)')[-1:] in (".", "!", "?")
        cut = bool(_CUT.search(sentence))
        if whole and not cut and SHORTEST <= len(sentence) <= LONGEST:
            out.append(sentence)
    return out


def _sentences_asked(tasks: Sequence[Task]) -> set[str]:
    """Return the sentences of questions, whole again."""
    return {s.replace(BLANK, t.answer) for t in tasks if t.answer and (s := sentence_of(t.question))}


class _Texts:
    """The texts of a corpus in one string, in which words are looked up quickly."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._all = "\n".join(" ".join(text.split()) for text in texts)

    def fillings(self, question: str) -> Iterator[str]:
        """Yield what stands in a blank's place, wherever the words around it stand; there must be some before it."""
        left, _, right = (sentence_of(question) or "").partition(BLANK)
        before, after = " ".join(left.split()[-CONTEXT:]), " ".join(right.split()[:CONTEXT])
        start = self._all.find(before)
        while start >= 0:
            near = self._all[start : start + WINDOW].partition("\n")[0]
            if after in near and (filled := filling(question, near)) is not None:
                yield filled
            start = self._all.find(before, start + 1)


def _questions(passage: Passage, sentences: Sequence[str], texts: _Texts, seed: int, source: str) -> Iterator[Task]:
    """Yield the questions of a passage, one a sentence."""
    rng = random.Random(seed)
    for sentence in rng.sample(sentences, len(sentences)):
        answers = [_POSSESSIVE.sub("", name) for name in names_and_numbers(sentence)]
        for answer in rng.sample(answers, len(answers)):
            if not _fit(answer, sentence, passage.title):
                continue
            start = sentence.index(answer)
            question = ask(sentence, start, start + len(answer))
            filled = list(dict.fromkeys(texts.fillings(question)))
            if filled == [answer]:
                yield Task(
                    question=question, answer=answer, kind="qa", source=source, metadata={"title": passage.title}
                )
                break


def _fit(answer: str, sentence: str, title: str) -> bool:
    """Whether a name or number can be asked for: told by nothing but the passage, and not torn from a longer word.

    A sentence's first word is none: its capital letter says nothing.
    """
    words = content_words(answer)
    if len(answer) < 2 or not words or words & content_words(title) or _COMPOUND.search(answer):
        return False
    left, found, right = sentence.partition(answer)
    return (
        bool(found and _OPENS.search(left) and _CLOSES.match(right))
        and words.isdisjoint(content_words(f"{left} {right}"))
        and max(len(left.split()), len(right.split())) >= BESIDE
    )
