"""A trajectory as text: what a judge reads. Every turn, tool call and observation, in order, under numbered headings.

Input: the turns of any agent and a number of characters. Output: a text of at most that many. The agent's instructions
and the problem, which open its first turn, are not in it. What is too long is cut in its middle, with a mark that says
how much is missing: long parts first, all to one length, so that short ones stay whole; where that is not enough, parts
in the middle are left out and the beginning and the end stay.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from agents.protocol import CALL_OPEN, format_observation, format_tool_call, strip_thoughts
from agents.types import Turn

# Of an agent's turn, what a transcript shows: all that a file keeps of it for a judge.
JUDGED = {"stage", "prompt", "content", "reasoning", "tool_calls", "results"}
FLOOR = 200  # characters to which a part is cut before whole parts are left out
_FORGED = re.compile(r"^(?=## (?:Turn|Message|Observation) \d)", re.MULTILINE)
_HEADING = re.compile(r"^## (Turn|Message|Observation) \d+\n", re.MULTILINE)


class Part(NamedTuple):
    """One message of a trajectory: `title` is "Turn 2", "Observation 1" or "Message 1"."""

    title: str
    text: str

    def written(self, cap: int) -> str:
        """Return heading and text, the text cut to `cap` characters."""
        return f"## {self.title}\n{shortened(self.text, cap)}"


def transcript(turns: Sequence[Turn], limit: int) -> str:
    """Return the whole trajectory in at most `limit` characters."""
    return fitted(parts_of(turns), limit)


def parts_of(turns: Sequence[Turn]) -> list[Part]:
    """Return the messages of a trajectory in order.

    A turn's thoughts stand before its text, its tool calls as the wire format has them. Observations are what the next
    turn was sent; of a last turn, what its tools returned. Lines that look like one of our headings are marked, so that
    no text can pass for another message.
    """
    parts: list[Part] = []
    for number, turn in enumerate(turns, 1):
        parts.append(Part(f"Turn {number}", _defused(_said(turn))))
        sent = turns[number].prompt if number < len(turns) else ()
        if turn.results and not any(message.role == "tool" for message in sent):
            parts.append(Part(f"Observation {number}", _defused(format_observation(turn.results))))
        for message in sent:
            if message.role != "system":
                kind = "Observation" if message.role == "tool" else "Message"
                parts.append(Part(f"{kind} {number}", _defused(message.content)))
    return parts


def parts_read(text: str) -> list[tuple[str, str]]:
    """Return the messages of a transcript in order, each with its kind: "Turn", "Message" or "Observation"."""
    pieces = _HEADING.split(text)
    return [(kind, said.strip()) for kind, said in zip(pieces[1::2], pieces[2::2], strict=True)]


def final_text(turns: Sequence[Turn]) -> str:
    """Return the text of the last turn, without thoughts: where an agent's answer stands."""
    return strip_thoughts(turns[-1].content).strip()


def _said(turn: Turn) -> str:
    thought = f"<think>{turn.reasoning.strip()}</think>\n" if turn.reasoning.strip() else ""
    calls = [] if CALL_OPEN in turn.content else [format_tool_call(call) for call in turn.tool_calls]
    return "\n".join([thought + turn.content, *calls])


def _defused(text: str) -> str:
    return _FORGED.sub("> ", text)


def fitted(parts: Sequence[Part], limit: int) -> str:
    """Return the parts as one text of at most `limit` characters."""
    if not parts:
        return ""
    cap = _cap(parts, limit)
    if cap is not None:
        return _joined([part.written(cap) for part in parts])
    head, tail = _ends(parts, limit)
    left_out = len(parts) - head - tail
    if head + tail == 0:
        return shortened(parts[-1].written(FLOOR), limit)
    mark = f"[… {left_out} of {len(parts)} messages left out …]"
    kept = [part.written(FLOOR) for part in parts]
    return _joined([*kept[:head], mark, *kept[len(parts) - tail :]])


def _cap(parts: Sequence[Part], limit: int) -> int | None:
    """Return the greatest length to which texts must be cut so that all of them fit; None where `FLOOR` is too long."""
    overhead = sum(len(part.written(0)) - len(shortened(part.text, 0)) + 2 for part in parts)
    lengths = [len(part.text) for part in parts]
    low, high = FLOOR, max([FLOOR, *lengths])
    if overhead + sum(min(n, low) for n in lengths) > limit:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if overhead + sum(min(n, middle) for n in lengths) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _ends(parts: Sequence[Part], limit: int) -> tuple[int, int]:
    """Return how many parts of the beginning and of the end fit, cut to `FLOOR`, with the mark; the last one first."""
    room = limit - len(f"[… {len(parts)} of {len(parts)} messages left out …]") - 2
    head = tail = 0
    while head + tail < len(parts) - 1:
        from_end = tail <= head
        part = parts[len(parts) - 1 - tail] if from_end else parts[head]
        room -= len(part.written(FLOOR)) + 2
        if room < 0:
            break
        head, tail = head + (not from_end), tail + from_end
    return head, tail


def _joined(texts: Sequence[str]) -> str:
    return "\n\n".join(texts)


def shortened(text: str, cap: int) -> str:
    """Return a text of at most `cap` characters, its middle left out with a mark that says how much is missing."""
    if len(text) <= cap:
        return text
    kept = max(cap - len(_mark(len(text))), 0)
    tail = kept // 2
    head = kept - tail
    return (text[:head] + _mark(len(text) - kept) + text[len(text) - tail :])[:cap]


def _mark(missing: int) -> str:
    return f"\n[… {missing} characters left out …]\n"
