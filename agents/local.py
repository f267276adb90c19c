"""A model in this process as a chat model: the decoding engine and the policy over it, opened and closed together."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from agents.engine import Engine
from agents.policy import PolicyChat

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LocalPolicy:
    """Decodes with a model that a trainer may own. Use as a context manager; `chat` is the chat model."""

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        model_id: str,
        slots: int,
        max_context: int,
        seed: int,
    ) -> None:
        """Make it; nothing runs before the `with` block.

        Args:
            model: a causal LM.
            tokenizer: its tokenizer, with the template that it is trained with.
            model_id: the model's name in records.
            slots: conversations decoded at once.
            max_context: tokens of a conversation at most.
            seed: of sampling.
        """
        self.engine = Engine(model, slots=slots, max_context=max_context, seed=seed)
        self._new_chat = lambda: PolicyChat(
            engine=self.engine, tokenizer=tokenizer, model_id=model_id, template=str(tokenizer.chat_template)
        )
        self.chat = self._new_chat()

    def __enter__(self) -> Self:
        """Start the engine."""
        self.engine.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine."""
        self.engine.close()

    def refresh(self) -> None:
        """Forget keys, values and conversations: the weights have changed."""
        self.engine.reset()
        self.chat = self._new_chat()
