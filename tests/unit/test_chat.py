"""EndpointChat against a small server on localhost that speaks the OpenAI API, and misbehaves when told to."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from agents.chat import EndpointChat
from agents.completions import request_body, retry_after, to_message
from agents.endpoints import EndpointPool, parse_urls
from agents.models import open_chat
from agents.scripted_solver import ScriptedSolver
from agents.scripted_teacher import ScriptedTeacher
from tools.errors import ConfigError, ContextLengthError, ModelError, UnsupportedError

MESSAGES = [SystemMessage("You verify."), HumanMessage("1 + 1 = 2?")]


def completion(content: str | None = "<verdict>true</verdict>", **choice: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "prompt_token_ids": [1, 2, 3],
        "choices": [{"message": {"content": content}, "finish_reason": "stop", "token_ids": [7, 8], **choice}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


@dataclass
class Server:
    """A fake endpoint. `script` is answered in order; then `reply`."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: list[web.Response] = field(default_factory=list)
    reply: Callable[[dict[str, Any]], web.Response] = lambda body: web.json_response(completion())
    models: Callable[[], web.Response] = lambda: web.json_response({"data": [{"id": "tiny"}]})
    gate: asyncio.Event | None = None

    async def chat(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.gate is not None:
            await self.gate.wait()
        return self.script.pop(0) if self.script else self.reply(self.bodies[-1])

    async def list_models(self, request: web.Request) -> web.Response:
        return self.models()


async def start(server: Server, port: int = 0) -> web.AppRunner:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/v1/models", server.list_models)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    return runner


Serve = Callable[[], Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def make() -> Server:
        server = Server()
        runners.append(await start(server))
        return server

    yield make
    for runner in runners:
        await runner.cleanup()


def chat_for(*urls: str, **settings: Any) -> EndpointChat:
    return EndpointChat(model_id="tiny", base_urls=urls, **{"backoff_seconds": 0.01, **settings})


def free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


def error(status: int, message: str = "no", **headers: str) -> web.Response:
    text = json.dumps({"error": {"message": message}})
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


async def test_request_and_message(serve: Serve) -> None:
    server = await serve()
    tops = [{"token": "true", "logprob": -0.1}, {"token": "false", "logprob": -2.0}]
    logprobs = {"content": [{"token": "true", "logprob": -0.1, "top_logprobs": tops}]}
    said = {"content": "yes", "reasoning_content": "hm"}
    server.reply = lambda body: web.json_response(completion(logprobs=logprobs, message=said))
    chat = chat_for(server.url, api_key="k3y")
    message = await chat.ainvoke(MESSAGES, session="s", stage="verdict", max_tokens=9, temperature=0.5, top_logprobs=20)
    assert server.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "You verify."}, {"role": "user", "content": "1 + 1 = 2?"}],
            "max_tokens": 9,
            "temperature": 0.5,
            "logprobs": True,
            "top_logprobs": 20,
            "return_token_ids": True,
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer k3y"
    assert message.content == "yes"
    assert message.additional_kwargs == {"reasoning_content": "hm"}
    assert message.usage_metadata == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    meta = message.response_metadata
    assert (meta["finish_reason"], meta["model_name"]) == ("stop", "tiny")
    assert (meta["prompt_token_ids"], meta["token_ids"]) == ([1, 2, 3], [7, 8])
    assert (meta["tokens"], meta["logprobs"]) == (["true"], [-0.1])
    assert meta["top_logprobs"] == [{"true": -0.1, "false": -2.0}]
    await chat.aclose()


def test_to_message_fills_what_is_absent() -> None:
    message = to_message({"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, "m")
    assert message.content == ""
    assert message.usage_metadata == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    meta = message.response_metadata
    assert (meta["finish_reason"], meta["model_name"], meta["token_ids"], meta["logprobs"]) == (
        "length",
        "m",
        None,
        None,
    )


def test_request_body_leaves_out_what_is_not_asked() -> None:
    body = request_body("m", [HumanMessage("x")], top_logprobs=0, session="s", stage="plan")
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "logprobs": True,
        "return_token_ids": True,
    }


async def test_unknown_field_is_dropped_once_and_remembered(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: (
        error(400, "unknown field") if "return_token_ids" in body else web.json_response(completion())
    )
    chat = chat_for(server.url)
    await chat.ainvoke(MESSAGES, top_logprobs=5)
    await chat.ainvoke(MESSAGES, top_logprobs=5)
    assert ["return_token_ids" in b for b in server.bodies] == [True, False, False]
    assert all(b["logprobs"] for b in server.bodies)


async def test_endpoint_without_logprobs(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: error(422) if "logprobs" in body else web.json_response(completion())
    chat = chat_for(server.url)
    message = await chat.ainvoke(MESSAGES, top_logprobs=5)
    assert message.response_metadata["logprobs"] is None
    await chat.ainvoke(MESSAGES, top_logprobs=5)
    assert "logprobs" not in server.bodies[-1]


BEGUN = [*MESSAGES, AIMessage("<verdict>")]


async def test_a_forced_choice_goes_on_from_the_last_message(serve: Serve) -> None:
    server = await serve()
    await chat_for(server.url).ainvoke(BEGUN, top_logprobs=20, choices=("true", "false"))
    (body,) = server.bodies
    assert body["messages"][-1] == {"role": "assistant", "content": "<verdict>"}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["structured_outputs"] == {"choice": ["true", "false"]}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)


async def test_a_refused_forced_choice_is_remembered_and_other_requests_go_on(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: (
        error(400, "unknown field continue_final_message")
        if "continue_final_message" in body
        else web.json_response(completion())
    )
    chat = chat_for(server.url)
    await chat.ainvoke(MESSAGES, top_logprobs=5)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="takes no forced choice"):
            await chat.ainvoke(BEGUN, top_logprobs=5, choices=("true", "false"))
    assert len(server.bodies) == 2  # the second was not sent
    reply = await chat.ainvoke(MESSAGES, top_logprobs=5)
    assert reply.text == "<verdict>true</verdict>" and "structured_outputs" not in server.bodies[-1]


async def test_one_refused_forced_choice_for_another_reason_is_tried_again(serve: Serve) -> None:
    server = await serve()
    chat = chat_for(server.url)
    await chat.ainvoke(MESSAGES, top_logprobs=5)
    server.script = [error(400, "this server has had enough")]
    with pytest.raises(UnsupportedError):
        await chat.ainvoke(BEGUN, top_logprobs=5, choices=("true", "false"))
    await chat.ainvoke(BEGUN, top_logprobs=5, choices=("true", "false"))
    server.reply = lambda body: error(400, "this server has had enough")
    with pytest.raises(ModelError) as told:  # it is known to take forced choices
        await chat.ainvoke(BEGUN, top_logprobs=5, choices=("true", "false"))
    assert not isinstance(told.value, UnsupportedError)


@pytest.mark.parametrize(
    "told",
    [
        "This model's maximum context length is 64 tokens. However, your prompt contains 80 input tokens.",
        "The decoder prompt (length 80) is longer than the maximum model length of 64.",
    ],
)
async def test_a_conversation_that_does_not_fit_the_context_has_a_type(serve: Serve, told: str) -> None:
    server = await serve()
    server.reply = lambda body: error(400, told)
    with pytest.raises(ContextLengthError, match="length"):
        await chat_for(server.url).ainvoke(MESSAGES, max_tokens=8)
    assert ["max_tokens" in body for body in server.bodies] == [True, False]  # the prompt alone does not fit


async def test_a_reply_that_does_not_fit_has_what_is_left_of_the_context(serve: Serve) -> None:
    """Else every problem would count as too long where --max-tokens is near the served length."""
    server = await serve()
    told = "This model's maximum context length is 64 tokens. However, you requested 90 tokens (26 in the messages)."
    server.reply = lambda body: error(400, told) if "max_tokens" in body else web.json_response(completion())
    assert (await chat_for(server.url).ainvoke(MESSAGES, max_tokens=64)).content
    assert len(server.bodies) == 2


async def test_refused_request_is_an_error_and_changes_nothing(serve: Serve) -> None:
    server = await serve()
    chat = chat_for(server.url)
    await chat.ainvoke(MESSAGES)
    server.reply = lambda body: error(400, "this server has had enough")
    with pytest.raises(ModelError, match=r"HTTP 400: this server has had enough"):
        await chat.ainvoke(MESSAGES)
    assert len(server.bodies) == 2
    server.reply = lambda body: web.json_response(completion())
    await chat.ainvoke(MESSAGES)
    assert "return_token_ids" in server.bodies[-1]


async def test_concurrent_first_requests_all_find_the_refused_field(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: error(400) if "return_token_ids" in body else web.json_response(completion())
    chat = chat_for(server.url)
    messages = await asyncio.gather(*(chat.ainvoke(MESSAGES, session=str(i)) for i in range(8)))
    assert len(messages) == 8


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_transient_statuses_are_retried(serve: Serve, status: int) -> None:
    server = await serve()
    server.script = [error(status), error(status)]
    message = await chat_for(server.url).ainvoke(MESSAGES)
    assert message.content == "<verdict>true</verdict>"
    assert len(server.bodies) == 3


async def test_retries_end_in_one_line(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: error(500, "out of\nmemory")
    with pytest.raises(ModelError) as raised:
        await chat_for(server.url, max_retries=2).ainvoke(MESSAGES)
    text = str(raised.value)
    assert server.url in text and "HTTP 500: out of memory" in text and "3 tries" in text and "\n" not in text
    assert len(server.bodies) == 3


async def test_wrong_model_is_not_retried(serve: Serve) -> None:
    server = await serve()
    server.reply = lambda body: error(404, "The model `tiny` does not exist.")
    with pytest.raises(ModelError, match="does not exist"):
        await chat_for(server.url).ainvoke(MESSAGES)
    assert len(server.bodies) == 1


async def test_retry_after_is_obeyed_within_bounds(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve()
    server.script = [error(429, **{"Retry-After": "7"}), error(429, **{"Retry-After": "86400"})]
    slept: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("agents.chat.asyncio.sleep", record)
    await chat_for(server.url).ainvoke(MESSAGES)
    assert [s for s in slept if s > 0] == [7.0, 60.0]


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("0.5", 0.5), ("-1", None), ("nan", None), (None, None)])
def test_retry_after_header(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_date_is_left_to_the_backoff() -> None:
    assert retry_after("Wed, 21 Oct 2026 07:28:00 GMT") is None


@pytest.mark.parametrize(
    "answer",
    [
        web.json_response({"choices": []}),
        web.json_response({"error": {"message": "overloaded"}}),
        web.json_response([1]),
        web.json_response({"choices": ["text"]}),
        web.Response(text="<html>hello</html>"),
    ],
    ids=["no-choices", "error-in-200", "list", "text-choice", "html"],
)
async def test_answers_that_are_none(serve: Serve, answer: web.Response) -> None:
    server = await serve()
    server.script = [web.Response(body=answer.body, content_type=answer.content_type)]
    with pytest.raises(ModelError, match="no chat completion"):
        await chat_for(server.url).ainvoke(MESSAGES)


async def test_session_sticks_and_new_ones_go_to_the_least_loaded(serve: Serve) -> None:
    one, two = await serve(), await serve()
    one.gate = two.gate = asyncio.Event()
    chat = chat_for(one.url, two.url)
    calls = [asyncio.create_task(chat.ainvoke(MESSAGES, session=s)) for s in ("a", "b", "c", "d")]
    while len(one.bodies) + len(two.bodies) < 4:  # noqa: ASYNC110 - the servers run in this loop
        await asyncio.sleep(0.01)
    assert (len(one.bodies), len(two.bodies)) == (2, 2)
    one.gate.set()
    await asyncio.gather(*calls)
    for _ in range(3):
        await chat.ainvoke(MESSAGES, session="b")
    assert (len(one.bodies), len(two.bodies)) == (2, 5)


async def test_sessions_of_a_dead_endpoint_move(serve: Serve) -> None:
    live, dead = await serve(), free_url()
    chat = chat_for(dead, live.url, backoff_seconds=30.0)  # a backoff here would be noticed
    async with asyncio.timeout(5):
        for _ in range(3):
            await chat.ainvoke(MESSAGES, session="a")
    assert len(live.bodies) == 3


async def test_unreachable_endpoint() -> None:
    url = free_url()
    with pytest.raises(ModelError, match=r"tries") as raised:
        await chat_for(url, max_retries=1).ainvoke(MESSAGES)
    assert url in str(raised.value)


async def test_server_that_hangs_up(serve: Serve) -> None:
    connections = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as raw:
        url = f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}/v1"
        with pytest.raises(ModelError, match="2 tries"):
            await chat_for(url, max_retries=1).ainvoke(MESSAGES)
    assert connections >= 2


async def test_slow_server_times_out(serve: Serve) -> None:
    server = await serve()
    server.gate = asyncio.Event()
    with pytest.raises(ModelError, match="gave up after 1 tries"):
        await chat_for(server.url, timeout_seconds=0.2, max_retries=0).ainvoke(MESSAGES)
    server.gate.set()


async def test_semaphore_bounds_requests(serve: Serve) -> None:
    server = await serve()
    server.gate = asyncio.Event()
    chat = chat_for(server.url, semaphore=asyncio.Semaphore(2))
    calls = [asyncio.create_task(chat.ainvoke(MESSAGES)) for _ in range(5)]
    async with asyncio.timeout(30):
        while len(server.bodies) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # a third would come in this time
    assert len(server.bodies) == 2
    server.gate.set()
    await asyncio.gather(*calls)
    assert len(server.bodies) == 5


def test_one_model_in_several_event_loops() -> None:
    url = free_url()
    chat = chat_for(url)

    async def once() -> str:
        server = Server()
        runner = await start(server, port=int(url.split(":")[2].split("/")[0]))
        message = await chat.ainvoke(MESSAGES)
        await runner.cleanup()
        return str(message.content)

    assert [asyncio.run(once()) for _ in range(3)] == ["<verdict>true</verdict>"] * 3


def test_connections_close_with_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []

    async def once() -> None:
        server = Server()
        runner = await start(server)
        chat = chat_for(server.url)
        await chat.ainvoke(MESSAGES)
        clients = await chat._clients()
        kept.extend(clients.values())
        await runner.cleanup()

    asyncio.run(once())
    assert [client.is_closed() for client in kept] == [True]
    assert "Unclosed" not in caplog.text


async def test_check(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server, dead = await serve(), free_url()
    await chat_for(server.url).check()
    await chat_for(server.url, dead).check()
    assert f"cannot reach {dead}" in caplog.text
    with pytest.raises(ConfigError, match=f"cannot reach {dead}") as raised:
        await chat_for(dead).check()
    assert "\n" not in str(raised.value)
    server.models = lambda: error(404)
    await chat_for(server.url).check()
    server.models = lambda: error(401)
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY"):
        await chat_for(server.url).check()
    server.models = lambda: error(503)
    with pytest.raises(ConfigError, match="HTTP 503"):
        await chat_for(server.url).check()


def test_pool_rests_longer_after_each_outage() -> None:
    now = [0.0]
    pool = EndpointPool(("a", "b"), rest_seconds=10.0, clock=lambda: now[0])
    first = pool.pick("s")
    assert first.url == "a"
    pool.outage(first)
    assert pool.pick("s").url == "b"
    pool.outage(pool.endpoints[1])
    assert pool.pick("s").url == "b"  # both rest: it stays
    assert pool.pick("new").url == "a"  # wakes first, or at the same time and is named first
    now[0] = 10.0
    pool.outage(first)
    assert first.rests_until == 30.0  # 10 + 2 * 10
    pool.alive(first)
    assert first.rests_until == 0.0 and first.outages == 0


@pytest.mark.parametrize("text", ["localhost:8000", "ftp://x/v1", "http://", "http://x:port/v1", " , "])
def test_malformed_urls(text: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        parse_urls(text)


def test_parse_urls() -> None:
    assert parse_urls("http://a:1/v1/, http://b:2/v1") == ("http://a:1/v1", "http://b:2/v1")


def test_open_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    chat = open_chat("qwen", "http://a:1/v1,http://b:1/v1")
    assert isinstance(chat, EndpointChat)
    assert chat.base_urls == ("http://a:1/v1", "http://b:1/v1")
    assert chat.api_key == "sk-1" and "sk-1" not in repr(chat)
    assert open_chat("qwen", "http://a:1/v1,http://b:1/v1") is chat
    teacher = open_chat("scripted-teacher", error_rate=0.25, seed=3)
    assert isinstance(teacher, ScriptedTeacher) and (teacher.error_rate, teacher.seed) == (0.25, 3)
    assert isinstance(open_chat("scripted-solver"), ScriptedSolver)
    with pytest.raises(ConfigError, match="needs a base_url"):
        open_chat("qwen")
    with pytest.raises(ConfigError, match="name the model"):
        open_chat("scripted-teacher", "http://a:1/v1")
    open_chat.cache_clear()
