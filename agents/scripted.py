"""What the offline stand-ins share: a chat model whose replies a program computes. None of them is a language model.

They stand behind the same interface as an endpoint, so that graphs run offline: `scripted_solver.py`,
`scripted_teacher.py`, `scripted_refiner.py`.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from tools.errors import ModelError


class ScriptedChat(BaseChatModel):
    """A chat model whose replies are computed by `reply`. Usage counts words, since there are no tokens."""

    model_id: str

    @property
    def _llm_type(self) -> str:
        return self.model_id

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the text of the next assistant turn."""
        raise ModelError(f"{self.model_id} has no script")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text = self.reply(messages, **kwargs)
        read, written = sum(len(str(m.content).split()) for m in messages), len(text.split())
        message = AIMessage(
            text,
            usage_metadata={"input_tokens": read, "output_tokens": written, "total_tokens": read + written},
            response_metadata={"finish_reason": "stop", "model_name": self.model_id},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages, stop, None, **kwargs)
