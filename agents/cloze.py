"""Questions with a blank: a sentence of a corpus with a name or a number left out, answered by looking it up.

Input: a question as `ask` writes it, and texts. Output: what stands in the blank's place there. Nothing is known but
the words around the blank.
"""

import re

BLANK = "____"
ASKED = "Fill the blank: "
CONTEXT = 3  # words beside the blank that must be those of the text
MAX_WORDS = 8  # of what fills a blank


def ask(sentence: str, start: int, end: int) -> str:
    """Write the question for what stands at `start:end` of a sentence."""
    return f"{ASKED}{sentence[:start]}{BLANK}{sentence[end:]}"


def sentence_of(question: str) -> str | None:
    """Return the sentence of such a question with its blank, None for another question."""
    sentence = question.strip().removeprefix(ASKED)
    return sentence if question.strip().startswith(ASKED) and sentence.count(BLANK) == 1 else None


def filling(question: str, text: str) -> str | None:
    """Return what stands in the blank's place in a text; None where the words around it are not there, or it is none."""
    sentence = sentence_of(question)
    if sentence is None:
        return None
    left, _, right = sentence.partition(BLANK)
    before, after = left.split()[-CONTEXT:], right.split()[:CONTEXT]
    between = rf"(\S+(?:\s+\S+){{0,{MAX_WORDS - 1}}}?)"
    glued_left = left[-1:] if left[-1:].strip() else ""
    glued_right = right[:1] if right[:1].strip() else ""
    parts = [
        r"\s+".join(map(re.escape, before)),
        "" if glued_left or not before else r"\s+",
        between,
        "" if glued_right or not after else r"\s+",
        r"\s+".join(map(re.escape, after)),
    ]
    found = re.search("".join(parts), " ".join(text.split()))
    return found[1] if found else None
