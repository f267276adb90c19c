"""Who decodes the rollouts of GRPO: the engine in this process, or vLLM as TRL runs it (colocated, or a server).

All are one `Policy`: a chat model with exact token ids, attached to the trainer while a step rolls out. Weights go to
vLLM by TRL's own synchronisation, which has run when the rollouts begin; sampling is the trainer's, with top_p 1, no
top_k and the settings of each request.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from agents.local import LocalPolicy
from agents.policy import Decoder, PolicyChat
from tools.errors import ConfigError, ModelError
from train.settings import GrpoConfig
from train.student import merged
from train.vllm_decoders import Colocated, Served

if TYPE_CHECKING:
    from langchain_core.language_models.chat_models import BaseChatModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Policy(Protocol):
    """The chat model of the weights in training."""

    @property
    def chat(self) -> "BaseChatModel":
        """The chat model; a new one after `refresh`."""
        ...

    def attached(self, trainer: Any) -> AbstractContextManager[None]:
        """Decode with the weights that a trainer has now."""
        ...

    def refresh(self) -> None:
        """Forget everything that was computed with older weights."""


class InProcess:
    """The engine of this process over the trainer's own model, adapters merged while it decodes."""

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **limits: Any) -> None:
        """Make it; see `LocalPolicy` for the limits."""
        self._local = LocalPolicy(model, tokenizer, model_id="policy", **limits)

    @property
    def chat(self) -> "BaseChatModel":
        """The chat model."""
        return self._local.chat

    def attached(self, trainer: Any) -> AbstractContextManager[None]:
        """Merge adapters for the time of the rollouts."""
        return merged(getattr(trainer, "model", None))

    def refresh(self) -> None:
        """Forget keys, values and conversations."""
        self._local.refresh()

    def __enter__(self) -> Self:
        """Start the engine."""
        self._local.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        """Stop the engine."""
        self._local.__exit__(*exc)


class Vllm:
    """vLLM behind a trainer made with `use_vllm`: TRL owns the engine or the connection, and the weights."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", mode: str, *, slots: int, max_context: int) -> None:
        """Prepare; nothing decodes before `attached`.

        Args:
            tokenizer: with the template that it is trained with.
            mode: `colocate` or `server`.
            slots: requests at once (server).
            max_context: tokens of a conversation at most.
        """
        self._tokenizer, self._mode = tokenizer, mode
        self._slots, self._max_context = slots, max_context
        self._decoder: Decoder | None = None
        self._chat: PolicyChat | None = None

    @property
    def chat(self) -> "BaseChatModel":
        """The chat model.

        Raises:
            ModelError: no trainer is attached.
        """
        if self._chat is None:
            raise ModelError("vLLM decodes only while a trainer is attached")
        return self._chat

    @contextmanager
    def attached(self, trainer: Any) -> Iterator[None]:
        """Decode with the trainer's vLLM; its weights are those of the last synchronisation."""
        generation = trainer.vllm_generation
        with ExitStack() as stack:
            kind = Colocated if self._mode == "colocate" else Served
            decoder = stack.enter_context(kind(generation, self._slots, self._max_context))
            self._chat = PolicyChat(
                engine=decoder,
                tokenizer=self._tokenizer,
                model_id="policy",
                template=str(self._tokenizer.chat_template),
            )
            yield

    def refresh(self) -> None:
        """Forget the conversations; TRL resets vLLM's prefix cache when it sends new weights."""
        self._chat = None

    def __enter__(self) -> Self:
        """Nothing to open: TRL does."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close: TRL does."""


def check_engine(settings: GrpoConfig, gpu: bool, sharded: bool = False, processes: int = 1) -> None:
    """Make sure that the engine can run here.

    Args:
        settings: of GRPO.
        gpu: whether this machine has one.
        sharded: whether the model's parameters are spread over processes (FSDP, ZeRO-3).
        processes: of the launch.

    Raises:
        ConfigError: it cannot.
    """
    if settings.engine != "local" and not gpu:
        raise ConfigError(f"grpo.engine={settings.engine} needs a GPU, and there is none here; set grpo.engine=local")
    if settings.engine == "vllm_server" and not settings.vllm.base_url:
        raise ConfigError(
            "grpo.engine=vllm_server: grpo.vllm.base_url is missing; start `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL "
            """--logprobs-mode processed_logprobs --weight-transfer-config '{"backend": "nccl"}'` and give its URL"""
        )
    if settings.engine == "local" and sharded:
        raise ConfigError(
            "grpo.engine=local cannot decode a model that is spread over processes (FSDP, ZeRO-3); set "
            "grpo.engine=vllm_server or vllm_colocate"
        )
    if settings.groups % processes or settings.update_groups % processes:
        raise ConfigError(
            f"grpo.groups={settings.groups} in updates of {settings.update_groups}: each of the {processes} processes "
            "must get whole groups; choose multiples"
        )
