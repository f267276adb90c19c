"""The vision and audio tools against a server on localhost that speaks the OpenAI API, and keeps what it was sent."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tools.audio import AudioConfig, AudioTool
from tools.errors import ConfigError, ToolError
from tools.media import sniff
from tools.vision import CUT, QUESTION, VisionConfig, VisionTool

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28)


@dataclass
class Endpoint:
    """A stand-in for an OpenAI-compatible server. `script` is answered in order; then `reply`."""

    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: list[web.Response] = field(default_factory=list)
    reply: Any = None
    delay: float = 0.0
    at_once: int = 0
    most: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            self.headers.append(dict(request.headers))
            self.sent.append(await (request.json() if request.content_type == "application/json" else form(request)))
            await asyncio.sleep(self.delay)
        finally:
            self.at_once -= 1
        return self.script.pop(0) if self.script else web.json_response(self.reply)


async def form(request: web.Request) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in (await request.post()).items():
        is_file = isinstance(value, web.FileField)
        fields[name] = (value.filename, value.content_type, value.file.read()) if is_file else value
    return fields


def completion(content: Any = "A cat.", finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}]
    }


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/v1/chat/completions", endpoint.handle)
    app.router.add_post("/v1/audio/transcriptions", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield endpoint
    await runner.cleanup()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "cat.png").write_bytes(PNG)
    (folder / "talk.txt").write_bytes(WAV)  # the content tells, not the name
    (tmp_path / "secret.png").write_bytes(PNG)
    return folder


async def vision(endpoint: Endpoint, folder: Path, **settings: Any) -> AsyncIterator[VisionTool]:
    tool = VisionTool(VisionConfig(base_url=endpoint.url, model="eye", folder=str(folder), max_retries=0, **settings))
    yield tool
    await tool.aclose()


@pytest.fixture
async def eye(endpoint: Endpoint, folder: Path) -> AsyncIterator[VisionTool]:
    async for tool in vision(endpoint, folder):
        yield tool


@pytest.fixture
async def ear(endpoint: Endpoint, folder: Path) -> AsyncIterator[AudioTool]:
    tool = AudioTool(AudioConfig(base_url=endpoint.url, model="ear", folder=str(folder), max_retries=0, language="en"))
    yield tool
    await tool.aclose()


async def test_the_request_for_an_image(endpoint: Endpoint, eye: VisionTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    endpoint.reply = completion(" A cat.\n")
    result = await eye.call({"file": "cat.png", "question": "Which animal?"}, key="t")
    assert (result.name, result.content, result.ok) == ("vision", "A cat.", True) and result.seconds > 0
    image = {"url": "data:image/png;base64," + base64.b64encode(PNG).decode(), "detail": "auto"}
    content = [{"type": "text", "text": "Which animal?"}, {"type": "image_url", "image_url": image}]
    assert endpoint.sent == [
        {
            "model": "eye",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1024,
            "temperature": 0.0,
        }
    ]
    assert endpoint.headers[0]["Authorization"] == "Bearer sesame"


async def test_fields_that_a_model_refuses_can_be_left_out_and_the_key_can_be_another(
    endpoint: Endpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EYE_KEY", raising=False)
    endpoint.reply = completion()
    async for tool in vision(endpoint, folder, max_tokens=None, temperature=None, key_env="EYE_KEY", detail="low"):
        await tool.call({"file": "cat.png", "question": "  "}, key="t")
    sent = endpoint.sent[0]
    assert sent.keys() == {"model", "messages"} and endpoint.headers[0]["Authorization"] == "Bearer EMPTY"
    assert sent["messages"][0]["content"][0]["text"] == QUESTION
    assert sent["messages"][0]["content"][1]["image_url"]["detail"] == "low"


async def test_the_request_for_a_recording(endpoint: Endpoint, ear: AudioTool) -> None:
    endpoint.reply = {"text": " Hello there. "}
    result = await ear.call({"file": "talk.txt"}, key="t")
    assert (result.name, result.content, result.ok) == ("audio", "Hello there.", True)
    assert endpoint.sent == [
        {"file": ("audio.wav", "audio/wav", WAV), "model": "ear", "language": "en", "response_format": "json"}
    ]
    endpoint.reply = {"text": ""}
    assert (await ear.call({"file": "talk.txt"}, key="t")).content == "(nothing is said)"


async def test_answers_are_bounded_and_marked(endpoint: Endpoint, folder: Path) -> None:
    endpoint.reply = completion("x" * 500, "length")
    async for tool in vision(endpoint, folder, max_chars=90):
        content = (await tool.call({"file": "cat.png"}, key="t")).content
    assert content.startswith("x" * 60) and content.endswith(CUT) and "characters cut]" in content
    assert len(content) < 130


async def test_files_that_cannot_be_sent(endpoint: Endpoint, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder.parent / "secret.png").write_bytes(PNG)
    (folder / "out.png").symlink_to("../secret.png")
    (folder / "large.png").write_bytes(PNG + bytes(53))
    (folder / "fits.png").write_bytes(PNG + bytes(52))
    endpoint.reply = completion()
    async for tool in vision(endpoint, folder, max_bytes=100):
        for name, reason in {
            "sound": "there is no 'sound'.",
            "cap.png": "there is no 'cap.png'; did you mean 'cat.png'?",
            "cat.png/x": "'cat.png/x' is none of png, jpeg, gif, webp.",
            "../secret.png": "'../secret.png' goes up or has a backslash in it.",
            str(folder / "cat.png"): "is absolute; give a path inside the folder.",
            "out.png": "'out.png' leads out of the folder.",
            "talk.txt": "'talk.txt' is none of png, jpeg, gif, webp.",
            ".": "'.' is not a plain file.",
            "pipe": "'pipe' is not a plain file.",
            "large.png": "'large.png' is larger than 100 bytes.",
            "https://example.org/cat.png": "'https://example.org/cat.png' is an address; vision reads the files of",
            " HTTP://example.org/cat.png": "is an address",
            "x" * 5000: "is not a usable path",
        }.items():
            result = await asyncio.wait_for(tool.call({"file": name}, key="t"), 2)
            assert not result.ok and reason in result.content and len(result.content) < 200
        assert endpoint.sent == []
        assert (await tool.call({"file": "fits.png"}, key="t")).ok


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({}, "tools.NAME.base_url and tools.NAME.model are not set: name an OpenAI-compatible endpoint"),
        (ENDPOINT, "tools.NAME.folder is not set: give the folder"),
        ({**ENDPOINT, "folder": "/nowhere/at/all"}, "tools.NAME.folder: there is no folder '/nowhere/at/all'"),
        ({**ENDPOINT, "folder": __file__}, "tools.NAME.folder: there is no folder"),
    ],
)
def test_what_is_not_set_is_one_line(settings: dict[str, Any], lacking: str) -> None:
    for name, make in (
        ("vision", lambda: VisionTool(VisionConfig(**settings))),
        ("audio", lambda: AudioTool(AudioConfig(**settings))),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value).startswith(lacking.replace("NAME", name)) and "\n" not in str(caught.value)


async def test_a_file_that_the_endpoint_refuses_is_an_observation(endpoint: Endpoint, eye: VisionTool) -> None:
    for status in (400, 413, 415, 422):
        endpoint.script = [web.json_response({"error": {"message": "image is too\nsmall"}}, status=status)]
        result = await eye.call({"file": "cat.png"}, key="t")
        assert not result.ok and result.content == "Error: the endpoint refused the request: image is too small"


async def test_an_empty_answer_is_an_observation(endpoint: Endpoint, eye: VisionTool) -> None:
    endpoint.reply = completion(None, "length")
    result = await eye.call({"file": "cat.png"}, key="t")
    assert not result.ok and "no answer within its token limit" in result.content


async def test_an_endpoint_that_is_out_of_order_is_an_outage(
    endpoint: Endpoint, eye: VisionTool, ear: AudioTool
) -> None:
    for status, kind, body, what in (
        (500, "text/plain", "broken", "HTTP 500: broken"),
        (404, "text/plain", "no such model", "HTTP 404: no such model"),
        (401, "text/plain", "who?", "HTTP 401 (the key in OPENAI_API_KEY): who?"),
        (200, "text/html", "<html>", "has not the form"),
        (200, "application/json", "{", "Expecting property name"),
        (200, "application/json", '{"choices": []}', "has not the form"),
        (200, "application/json", '["text"]', "has not the form"),
    ):
        for tool, file in ((eye, "cat.png"), (ear, "talk.txt")):
            endpoint.script = [web.Response(status=status, text=body, content_type=kind)]
            with pytest.raises(ToolError) as caught:
                await tool.call({"file": file}, key="t")
            message = str(caught.value)
            assert what in message and endpoint.url in message and message.startswith(f"{tool.name}: ")


async def test_no_server_and_no_answer_in_time_are_outages(endpoint: Endpoint, folder: Path) -> None:
    endpoint.delay = 5.0
    async for tool in vision(endpoint, folder, seconds=0.2):
        with pytest.raises(ToolError, match=r"no answer within 0\.2 s"):
            await tool.call({"file": "cat.png"}, key="t")
    gone = Endpoint(url="http://127.0.0.1:9/v1")
    async for tool in vision(gone, folder):
        with pytest.raises(ToolError, match=r"127\.0\.0\.1:9"):
            await tool.call({"file": "cat.png"}, key="t")


async def test_a_failing_request_is_repeated(endpoint: Endpoint, folder: Path) -> None:
    endpoint.script = [web.Response(status=503, headers={"Retry-After-Ms": "1"})]
    endpoint.reply = completion()
    config = VisionConfig(base_url=endpoint.url, model="eye", folder=str(folder), max_retries=1)
    tool = VisionTool(config)
    assert (await tool.call({"file": "cat.png"}, key="t")).content == "A cat." and len(endpoint.sent) == 2
    await tool.aclose()
    await tool.aclose()
    assert (await tool.call({"file": "cat.png"}, key="t")).ok  # on a new connection
    await tool.aclose()


async def test_no_more_requests_at_once_than_allowed(endpoint: Endpoint, folder: Path) -> None:
    endpoint.reply, endpoint.delay = completion(), 0.02
    async for tool in vision(endpoint, folder, concurrency=2):
        await asyncio.gather(*(tool.call({"file": "cat.png"}, key=str(i)) for i in range(6)))
    assert endpoint.most == 2 and len(endpoint.sent) == 6


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
        (b"GIF87a....", "image/gif"),
        (b"GIF89a....", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (WAV, "audio/wav"),
        (b"ID3\x04\x00", "audio/mpeg"),
        (b"\xff\xfb\x90\x64", "audio/mpeg"),
        (b"\xff\xf3\x40\xc0", "audio/mpeg"),
        (b"fLaC\x00\x00\x00\x22", "audio/flac"),
        (b"OggS\x00\x02", "audio/ogg"),
        (b"\x00\x00\x00\x20ftypM4A \x00", "audio/mp4"),
        (b"\x00\x00\x00\x1cftypavif\x00", None),
        (b"RIFF\x00\x00\x00\x00AVI LIST", None),
        (b"\xff\xf1\x50\x80", None),  # AAC, layer 0
        (b"\xff\xff\xff\xff", None),
        (b"\xff\xea\x90\x64", None),  # a version that does not exist
        (b"<svg xmlns=", None),
        (b"%PDF-1.7", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_types_are_told_by_the_first_bytes(head: bytes, kind: str | None) -> None:
    assert sniff(head[:16]) == kind


@pytest.mark.parametrize("settings", [{"base_url": "http://x/v1"}, {"model": "m"}, {"base_url": "x", "model": "m"}])
def test_half_an_endpoint_is_a_wrong_setting(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="base_url"):
        AudioConfig(**settings)
