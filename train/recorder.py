"""A chat model as a graph of one's own sees it: calls are sorted into conversations, whose token ids stay exact.

Input: the chat model of a policy, or of a teacher, which need not give token ids. Output: a chat model for the graph,
and the turns of each conversation that it held. A call whose messages go on from an earlier call's messages and reply
continues that conversation; any other begins one. What would have a reply learned that the model did not write (edited,
branched from, or an example) is refused.
"""

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import InstanceOf, PrivateAttr

from agents.protocol import wire_messages
from agents.types import Message, Turn
from tools.errors import ModelError


class Recorder(BaseChatModel):
    """The model as a graph sees it: sorts calls into conversations, and keeps the turns of each."""

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
        """Return the conversation that these messages go on from, the longest, or a new one.

        Raises:
            ModelError: a new one would begin with a reply in it.
        """
        fits = [
            i
            for i, held in enumerate(self._held)
            if held and i not in self._busy and len(wire) > len(held) and wire[: len(held)] == held
        ]
        if fits:
            return max(fits, key=lambda i: len(self._held[i]))
        if any(message["role"] == "assistant" for message in wire):
            raise ModelError(
                f"session {self.session!r}: the messages hold a reply that is not held: it was edited, branched from, "
                "or is not the model's; give every call the messages and the reply as they were"
            )
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
        self._turns[place].append(_turn(reply, wire[len(self._held[place]) :]))
        self._held[place] = [*wire, {"role": "assistant", "content": str(reply.text)}]
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ModelError("the chat model is asynchronous: use ainvoke")


def _turn(reply: AIMessage, added: list[dict[str, str]]) -> Turn:
    """Return a reply with the messages that were added for it; ids are None where the model gives none."""
    meta, usage = reply.response_metadata, reply.usage_metadata
    return Turn(
        stage="own",
        prompt=tuple(Message.model_validate(message) for message in added),
        content=str(reply.text),
        reasoning=reply.additional_kwargs.get("reasoning_content") or "",
        finish_reason=meta.get("finish_reason") or "stop",
        prompt_tokens=usage["input_tokens"] if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        prompt_ids=meta.get("prompt_token_ids"),
        completion_ids=meta.get("token_ids"),
        logprobs=meta.get("logprobs"),
    )
