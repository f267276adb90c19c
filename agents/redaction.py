r"""What of a review may reach a refiner: findings, never an answer of the reviewer's own.

Input: a review's text, the problem, the solution under review. Output: the text with `[withheld]` where it gave an
answer away.

What is guaranteed, sentence by sentence of the review. One *speaks of the answer* where it has the word "answer" (or
"final result", "correct value" and the like), `\boxed`, `####` or `A:`, names the solution's own final answer, or
belongs to a finding on the step that states it. There

1. what is announced as the answer ("the answer is …", "Answer: …", `\boxed{…}`) is withheld to the end of the
   sentence, unless it is the solution's own answer;
2. every numeral is withheld that stands neither in the problem nor in the solution; "9 * 2 is 18, not 26" becomes
   "[withheld] * 2 is [withheld], not 26";
3. where the solution's own answer is no number, what is set against it is withheld: "It is Paris, not London", "Paris
   instead of London", "not London but Paris", and the name or the yes or no that it "should be".

A numeral withheld by a rule is withheld everywhere else too, unless the problem or the solution has it; so is a name
that is announced, and a text withheld by the third rule. Where the refiner sees more than a solution (a trajectory with
what its tools returned), the numerals and names of that are no secret either.

What is not: the mended value of an earlier step is a finding and is passed on, and a reader may work the answer out
from it. An answer that is spelled out ("eighteen"), or announced in words that are not known here, gets through.
"""

import re
from collections.abc import Iterator

from agents.numerals import NUMBER, sole_value, value_of, values_in

WITHHELD = "[withheld]"

_BOXED = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_OWN = re.compile(
    r"^[ \t>*_#]*(?:(?:final[ \t]+)?answer|(?-i:A))[ \t*_]*:[ \t*_]*(?P<line>\S[^\n]*)"
    r"|^####[ \t]*(?P<hash>\S[^\n]*)|<answer>\s*(?P<tag>[^<\n]*)"
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
_ANSWERS = re.compile(r"(?:yes|no|true|false)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.;!?](?=\s|$)")
_SENTENCES = re.compile(r"(?<=[.;!?])(?=\s)")
_FINDING = re.compile(r"^[ \t>*_#-]*(?:Step|Check)[ \t]*(\d{1,4})\b", re.IGNORECASE)
_NUMBERED = re.compile(r"^[ \t>*_#-]*Step[ \t]*(\d{1,4})\b", re.IGNORECASE)
_VERBS = r"(?:is|was|are|were|be|been|does|do|did|has|have|had|can|could|should|would|may|might|must|but|and|or|it)"
_WORD = rf"(?!{_VERBS}\b)[^\s,.;:!?()]+"
_WORDS_TOLD = rf"{_WORD}(?:[ \t]+{_WORD}){{0,4}}?"
_BEFORE = r"(?:\b(?:is|was|are|were|be|been|to|by|in|at|from|of|name|names|say|says|choose|pick|with)[ \t]+|[,:][ \t]*)"
_AGAINST = r"(?:not|rather[ \t]+than|instead[ \t]+of)"
_SAYS = re.compile(r"\b(?:is|was|be|been)[ \t]+(?P<told>yes|no|true|false)(?=[.,;:!?]|\s*$)", re.IGNORECASE)
_SHOULD = re.compile(
    r"""\bshould[ \t]+(?:have[ \t]+)?(?:be|been|read|say)[ \t]+"""
    r"""(?P<told>["'“][^"'”\n]+["'”]|(?-i:[A-ZÀ-ÖØ-Þ])[^\s,.;:!?]*(?:[ \t]+(?-i:[A-ZÀ-ÖØ-Þ])[^\s,.;:!?]*)*"""
    r"""|(?:yes|no|true|false)\b)""",
    re.IGNORECASE,
)


def withhold_answers(review: str, problem: str, solution: str, shown: str = "") -> str:
    """Return a review without answers of its own; the module says what that guarantees.

    Args:
        review: The text that a critic wrote.
        problem: The problem: its numbers are no secret.
        solution: The solution under review; likewise, and its final answer is its own.
        shown: What else the refiner is shown; likewise.
    """
    own = own_answer(solution)
    known = values_in("\n".join((problem, solution, shown)))
    final = _final_steps(solution, own)
    pieces: list[str] = []
    secret: set[str] = set()
    rivals: set[str] = set()
    for line in review.splitlines(keepends=True):
        finding = _FINDING.match(line)
        on_final = finding is not None and int(finding[1]) in final
        for sentence in _SENTENCES.split(line):
            if on_final or _speaks(sentence, own):
                sentence, found, names = _withheld(sentence, own, known)
                secret |= found
                sentence, found = _without_rivals(sentence, own)
                rivals |= found | names
            pieces.append(sentence)
    given = _plain("\n".join((problem, solution, shown)))
    text = "".join(_without(piece, secret - known) for piece in pieces)
    for rival in sorted(rivals, key=len, reverse=True):
        if _plain(rival) not in given:
            text = re.sub(rf"(?<!\w){re.escape(rival)}(?!\w)", WITHHELD, text, flags=re.IGNORECASE)
    return text


def own_answer(solution: str) -> str:
    """Return the final answer that a solution states, as it is written; empty without one. The last one counts."""
    found = [(m.start(), m["line"] or m["hash"] or m["tag"] or m["phrase"] or "") for m in _OWN.finditer(solution)]
    found += [(m.start(), m[1]) for m in _BOXED.finditer(solution)]
    answer = max(found, default=(0, ""))[1]
    boxed = _BOXED.search(answer)
    return (boxed[1] if boxed else answer).strip().strip("*_$ ").removesuffix(".").strip("$ ")


def _speaks(sentence: str, own: str) -> bool:
    """Return whether a sentence of a review speaks of the answer."""
    return _SPEAKS.search(sentence) is not None or _names(sentence, own)


def _names(text: str, own: str) -> bool:
    """Return whether a text names the solution's own answer."""
    value = sole_value(own)
    return value in values_in(text) if value is not None else bool(own) and own in text


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
    last = max(steps, default=0)
    return {step for step, text in steps.items() if _names(text, own)} | set(range(last, last + 3))


def _withheld(said: str, own: str, known: set[str]) -> tuple[str, set[str], set[str]]:
    """Return a sentence that speaks of the answer without what it gives away; the numbers and names withheld."""
    secret: set[str] = set()
    names: set[str] = set()

    def boxed(match: re.Match[str]) -> str:
        if _same(match[1], own):
            return match.group()
        secret.update(values_in(match[1]))
        return WITHHELD

    said = _BOXED.sub(boxed, said)
    for start, end in _announced(said):
        told = said[start:end]
        if not told.startswith(WITHHELD) and not _same(told, own):
            secret |= values_in(told)
            names |= {told} if told[:1].isupper() and not NUMBER.search(told) else set()
            said = f"{said[:start]}{WITHHELD}{said[end:]}"
            break  # it went to the end of the sentence
    secret = (secret | values_in(said)) - known
    return _without(said, secret), secret, names


def _without_rivals(said: str, own: str) -> tuple[str, set[str]]:
    """Return a sentence without what it sets against the solution's own answer, where that is no number."""
    if not own or sole_value(own) is not None:
        return said, set()
    mine = rf"""["'“]?{re.escape(own)}["'”]?(?!\w)"""
    patterns = [
        re.compile(rf"\bnot[ \t]+{mine},?[ \t]+but[ \t]+(?P<told>{_WORDS_TOLD})(?=[,.;:!?]|\s*$)", re.IGNORECASE),
        re.compile(
            rf"^(?:.*{_BEFORE}|\s*)(?P<told>{_WORDS_TOLD}),?[ \t]+(?:and[ \t]+)?{_AGAINST}[ \t]+{mine}",
            re.IGNORECASE,
        ),
        _SHOULD,
        *([_SAYS] if _ANSWERS.fullmatch(own) else []),
    ]
    rivals: set[str] = set()

    def withheld(match: re.Match[str]) -> str:
        told = match["told"]
        is_word = _ANSWERS.fullmatch(told) is not None  # "no" is a common word: it is withheld here alone
        if told.startswith(WITHHELD) or _plain(told) == _plain(own) or (_JUDGES.match(told) and not is_word):
            return match.group()
        if not is_word:
            rivals.add(told.strip("\"'“”"))
        at = match.start("told") - match.start()
        return f"{match.group()[:at]}{WITHHELD}{match.group()[at + len(told) :]}"

    for pattern in patterns:
        said = pattern.sub(withheld, said)
    return said, rivals


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
    value, first = sole_value(own), NUMBER.search(told)
    if value is not None:
        if first is None or value_of(first.group()) != value:
            return False
        return ("-" in told[: first.start()]) == own.startswith("-")
    return _plain(told).startswith(_plain(own))


def _plain(text: str) -> str:
    return re.sub(r"[\s$*\"'`]|\\[!,;:]", "", text).casefold()


def _without(text: str, secret: set[str]) -> str:
    """Return a text in which numerals of these values, whatever their sign, are withheld."""
    if not secret:
        return text
    return NUMBER.sub(lambda m: WITHHELD if value_of(m.group()) in secret else m.group(), text)
