"""What the scripted agent reads out of a conversation: the question, the tools on offer, and what there was so far.

Input: the messages of an agent's conversation. Output: a `Talk`, or None where it is no agent's.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agents.protocol import RESPONSE_OPEN

QUESTION = "Question:\n"
_AGAIN = re.compile(r"(.*?)\n\nEarlier attempt:\n(.*)\n\nReview:\n(.*?)\n\n# Again\n", re.DOTALL)


class Talk(NamedTuple):
    """What the conversation says: the question, the system prompt, how many steps were made, the results in order.

    A second attempt is shown the `attempt` before it and the `review` of that; of a first one both are empty.
    """

    question: str
    system: str
    steps: int
    results: tuple[str, ...]
    attempt: str = ""
    review: str = ""

    def offers(self, tool: str) -> bool:
        """Return whether the system prompt shows a tool, as a signature or as a schema."""
        return f"{tool}(" in self.system or f'"name": "{tool}"' in self.system

    @property
    def shows_whole(self) -> bool:
        """Whether search can show one result whole."""
        return "[result]" in self.system or '"result": {' in self.system


def read_talk(messages: Sequence[BaseMessage]) -> Talk | None:
    """Read a conversation; None where it is no agent's."""
    asked = next((str(m.content) for m in messages if isinstance(m, HumanMessage)), "")
    if not asked.startswith(QUESTION):
        return None
    asked = asked.removeprefix(QUESTION)
    again = _AGAIN.match(asked)
    question, attempt, review = again.groups() if again else (asked, "", "")
    return Talk(
        question=question.strip(),
        system="\n".join(str(m.content) for m in messages if isinstance(m, SystemMessage)),
        steps=sum(isinstance(m, AIMessage) for m in messages),
        results=tuple(str(m.content) for m in messages if _is_result(m)),
        attempt=attempt,
        review=review.strip(),
    )


def _is_result(message: BaseMessage) -> bool:
    return isinstance(message, ToolMessage) or str(message.content).startswith(RESPONSE_OPEN)
