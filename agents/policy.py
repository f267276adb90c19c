"""PolicyChat: a chat model over the decoding engine, with exact token ids.

A conversation (`session`) is held as token ids, and only ever grows at its end: what a new call adds to the messages is
rendered, tokenised and appended; the policy's own tokens are never decoded and encoded again. So a turn's prompt ids
always extend the ids held so far, which is what training on them needs; where the messages do not extend the
conversation held, that is a `ModelError`.

Text that comes from messages cannot act as control tokens: special-token strings inside a message's content are encoded
as ordinary text (`encode`). Everything else is encoded as the tokenizer encodes the template's whole text.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import ConfigDict, PrivateAttr, SkipValidation

from agents.protocol import wire_messages
from agents.requests import Completion, Request
from tools.errors import ModelError

_MARK = "\ue000"  # a private-use character: stands inside a special-token string that came from a message


class Decoder(Protocol):
    """What completes token ids: `agents.engine.Engine`, or vLLM in GRPO."""

    async def generate(self, request: Request) -> Completion:
        """Complete one request."""
        ...


@dataclass(frozen=True)
class Held:
    """A conversation as held: its messages, their text up to and with the last end token, and the ids."""

    messages: tuple[dict[str, str], ...] = ()
    text: str = ""
    ids: tuple[int, ...] = field(default=(), repr=False)


class PolicyChat(BaseChatModel):
    """The policy as a LangChain chat model (async only); see the chat interface in DESIGN.md 5.

    Attributes:
        engine: Runs the model; start and close are its owner's.
        tokenizer: A fast Hugging Face tokenizer.
        model_id: The model's name.
        template: Text of the chat template; it must be prefix-preserving and end each message with `end_token`.
        end_token: Ends a reply.
        max_sessions: Conversations held; beyond it the one that was used longest ago is forgotten.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    engine: SkipValidation[Decoder]
    tokenizer: Any
    model_id: str
    template: str
    end_token: str = "<|im_end|>"
    max_sessions: int = 4096
    _sessions: OrderedDict[str, Held] = PrivateAttr(default_factory=OrderedDict)
    _strings: dict[int, str] = PrivateAttr(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "retort-policy"

    def forget(self, session: str) -> None:
        """Drop a conversation (its keys and values stay useful to others until evicted). Safe to call twice."""
        self._sessions.pop(session, None)

    def prompt(self, messages: Sequence[BaseMessage], session: str | None = None) -> Held:
        """Return the conversation as the next call would send it.

        Args:
            messages: All messages so far.
            session: The conversation that they go on; None is one call by itself.

        Raises:
            ModelError: the messages do not extend what is held of the session, or the template is not
                prefix-preserving, or the session is not held but has replies already.
        """
        wire = tuple(wire_messages(messages))
        held = self._sessions.get(session, Held()) if session is not None else Held()
        if session is not None and not held.messages and any(m["role"] == "assistant" for m in wire):
            raise ModelError(f"session {session!r} has replies, but its token ids are not held (any more)")
        if wire[: len(held.messages)] != held.messages or len(wire) == len(held.messages):
            raise ModelError(f"the messages of session {session!r} do not extend the conversation held")
        text = self._render(wire)
        if not text.startswith(held.text):
            raise ModelError(f"the chat template is not prefix-preserving: session {session!r} would be encoded anew")
        return Held(wire, text, held.ids + tuple(self._encode(text[len(held.text) :])))

    def _render(self, wire: Sequence[dict[str, str]]) -> str:
        """Render with a generation prompt; special-token strings inside contents come out marked."""
        marked = [m | {"content": self._special.sub(_mark, m["content"])} for m in wire]
        text = self.tokenizer.apply_chat_template(
            marked, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        return str(text)

    def _encode(self, text: str) -> list[int]:
        """Encode rendered text: control tokens where the template wrote them, ordinary text everywhere else."""
        ids: list[int] = []
        for part in re.split(f"({self._special.pattern})", text):
            if self._special.fullmatch(part):
                ids.append(self.tokenizer.convert_tokens_to_ids(part))
            elif part:
                plain = self._marked.sub(lambda m: m[0].replace(_MARK, ""), part)
                ids += self.tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(token) for token in self._special_tokens))

    @cached_property
    def _marked(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(token[0] + _MARK + token[1:]) for token in self._special_tokens))

    @cached_property
    def _special_tokens(self) -> list[str]:
        tokens = {t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special} | {self.end_token}
        return sorted(tokens, key=lambda token: (-len(token), token))

    @cached_property
    def _end_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.end_token))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        session: str | None = None,
        stage: str = "",
        max_tokens: int = 512,
        temperature: float = 0.0,
        top_logprobs: int | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if stop or kwargs:
            raise ModelError(f"PolicyChat does not know {sorted(kwargs) or 'stop strings'}")
        prompt = self.prompt(messages, session)
        request = Request(prompt.ids, max_tokens, temperature, frozenset({self._end_id}), top_logprobs)
        completion = await self.engine.generate(request)
        ended = completion.finish_reason == "stop"
        content = self._text(completion.token_ids[:-1] if ended else completion.token_ids)
        if session is not None:
            self._hold(session, prompt, content, completion)
        return ChatResult(generations=[ChatGeneration(message=self._message(prompt, content, completion))])

    def _hold(self, session: str, prompt: Held, content: str, completion: Completion) -> None:
        """Append the reply; where it was cut, the end token joins the context as a token of the environment."""
        ended = completion.finish_reason == "stop"
        messages = (*prompt.messages, {"role": "assistant", "content": content})
        text = prompt.text + self._special.sub(_mark, content) + self.end_token
        ids = prompt.ids + completion.token_ids + (() if ended else (self._end_id,))
        self._sessions[session] = Held(messages, text, ids)
        self._sessions.move_to_end(session)
        while len(self._sessions) > self.max_sessions:
            self._sessions.popitem(last=False)

    def _message(self, prompt: Held, content: str, completion: Completion) -> AIMessage:
        sent, written = len(prompt.ids), len(completion.token_ids)
        tops = completion.top_logprobs
        return AIMessage(
            content=content,
            usage_metadata=UsageMetadata(input_tokens=sent, output_tokens=written, total_tokens=sent + written),
            response_metadata={
                "finish_reason": completion.finish_reason,
                "model_name": self.model_id,
                "prompt_token_ids": list(prompt.ids),
                "token_ids": list(completion.token_ids),
                "logprobs": list(completion.logprobs),
                "tokens": [self._string(token) for token in completion.token_ids],
                "top_logprobs": None if tops is None else [self._by_string(best) for best in tops],
            },
        )

    def _by_string(self, best: dict[int, float]) -> dict[str, float]:
        """Key the best tokens of a position by their text; tokens that read alike are added up."""
        out: dict[str, float] = {}
        for token, logprob in best.items():
            text = self._string(token)
            out[text] = math.log(math.exp(out[text]) + math.exp(logprob)) if text in out else logprob
        return out

    def _string(self, token: int) -> str:
        if token not in self._strings:
            self._strings[token] = self._text([token])
        return self._strings[token]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise ModelError("PolicyChat is asynchronous: use ainvoke")


def _mark(match: re.Match[str]) -> str:
    return match[0][0] + _MARK + match[0][1:]
