"""The scripted agent: answers questions with tools from the conversation alone. A program, not a language model.

It reads the question, the tools on offer and the results so far out of the messages, as a language model would. A sum
or an equation is given to python; for other questions it searches with the question's own words, reads the first two
results whole where the tool can show them, and names what stands in the sentences that are most like the question (a
weak reader: it knows no language, so that it is wrong on many questions even when it is careful). Blanks are filled by
`scripted_blanks.py`. At a set rate it has a lapse: it does not compute, copies a number wrong, reads too little,
repeats a call, names the second-best thing, or gives no answer. A second attempt, after a review, has half as many.
"""

import random
import re
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from agents import arithmetic
from agents.cloze import sentence_of
from agents.final_answer import format_final
from agents.protocol import format_tool_call
from agents.reading import best_names
from agents.scripted import ScriptedChat
from agents.scripted_blanks import BLANK_LAPSES, MAX_QUERY, NOT_FOUND, UNKNOWN, next_of_blank
from agents.scripted_talk import Talk, read_talk
from tools.base import ToolCall
from tools.errors import ModelError

_FILE = re.compile(r"^Attached file: (\S.*)$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+|/\d+)?")
_SUM_LAPSES = ("head", "miscopy", "misread")
_TEXT_LAPSES = ("shallow", "title", "second", "repeat", "mute")


class ScriptedAgent(ScriptedChat):
    """Answers with tools; with probability `error_rate` a trajectory has a lapse in it.

    A session's name ends with the sample's number (`…:3`); samples of one question differ in their lapses.
    """

    model_id: str = "scripted-agent"
    error_rate: float = 0.3
    seed: int = 0

    @property
    def skill(self) -> float:
        """The share of trajectories without a lapse."""
        return 1.0 - self.error_rate

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the tool call or the final answer that comes next."""
        talk = read_talk(messages)
        if talk is None:
            raise ModelError("scripted-agent: it reads an agent's conversations only; name another model for others")
        _, _, sample = str(kwargs.get("session", "")).rpartition(":")
        told = f"|{talk.review}" if talk.review else ""
        draw = random.Random(f"{self.seed}|{talk.question}|{sample if sample.isdecimal() else 0}{told}")
        lapses = draw.random() < (self.error_rate / 2 if told else self.error_rate)
        if sentence_of(talk.question) is not None and talk.offers("search"):
            return next_of_blank(talk, draw.choice(BLANK_LAPSES) if lapses else "", draw)
        if code := code_for(talk.question):
            return next_of_sum(talk, code, draw.choice(_SUM_LAPSES) if lapses else "", draw)
        return next_of_text(talk, draw.choice(_TEXT_LAPSES) if lapses else "")


# --- sums and equations ----------------------------------------------------------------------------------------------


def code_for(question: str) -> str:
    """Return a program that prints the answer of a sum or of an equation in one unknown, "" for other questions."""
    if unknown := arithmetic.equation_in_one_unknown(question):
        name = unknown.name
        return (
            f"from fractions import Fraction\nf = lambda {name}: ({unknown.lhs}) - ({unknown.rhs})\n"
            "zero, one = f(Fraction(0)), f(Fraction(1))\nprint(zero / (zero - one))"
        )
    expression = arithmetic.bare_expression(question)
    return f"print({expression})" if expression else ""


def next_of_sum(talk: Talk, code: str, lapse: str, draw: random.Random) -> str:
    """Return the next step of a computation: the program, then the number that it printed.

    Args:
        talk: The conversation.
        code: The program.
        lapse: "head" guesses without computing, "miscopy" changes a digit, "misread" reads another number; "": none.
        draw: Where the lapse's details come from.
    """
    if lapse == "head" or not talk.offers("python"):
        return format_final(str(draw.randrange(10, 100)))
    if not talk.results:
        if lapse == "miscopy":
            code = _miscopied(code, draw)
        return format_tool_call(ToolCall(name="python", arguments={"code": code}))
    printed = _NUMBER.findall(talk.results[0])
    if not printed:
        return format_final(UNKNOWN)
    answer = printed[0] if lapse != "misread" else f"{printed[0]}{draw.randrange(10)}"
    return f"The program printed it. {format_final(answer)}"


def _miscopied(code: str, draw: random.Random) -> str:
    spots = [m for m in re.finditer(r"(?<![\w.(])\d+|(?<=\()\d+", code) if m.group() not in ("0", "1")]
    if not spots:
        return code.replace("print(", "print(1 + ", 1)
    spot = draw.choice(spots)
    return code[: spot.start()] + str(int(spot.group()) + draw.choice((1, 2, 10))) + code[spot.end() :]


# --- questions for texts ---------------------------------------------------------------------------------------------


def next_of_text(talk: Talk, lapse: str) -> str:
    """Return the next step of a look-up: the calls of its plan one after the other, then what the results name.

    Args:
        talk: The conversation.
        lapse: "shallow" reads the list of results only, "title" names the first title, "second" the second-best thing,
            "repeat" makes its first call twice, "mute" gives no answer; "": none.
    """
    plan = _plan(talk, lapse)
    if talk.steps < len(plan):
        return format_tool_call(plan[talk.steps])
    if lapse == "mute":
        return NOT_FOUND
    if lapse == "title" and (titles := re.findall(r"^\d+\. (.+)$", "\n".join(talk.results), re.MULTILINE)):
        return format_final(titles[0].strip())
    names = best_names(talk.question, [_body(result) for result in talk.results])
    place = 1 if lapse in ("second", "repeat") and len(names) > 1 else 0
    return f"It is named there. {format_final(names[place])}" if names else format_final(UNKNOWN)


def _plan(talk: Talk, lapse: str) -> list[ToolCall]:
    """Return the calls of a look-up, whatever they give: the attached file, or search and two reads."""
    attached = _FILE.search(talk.question)
    if attached and talk.offers("files"):
        return [ToolCall(name="files", arguments={"path": attached[1].strip()})]
    if not talk.offers("search"):
        return []
    query = " ".join(talk.question.split())[:MAX_QUERY]
    search = ToolCall(name="search", arguments={"query": query})
    if lapse in ("shallow", "title"):
        return [search]
    reads = (
        [ToolCall(name="search", arguments={"query": query, "result": n}) for n in (1, 2)] if talk.shows_whole else []
    )
    return [search, search, *reads] if lapse == "repeat" else [search, *reads]


def _body(result: str) -> str:
    """Return a result without the frame that tools put around it: numbered headings, and notes in brackets."""
    lines = [line for line in result.splitlines() if not re.match(r"^\d+\. |^\[|^\(", line)]
    return "\n".join(lines)
