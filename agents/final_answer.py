r"""An agent's final answer: read from its last turn, where it stands in `<answer>…</answer>` or `\boxed{…}`.

Input: the text of ONE assistant turn, never a prompt. Output: the answer as written, without what surrounds it, or
None. Reading never raises on any text. Whether an answer is right is decided elsewhere (`eval.checkers`).
"""

import re
import string
from collections.abc import Sequence

from agents.protocol import parse_tool_calls, strip_thoughts
from agents.types import StopReason, Trajectory, Turn

REACH = 2000  # characters of the longest answer in a box
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOXED = re.compile(r"\\f?boxed\s*\{")
_SURROUNDING = string.punctuation + string.whitespace + "…"


def parse_final(text: str) -> str | None:
    r"""Return the final answer of a turn.

    The last `<answer>…</answer>` counts, where there is none the last `\boxed{…}` that is closed; a box inside a tag is
    opened. Thoughts hold no answer, and neither does punctuation alone (":").

    Args:
        text: One assistant turn.
    """
    said = strip_thoughts(text)
    tagged = _TAGGED.findall(said)
    if tagged:
        return _readable(_last_box(tagged[-1]) or tagged[-1])
    return _readable(_last_box(said) or "")


def format_final(answer: str) -> str:
    """Write a final answer so that `parse_final` gives it back."""
    return f"<answer>{answer}</answer>"


def as_solution(answer: str | None) -> str:
    """Write the answer that an agent came to as a solution; None: it came to none, which is an empty one."""
    return "" if answer is None else format_final(answer)


def gives_answer(turn: Turn) -> bool:
    """Return whether a turn ends a trajectory with an answer.

    An answer beside a tool call is none: it was written before the call's result was seen.
    """
    return parse_tool_calls(turn.content) == [] and parse_final(turn.content) is not None


def answer_stated(turns: Sequence[Turn]) -> str | None:
    """Return the answer that the last turn gives; None where it gives none, or calls a tool beside it."""
    return parse_final(turns[-1].content) if turns and gives_answer(turns[-1]) else None


def final_answer(turns: Sequence[Turn], stop: StopReason) -> str | None:
    """Return the answer that a trajectory came to; None where it ended in any other way than by giving one."""
    return parse_final(turns[-1].content) if turns and stop is StopReason.COMPLETED else None


def answer_of(trajectory: Trajectory) -> str | None:
    """Return the final answer of an agent's trajectory, likewise."""
    return final_answer(trajectory.turns, trajectory.stop_reason)


def _readable(answer: str) -> str | None:
    answer = answer.strip()
    return answer if answer.strip(_SURROUNDING) else None


def _last_box(text: str) -> str | None:
    """Return the content of the last box that is closed within reach, None where there is none."""
    for match in reversed(list(_BOXED.finditer(text))):
        depth = 1
        for i in range(match.end(), min(len(text), match.end() + REACH)):
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            if depth == 0:
                return text[match.end() : i]
    return None
