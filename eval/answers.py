"""Final answers: take them out of solutions, compare them, label solutions with them.

Input: text of solutions and reference answers. Output: answer strings, equality, labels. Equality is decided by the
cheapest sound way: equal normalised strings, equal exact numbers, then math-verify in a bounded process; never by
containment. Words are compared as words: math-verify would read "no" and "on" as the same product of two letters.
"""

import re
from functools import lru_cache

from eval.math_check import CHECKER
from eval.quantities import equal_numbers, read_number, read_unit

_LINE_FORMS = re.compile(
    r"^[ \t>*_#]*(?:(?:final\s+)?answer|(?-i:A))[ \t*_]*:[ \t*_]*(?P<line>\S[^\n]{0,1000})"
    r"|^####[ \t]*(?P<hash>\S[^\n]{0,1000})"
    r"|\banswer\s+(?:is|=)[ \t]*:?\s*(?P<phrase>\S[^\n]{0,1000})",
    re.MULTILINE | re.IGNORECASE,
)
_PHRASE_END = re.compile(
    r"\.(?:\s|$)|[,;]?\s+(?:because|since|so|which|as)\b|[,;]\s+(?:not|and\s+not|but)\b", re.IGNORECASE
)
_REACH = 1000  # characters of the longest answer
_BOXED = re.compile(r"\\f?boxed\s*\{")
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).){1,1000}?)</answer>", re.DOTALL | re.IGNORECASE)
_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_TRAILING_UNIT = re.compile(r"\s*\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}(?:\^\{?[23]\}?)?$")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|big|Big|bigg|Bigg)(?![A-Za-z])|\\[!,;:]|\\[()\[\]]|\\\$|[$£€]|\*\*|`"
    r"|(?:\^\s*\{?\s*\\circ\s*\}?|°)$"
)
_SPELLINGS = {
    "\u2212": "-",
    "\u2013": "-",
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "{,}": ",",
    "\\%": "%",
    "\\ ": " ",
    "~": " ",
}
_FUNCTIONS = frozenset(
    {
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "exp",
        "sqrt",
        "and",
    }
)


def extract_answer(text: str) -> str | None:
    r"""Take the final answer out of a solution.

    Forms: `<answer>…</answer>`, `\boxed{…}`, `A: …`, `Answer: …`, `#### …` (last line), `the answer is …`. The last one
    wins, but words after "the answer is" ("correct", say) do not win over a marked answer.

    Args:
        text: a solution.

    Returns:
        The answer as written, without the white space, dollar signs and full stop around it; None when there is none:
        empty replies, ":" or "Thought process:" have no answer.
    """
    lines = [m for m in _LINE_FORMS.finditer(text) if not m["hash"] or _ends_text(m)]
    marked = [(m.start(), _shorten(m)) for m in lines if not m["phrase"]]
    marked += [(m.start(), _balanced(text, m.end())) for m in _BOXED.finditer(text)]
    tagged = list(_TAGGED.finditer(text))
    marked += [(m.start(), m[1]) for m in tagged]
    outside = (m for m in lines if not any(tag.start() < m.start() < tag.end() for tag in tagged))
    said = [(m.start(), _shorten(m)) for m in outside if m["phrase"]]
    answers = [(at, stripped) for at, raw in marked if (stripped := _strip(raw))]
    answers += [(at, s) for at, raw in said if (s := _strip(raw)) and (not answers or any(c.isdigit() for c in s))]
    return max(answers)[1] if answers else None


@lru_cache(maxsize=65536)
def answers_equal(a: str, b: str, seconds: float = 5.0) -> bool:
    """Return whether two final answers mean the same.

    Equal when their normalised strings are, or when both are plain numbers of one value (units must not contradict each
    other), or, for expressions, when math-verify says so. Texts with words are equal only as strings, case ignored.

    Args:
        a: one answer.
        b: the other.
        seconds: limit of CPU time for math-verify; past it the answers count as different.

    Returns:
        True when equal. An empty answer equals nothing.

    Raises:
        RetortError: math-verify's process does not start.
    """
    left, right = normalise(a), normalise(b)
    if not left or not right:
        return False
    if left == right:
        return True
    numbers = read_number(left), read_number(right)
    if numbers[0] and numbers[1]:
        return equal_numbers(numbers[0], numbers[1])
    if _is_text(left) or _is_text(right):
        return _fold(left) == _fold(right)
    return CHECKER.equal(left, right, seconds)


def label(answer: str | None, text: str) -> bool | None:
    """Label a solution by the reference answer of its problem.

    May take some milliseconds, and about 1.5 s the first time that math-verify is needed: async code calls it in a
    thread.

    Args:
        answer: the reference answer (ground truth), None when there is none.
        text: the solution.

    Returns:
        Whether the solution's final answer is right; False when it gives none; None without a reference.
    """
    if answer is None:
        return None
    given = extract_answer(text)
    return given is not None and answers_equal(answer, given)


def normalise(answer: str) -> str:
    """Return an answer with one spelling: no dollar signs, LaTeX spacing, text wrappers or space that means nothing."""
    text = answer.strip()
    for old, new in _SPELLINGS.items():
        text = text.replace(old, new)
    text = _DROPPED.sub("", _WRAPPERS.sub(r" \1 ", _drop_unit(text))).strip()
    if re.fullmatch(r"\([A-Za-z]\)", text):
        text = text[1]
    text = " ".join(text.strip(" \t\n:;,").removesuffix(".").split())
    if read_number(text) or _is_text(text):
        return text
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def _drop_unit(text: str) -> str:
    """Return an expression without a unit in a text wrapper at its end; plain numbers keep theirs, to be compared."""
    match = _TRAILING_UNIT.search(text)
    if not match or not match.start() or read_unit(match[1]) is None:
        return text
    value = text[: match.start()]
    return text if read_number(value.strip("$ ")) else value


def _is_text(text: str) -> bool:
    """Return whether an answer is words rather than mathematics."""
    runs = re.findall(r"[A-Za-z]+", re.sub(r"\\[A-Za-z]+", " ", text))
    if re.fullmatch(r"[A-Za-z\s.,'-]+", text):
        return len(text) == 1 or any(len(run) > 1 for run in runs)
    return any(len(run) > 2 and run.lower() not in _FUNCTIONS for run in runs)


def _fold(text: str) -> str:
    """Return a text for comparison: case, and punctuation between words, ignored."""
    return " ".join(re.findall(r"[^\s.,;:'\"()]+", text.casefold()))


def _shorten(match: re.Match[str]) -> str:
    """Return what a line form captured; a phrase ends where its sentence does."""
    phrase = match["phrase"]
    if phrase is None:
        return match["line"] or match["hash"]
    return _PHRASE_END.split(phrase, maxsplit=1)[0]


def _ends_text(match: re.Match[str]) -> bool:
    """Return whether only white space follows: any other line of four hashes is a heading."""
    return not match.string[match.end() :].strip()


def _strip(raw: str) -> str:
    """Return a captured answer without what surrounds it; empty when only punctuation is left."""
    answer = raw.strip().strip("*_").strip()
    boxed = _BOXED.search(answer)
    if boxed:
        answer = _balanced(answer, boxed.end())
    answer = answer.strip("$ ").removesuffix(".").strip("$ :")
    return answer if re.search(r"\w", answer) else ""


def _balanced(text: str, start: int) -> str:
    """Return the text from `start` to the brace that closes the one before it, empty when none does within reach."""
    depth = 1
    for i in range(start, min(len(text), start + _REACH)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start:i]
    return ""
