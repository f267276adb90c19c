"""The policy as a graph of one's own sees it: calls are sorted into conversations, whose token ids stay exact.

Input: a policy's chat model. Output: a chat model for the graph, and the turns of each conversation that it held. A
call whose messages go on from an earlier call's messages and reply continues that conversation; any other begins one.
"""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import InstanceOf, PrivateAttr

from agents.protocol import wire_messages
from agents.types import Turn
from tools.errors import ModelError


class Recorder(BaseChatModel):
    """The policy as a graph sees it: sorts calls into conversations, and keeps the turns of each."""

    chat: InstanceOf[BaseChatModel]
    session: str
    max_tokens: int
    temperature: float
    _held: list[list[dict[str, str]]] = PrivateAttr(default_factory=list)
    _turns: list[list[Turn]] = PrivateAttr(default_factory=list)
    _busy: set[int] = PrivateAttr(default_factory=set)

    @property
    def _llm_type(self) -> str:
        return "retort-recorder"

    @property
    def conversations(self) -> list[tuple[Turn, ...]]:
        """The turns of each conversation, in the order in which they began."""
        return [tuple(turns) for turns in self._turns if turns]

    def _place(self, wire: list[dict[str, str]]) -> int:
        """Return the conversation that these messages go on from, the longest, or a new one."""
        fits = [
            i
            for i, held in enumerate(self._held)
            if held and i not in self._busy and len(wire) > len(held) and wire[: len(held)] == held
        ]
        if fits:
            return max(fits, key=lambda i: len(self._held[i]))
        self._held.append([])
        self._turns.append([])
        return len(self._held) - 1

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        wire = wire_messages(messages)
        place = self._place(wire)
        self._busy.add(place)
        try:
            reply = await self.chat.ainvoke(
                messages,
                session=f"{self.session}:{place}",
                stage="own",
                max_tokens=self.max_tokens,
                temperature=self.temperature,
                top_logprobs=None,
            )
        finally:
            self._busy.discard(place)
        self._held[place] = [*wire, {"role": "assistant", "content": str(reply.text)}]
        self._turns[place].append(_turn(reply))
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ModelError("the policy is asynchronous: use ainvoke")


def _turn(reply: AIMessage) -> Turn:
    meta, usage = reply.response_metadata, reply.usage_metadata
    return Turn(
        stage="own",
        prompt=(),
        content=str(reply.text),
        finish_reason=meta["finish_reason"],
        prompt_tokens=usage["input_tokens"] if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        prompt_ids=tuple(meta["prompt_token_ids"]),
        completion_ids=tuple(meta["token_ids"]),
        logprobs=tuple(meta["logprobs"]),
    )
