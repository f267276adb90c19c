r"""What of a review may reach a refiner: findings, never an answer of the reviewer's own.

Input: a review's text, the problem, the solution under review. Output: the text with `[withheld]` where it gave an
answer away.

What is guaranteed, sentence by sentence of the review. One *speaks of the answer* where it has the word "answer" (or
"final result", "correct value" and the like), `\boxed`, `####` or `A:`, names the solution's own final answer, or
belongs to a finding on the step that states it. There

1. what is announced as the answer ("the answer is …", "Answer: …", `\boxed{…}`) is withheld to the end of the
   sentence, unless it is the solution's own answer;
2. every numeral is withheld that stands neither in the problem nor in the solution; "9 * 2 is 18, not 26" becomes
   "[withheld] * 2 is [withheld], not 26".

A numeral withheld by either rule is withheld everywhere else too, unless the problem or the solution has it.

What is not: the mended value of an earlier step is a finding and is passed on, and a reader may work the answer out
from it. An answer that is spelled out ("eighteen"), or announced in words that are not known here, gets through.
"""

import re
from collections.abc import Iterator

WITHHELD = "[withheld]"

_NUMBER = re.compile(  # "step 2", "c2" and "v2" are names, and so is no digit within a word
    r"(?<![Ss]tep )(?<![Cc]heck )(?<![Ll]ine )(?<![A-Za-z_\d.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    r"|(?<![\w.])\.\d+"
)
_BOXED = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OWN = re.compile(
    r"^[ \t>*_#]*(?:(?:final[ \t]+)?answer|(?-i:A))[ \t*_]*:[ \t*_]*(?P<line>\S[^\n]*)"
    r"|^####[ \t]*(?P<hash>\S[^\n]*)"
    r"|\banswer\s+(?:is|=)[ \t]*:?\s*(?P<phrase>[^\n;]*?)(?=\.(?:\s|$)|\n|;|$)",
    re.MULTILINE | re.IGNORECASE,
)
_QUALITY = r"(?:final|correct|right|true|actual|proper|expected)"
_SPEAKS = re.compile(
    rf"\banswers?\b|\b{_QUALITY}\s+(?:result|value|total|solution|number|amount)\b|boxed|####"
    r"|^[ \t>*_#]*(?-i:A)[ \t*_]*:",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(
    rf"(?:\banswers?\b|\b{_QUALITY}\s+(?:result|value|total|solution|number|amount)\b)[^\n.;!?]{{0,60}}?"
    r"(?:[=:]|\b(?:is|are|was|be|been|equals?|becomes?|gives?|yields?|(?:comes?|came)\s+(?:out\s+)?(?:to|as|at))\b)"
    r"[\s:*_]*|^[ \t>*_#]*(?-i:A)[ \t*_]*:[ \t*_]*|####[ \t]*",
    re.IGNORECASE,
)
_VALUE = re.compile(r"""[\s"'$*(\[]*(?:-?\.?\d|\\[a-zA-Z([]|[A-Z]\b(?!\w)|[a-z]\s*=)""")
_JUDGES = re.compile(
    r"\W*(?:wrong|incorrect|right|correct|not|no|missing|false|true|un\w+|in\w+|also|therefore|thus|only|stated|given|"
    r"supported|established|consistent|as|what|of|for|in|off|too|refuted|confirmed|violat\w+|ok|holds)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.;!?](?=\s|$)")
_SENTENCES = re.compile(r"(?<=[.;!?])(?=\s)")
_FINDING = re.compile(r"^[ \t>*_#-]*(?:Step|Check)[ \t]*(\d{1,4})\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^[ \t>*_#-]*Step[ \t]*(\d{1,4})\b", re.IGNORECASE)
_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_SPELLED = {word: str(i) for i, word in enumerate(_WORDS)} | {
    "twice": "2",
    "double": "2",
    "thrice": "3",
    "dozen": "12",
    "half": "2",
}


def withhold_answers(review: str, problem: str, solution: str) -> str:
    """Return a review without answers of its own; the module says what that guarantees.

    Args:
        review: The text that a critic wrote.
        problem: The problem: its numbers are no secret.
        solution: The solution under review; likewise, and its final answer is its own.
    """
    own = own_answer(solution)
    known = _values(problem) | _values(solution)
    final = _final_steps(solution, own)
    pieces: list[str] = []
    secret: set[str] = set()
    for line in review.splitlines(keepends=True):
        finding = _FINDING.match(line)
        on_final = finding is not None and int(finding[1]) in final
        for sentence in _SENTENCES.split(line):
            if on_final or _speaks(sentence, own):
                sentence, found = _withheld(sentence, own, known)
                secret |= found
            pieces.append(sentence)
    return "".join(_without(piece, secret - known) for piece in pieces)


def own_answer(solution: str) -> str:
    """Return the final answer that a solution states, as it is written; empty without one. The last one counts."""
    found = [(m.start(), m["line"] or m["hash"] or m["phrase"] or "") for m in _OWN.finditer(solution)]
    found += [(m.start(), m[1]) for m in _BOXED.finditer(solution)]
    answer = max(found, default=(0, ""))[1]
    boxed = _BOXED.search(answer)
    return (boxed[1] if boxed else answer).strip().strip("*_$ ").removesuffix(".").strip("$ ")


def _speaks(sentence: str, own: str) -> bool:
    """Return whether a sentence of a review speaks of the answer."""
    if _SPEAKS.search(sentence):
        return True
    value = _value(own)
    return value in _values(sentence) if value is not None else bool(own) and own in sentence


def _final_steps(solution: str, own: str) -> set[int]:
    """Return the numbers of the steps that state the final answer, and those beyond the last step."""
    lines = [line for line in solution.splitlines() if line.strip()]
    numbers = [int(m[1]) for line in lines if (m := _NUMBERED.match(line))]
    steps: dict[int, str] = {}
    at = 0
    for i, line in enumerate(lines, 1):
        marked = _NUMBERED.match(line)
        at = int(marked[1]) if marked else at if numbers else i
        steps[at] = steps.get(at, "") + "\n" + line[marked.end() if marked else 0 :]
    value, last = _value(own), max(steps, default=0)
    stated = {k for k, text in steps.items() if (value in _values(text) if value is not None else own and own in text)}
    return stated | set(range(last, last + 3))


def _withheld(said: str, own: str, known: set[str]) -> tuple[str, set[str]]:
    """Return a sentence that speaks of the answer without what it gives away, and the numbers withheld."""
    secret: set[str] = set()

    def boxed(match: re.Match[str]) -> str:
        if _same(match[1], own):
            return match.group()
        secret.update(_values(match[1]))
        return WITHHELD

    said = _BOXED.sub(boxed, said)
    for start, end in _announced(said):
        told = said[start:end]
        if not told.startswith(WITHHELD) and not _same(told, own):
            secret |= _values(told)
            said = f"{said[:start]}{WITHHELD}{said[end:]}"
            break  # it went to the end of the sentence
    secret = (secret | _values(said)) - known
    return _without(said, secret), secret


def _announced(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of what is announced as the answer, each to the end of its sentence."""
    for match in _ANNOUNCES.finditer(text):
        ends = _SENTENCE_END.search(text, match.end())
        end = ends.start() if ends else len(text)
        rest = text[match.end() : end].rstrip()
        end = match.end() + len(rest)
        worded = len(rest.split()) <= 3 and rest.strip() != "" and not _JUDGES.match(rest)
        if _VALUE.match(rest) or worded:
            yield match.end(), end


def _same(told: str, own: str) -> bool:
    """Return whether what is announced is the solution's own answer: its first number, or its text."""
    if not own:
        return False
    value, first = _value(own), _NUMBER.search(told)
    if value is not None:
        if first is None or _number(first.group()) != value:
            return False
        return ("-" in told[: first.start()]) == own.startswith("-")
    return _plain(told).startswith(_plain(own))


def _plain(text: str) -> str:
    return re.sub(r"[\s$*\"'`]|\\[!,;:]", "", text).casefold()


def _without(text: str, secret: set[str]) -> str:
    """Return a text in which numerals of these values, whatever their sign, are withheld."""
    if not secret:
        return text
    return _NUMBER.sub(lambda m: WITHHELD if _number(m.group()) in secret else m.group(), text)


def _values(text: str) -> set[str]:
    """Return the values of a text's numerals, signs left out, and of its number words."""
    spelled = {_SPELLED[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPELLED}
    return {_number(numeral) for numeral in _NUMBER.findall(text)} | spelled


def _value(answer: str) -> str | None:
    """Return the value of an answer that is one number with or without a sign and a unit, None for any other."""
    found = _NUMBER.findall(answer)
    return _number(found[0]) if len(found) == 1 and not re.search(r"[\\^]", answer) else None


def _number(numeral: str) -> str:
    """Return one spelling of a numeral's value; as text, since a review may hold a numeral of any length."""
    whole, _, decimals = numeral.replace(",", "").partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
