"""Small stand-ins for a chat model and a tool: they answer from a list and keep what they were sent."""

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from tools.base import Tool, ToolResult
from tools.errors import ModelError

PLAN = "<plan>v1: add</plan>"
CALL = '<tool_call>{"name": "python", "arguments": {"code": "print(1+1)"}}</tool_call>'
FINDINGS = "v1: holds."
TRUE = "<verdict>true</verdict>"
FALSE = "<verdict>false</verdict>"

Reply = str | AIMessage | Exception


class FakeChat(BaseChatModel):
    """Answers a stage with the next entry of its list (the last one repeats); records messages and settings.

    `replies` maps a stage to texts, whole messages, or exceptions to raise; `delay` is in seconds.
    """

    model_id: str = "fake"
    replies: dict[str, list[Any]] = Field(default_factory=dict)
    delay: float = 0.0
    sent: list[tuple[list[BaseMessage], dict[str, Any]]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "fake"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Choose the reply to the request number `asked` of a stage and session."""
        replies: Sequence[Reply] = self.replies[stage]
        return replies[min(asked, len(replies) - 1)]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        stage, session = kwargs["stage"], kwargs["session"]
        asked = sum(k["stage"] == stage and k["session"] == session for _, k in self.sent)
        self.sent.append((list(messages), kwargs))
        await asyncio.sleep(self.delay)
        reply = self.reply_to(stage, session, asked)
        if isinstance(reply, Exception):
            raise reply
        return ChatResult(generations=[ChatGeneration(message=answer(reply) if isinstance(reply, str) else reply)])


class FakeSolver(FakeChat):
    """Gives sample i (the session ends in `:i`) the i-th solution of `replies["solve"]`."""

    model_id: str = "fake-solver"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Choose by the sample's index."""
        return self.replies["solve"][int(session.rpartition(":")[2])]


class EvenJudge(FakeChat):
    """Verifies: accepts the solutions that end with an even digit; fails on those with `down` in them."""

    model_id: str = "scripted-teacher"
    down: str = "none"
    findings: str = "fine"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Look for the solution in the session's own messages."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        text = "".join(str(m.content) for m in messages)
        if self.down in text:
            return ModelError("gone")
        good = text.split("Solution:\n")[1].split("\n")[0][-1] in "02468"
        return {"plan": "<plan>look</plan>", "validate": self.findings, "verdict": TRUE if good else FALSE}[stage]


def answer(text: str, tokens: tuple[int, int] = (10, 5), **metadata: Any) -> AIMessage:
    """Return a reply with `tokens` = (prompt, completion) and response metadata."""
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
    return AIMessage(text, usage_metadata=usage, response_metadata={"finish_reason": "stop", **metadata})


def script(plan: Any = PLAN, validate: Any = (CALL, FINDINGS), verdict: Any = TRUE) -> dict[str, list[Any]]:
    """Return the replies of a whole review; a tuple gives the replies of one stage in order."""
    stages = {"plan": plan, "validate": validate, "verdict": verdict}
    return {stage: list(r) if isinstance(r, tuple) else [r] for stage, r in stages.items()}


class FakePython(Tool):
    """Answers every call with the same text; keeps the calls, their keys, and the keys that were released."""

    name = "python"
    description = "Run python."
    parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}  # noqa: RUF012
    example = {"code": "1 + 1"}  # noqa: RUF012

    def __init__(self, reply: str | Exception = "2", delay: float = 0.0) -> None:
        """Answer with a text, or raise; `delay` is in seconds."""
        self.reply, self.delay = reply, delay
        self.calls: list[tuple[dict[str, Any], str]] = []
        self.released: list[str] = []

    async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
        """Record the call and answer."""
        self.calls.append((arguments, key))
        await asyncio.sleep(self.delay)
        if isinstance(self.reply, Exception):
            raise self.reply
        return ToolResult(name="python", content=self.reply)

    async def release(self, key: str) -> None:
        """Record the release."""
        self.released.append(key)
