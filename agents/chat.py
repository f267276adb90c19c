"""The endpoint chat model: a LangChain `BaseChatModel` over any OpenAI-compatible server.

Inputs: messages of a graph's state. Outputs: an `AIMessage` with content, reasoning, finish reason, usage, and, where
the server gives them, exact token ids and log-probabilities. The request takes the short way through openai's client
(its `post`, the body as it is, the raw response back), at a fraction of the CPU of `chat.completions.create`.

Retries are owned here alone (openai's own are off), because a retry may have to go to another server.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import aiohttp
import httpx2
import openai
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, PrivateAttr

from agents.completions import CHOICE, CHOICE_FIELDS, request_body, retry_after, to_message
from agents.endpoints import Endpoint, EndpointPool
from tools.errors import ConfigError, ContextLengthError, ModelError, UnsupportedError

logger = logging.getLogger(__name__)

RETRY_STATUS = frozenset({408, 409, 425, 429})  # and every 5xx
REFUSED_STATUS = frozenset({400, 422})  # may be a field that the server does not know
MAX_RETRY_AFTER = 60.0  # seconds; a longer Retry-After is cut to this
MAX_BACKOFF = 16.0  # seconds
CONNECT_SECONDS = 10.0
OPTIONAL_FIELDS = ("return_token_ids", "logprobs", "top_logprobs")  # in the order in which a request gives them up


class _Retry(Exception):
    """A request failed in a way that another try may mend."""

    def __init__(self, what: str, outage: bool, after: float | None = None) -> None:
        super().__init__(what)
        self.what, self.outage, self.after = what, outage, after


class EndpointChat(BaseChatModel):
    """Chat over one or several OpenAI-compatible endpoints of one model.

    Call: `await chat.ainvoke(messages, session=…, stage=…, max_tokens=…, temperature=…, top_logprobs=…)`. `session`
    keeps a trajectory on one endpoint; `stage` is for other chat models and stays here; `top_logprobs` (0 gives those
    of the chosen tokens only) asks for log-probabilities; `choices` has the last message, begun by the assistant, gone
    on with one of these words.
    """

    branches: ClassVar[bool] = True  # a session may be asked several things at one point; takes `choices`

    model_id: str
    base_urls: tuple[str, ...]
    api_key: str = Field(default="EMPTY", repr=False, exclude=True)
    timeout_seconds: float = 600.0  # one request, from connection to last byte, without progress
    max_retries: int = 4
    backoff_seconds: float = 0.5
    semaphore: asyncio.Semaphore | None = Field(default=None, exclude=True)

    _pool: EndpointPool = PrivateAttr()
    _loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncGenerator[Any, None], dict[str, Any]]] = (
        PrivateAttr(default_factory=WeakKeyDictionary)
    )

    def model_post_init(self, context: Any, /) -> None:
        """Make the pool of endpoints."""
        super().model_post_init(context)
        self._pool = EndpointPool(self.base_urls)

    @property
    def _llm_type(self) -> str:
        return "retort-endpoint"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("EndpointChat is asynchronous: call ainvoke")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        body = request_body(self.model_id, messages, stop, **kwargs)
        session = kwargs.get("session")
        if self.semaphore is None:
            message = await self._with_retries(body, session)
        else:
            async with self.semaphore:
                message = await self._with_retries(body, session)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _with_retries(self, body: dict[str, Any], session: str | None) -> AIMessage:
        clients = await self._clients()
        for attempt in range(self.max_retries + 1):
            endpoint = self._pool.pick(session)
            endpoint.in_flight += 1
            try:
                message = await self._negotiate(clients[endpoint.url], endpoint, body)
            except _Retry as failure:
                if failure.outage:
                    self._pool.outage(endpoint)
                if attempt == self.max_retries:
                    raise self._error(endpoint, f"{failure.what}; gave up after {attempt + 1} tries") from failure
                moved = failure.outage and self._pool.has_other(endpoint)
                delay = 0.0 if moved else self._delay(attempt, failure.after)
            else:
                self._pool.alive(endpoint)
                return message
            finally:
                endpoint.in_flight -= 1
            await asyncio.sleep(delay)
        raise AssertionError("unreachable")

    def _delay(self, attempt: int, after: float | None) -> float:
        if after is not None:
            return min(after, MAX_RETRY_AFTER)
        return min(self.backoff_seconds * 2**attempt, MAX_BACKOFF) * random.uniform(0.5, 1.0)

    async def _negotiate(self, client: openai.AsyncOpenAI, endpoint: Endpoint, body: dict[str, Any]) -> AIMessage:
        """Send the request without the fields that the endpoint is known to refuse, or shows to refuse."""
        if CHOICE in body and CHOICE in endpoint.refused:
            raise self._unsupported(endpoint)
        sent = {k: v for k, v in body.items() if k not in endpoint.refused}
        doubtful = [f for f in OPTIONAL_FIELDS if f in sent and f not in endpoint.accepted]
        try:
            data = await self._fitting(client, endpoint, sent)
        except openai.APIStatusError as refusal:
            told = self._error(endpoint, f"HTTP {refusal.status_code}: {_excerpt(refusal)}")
            if refusal.status_code not in REFUSED_STATUS:
                raise told from refusal
            try:
                data, sent = await self._without(client, sent, doubtful, told)
            except ModelError as still:
                if CHOICE not in sent or CHOICE in endpoint.accepted:
                    raise
                if any(name in str(still) for name in CHOICE_FIELDS):  # else it may be this request alone
                    endpoint.refused.add(CHOICE)
                raise self._unsupported(endpoint) from still
        endpoint.accepted |= sent.keys() & {*OPTIONAL_FIELDS, CHOICE}
        endpoint.refused |= set(doubtful) - sent.keys() - endpoint.accepted
        return self._message(endpoint, data)

    async def _fitting(self, client: openai.AsyncOpenAI, endpoint: Endpoint, body: dict[str, Any]) -> Any:
        """Send a request; where prompt and reply together are over the context, the reply has what is left of it.

        Raises:
            ContextLengthError: the prompt alone is over it.
        """
        try:
            return await self._post(client, body)
        except openai.APIStatusError as refusal:
            if not _is_too_long(refusal):
                raise
            if "max_tokens" in body:
                unbounded = {name: value for name, value in body.items() if name != "max_tokens"}
                return await self._fitting(client, endpoint, unbounded)
            raise ContextLengthError(f"{endpoint.url} (model {self.model_id}): {_excerpt(refusal)}") from refusal

    async def _without(
        self, client: openai.AsyncOpenAI, body: dict[str, Any], doubtful: list[str], told: ModelError
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat a refused request with fewer and fewer optional fields; return the answer and what was sent.

        Raises:
            ModelError: `told`, when the fields are not the reason.
        """
        drops = [set(doubtful[:1]), set(doubtful)] if len(doubtful) > 1 else [set(doubtful)] if doubtful else []
        for dropped in drops:
            sent = {k: v for k, v in body.items() if k not in dropped}
            try:
                return await self._post(client, sent), sent
            except openai.APIStatusError as refusal:
                if refusal.status_code not in REFUSED_STATUS:
                    break
        raise told

    async def _post(self, client: openai.AsyncOpenAI, body: dict[str, Any]) -> Any:
        """Return the decoded answer, None where it is not JSON."""
        try:
            response = await client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except openai.APIStatusError as error:
            status = error.status_code
            if status not in RETRY_STATUS and status < 500:
                raise
            after = retry_after(error.response.headers.get("retry-after"))
            raise _Retry(f"HTTP {status}: {_excerpt(error)}", outage=status >= 500, after=after) from error
        except (openai.APIConnectionError, httpx2.TransportError, aiohttp.ClientError) as error:
            raise _Retry(_reason(error), outage=True) from error
        try:
            return response.json()
        except ValueError:
            return None

    def _message(self, endpoint: Endpoint, data: Any) -> AIMessage:
        try:
            message = to_message(data, self.model_id)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            told = data.get("error") if isinstance(data, dict) else None
            what = f"the answer is no chat completion{f': {_short(str(told))}' if told else ''}"
            raise self._error(endpoint, what) from error
        if message.response_metadata["finish_reason"] in ("abort", "error"):
            raise _Retry("the server broke off the generation", outage=False)
        return message

    def _error(self, endpoint: Endpoint, what: str) -> ModelError:
        return ModelError(
            f"{endpoint.url}/chat/completions (model {self.model_id}): {what}; "
            f"check the server and the model's name, then run the same command again"
        )

    def _unsupported(self, endpoint: Endpoint) -> UnsupportedError:
        return UnsupportedError(
            f"{endpoint.url} (model {self.model_id}) takes no forced choice (continue_final_message with {CHOICE}); "
            f"serve the model with vLLM, or set confidence to sampled"
        )

    async def _clients(self) -> dict[str, openai.AsyncOpenAI]:
        """Return the clients of the running event loop: connections belong to the loop that opened them."""
        loop = asyncio.get_running_loop()
        held = self._loops.get(loop)
        if held is None:
            holder = self._open_clients()
            held = (holder, await anext(holder))
            self._loops[loop] = held
        return held[1]

    async def _open_clients(self) -> AsyncGenerator[dict[str, openai.AsyncOpenAI], None]:
        """Yield the clients once; close them when the loop ends: `asyncio.run` then closes every async generator."""
        clients = {url: self._open_client(url) for url in self.base_urls}
        try:
            yield clients
        finally:
            for client in clients.values():
                await client.close()

    def _open_client(self, url: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=self.api_key,
            max_retries=0,
            timeout=httpx2.Timeout(self.timeout_seconds, connect=CONNECT_SECONDS),
            http_client=openai.DefaultAioHttpClient(),
        )

    async def aclose(self) -> None:
        """Close the running loop's connections; a later call opens new ones."""
        held = self._loops.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[0].aclose()

    async def check(self, seconds: float = 10.0) -> None:
        """Ask every endpoint for its models before a run.

        Raises:
            ConfigError: none of them can be reached, or one refuses the key.
        """
        clients = await self._clients()
        problems = await asyncio.gather(*(_ping(url, clients[url], seconds) for url in self.base_urls))
        unreachable = [p for p in problems if p is not None]
        if len(unreachable) == len(self.base_urls):
            raise ConfigError(f"{unreachable[0]}; start the server or correct the base_url of model {self.model_id}")
        for problem in unreachable:
            logger.warning("%s; the other endpoints of model %s take its share", problem, self.model_id)


async def _ping(url: str, client: openai.AsyncOpenAI, seconds: float) -> str | None:
    """Return what is wrong with an endpoint, or None. Servers without a list of models count as reachable.

    Raises:
        ConfigError: the key is refused.
    """
    try:
        await client.get("/models", cast_to=httpx2.Response, options={"timeout": seconds})
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise ConfigError(f"{url} refuses the key (HTTP {error.status_code}); set OPENAI_API_KEY") from error
    except openai.APIStatusError as error:
        return f"cannot reach {url}: HTTP {error.status_code}" if error.status_code >= 500 else None
    except (openai.APIConnectionError, httpx2.TransportError, aiohttp.ClientError) as error:
        return f"cannot reach {url}: {_reason(error)}"
    return None


def _short(text: str, limit: int = 200) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _excerpt(error: openai.APIStatusError) -> str:
    """Return the server's own words, in one line."""
    body = error.body
    words = body.get("message") if isinstance(body, dict) else None
    return _short(str(words or error.response.text or error.response.reason_phrase or "no text"))


def _is_too_long(error: openai.APIStatusError) -> bool:
    """Return whether a server refuses a request because it does not fit the context (OpenAI's code, vLLM's words)."""
    words = _excerpt(error).lower()
    return error.status_code in REFUSED_STATUS and (
        error.code == "context_length_exceeded"
        or any(f"maximum {what} length" in words for what in ("context", "model"))
    )


def _reason(error: BaseException) -> str:
    """Return the innermost cause of a connection failure, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _short(str(error) or type(error).__name__)
