"""The registry of tools: what is opened, in which order it is closed, and how a call finds its tool."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import yaml
from pydantic import ValidationError

from distill.config import flatten
from tests.unit.fakes import FakePython
from tools import registry
from tools.base import Tool, ToolCall, ToolResult
from tools.errors import ConfigError, SandboxError, ToolError
from tools.registry import ToolsConfig, call_tool, open_tools
from tools.sandbox.base import ExecResult, ExecStop
from tools.sandbox.pool import SessionPool
from tools.sections import FilesConfig
from tools.settings import Section
from tools.vision import VisionTool

ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}


class Closings:
    """What was closed, in order; a pool and the tools write here."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def close(self, name: str) -> None:
        await self.gate.wait()
        self.order.append(name)


class Pool:
    def __init__(self, closings: Closings) -> None:
        self._closings = closings

    async def run(self, key: str, code: str) -> ExecResult:
        return ExecResult(stop=ExecStop.OK, stdout=f"{key}: {code}")

    async def aclose(self) -> None:
        await self._closings.close("pool")


Install = Callable[..., None]


@pytest.fixture
def closings() -> Closings:
    return Closings()


@pytest.fixture
def pool(closings: Closings) -> SessionPool:
    return cast(SessionPool, Pool(closings))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, closings: Closings) -> Iterator[Install]:
    """Put a module `tools.search` (or browse, files) in the place of the real one; `fail`: it would not close."""

    def install(section: str, fail: bool = False) -> None:
        class StandIn(Tool):
            name = section
            description = "A stand-in."
            parameters: dict[str, Any] = {"type": "object", "properties": {}}  # noqa: RUF012
            example: dict[str, Any] = {}  # noqa: RUF012

            def __init__(self, config: Section) -> None:
                self.config = config.model_dump()

            async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
                return ToolResult(name=self.name, content=f"{self.config.get('folder')} {self.config['max_chars']}")

            async def aclose(self) -> None:
                await closings.close(section)
                if fail:
                    raise OSError(f"{section} would not close")

        module = ModuleType(f"tools.{section}")
        setattr(module, f"{section.title()}Tool", StandIn)
        monkeypatch.setitem(sys.modules, f"tools.{section}", module)

    yield install


async def test_python_is_what_there_is_by_default(pool: SessionPool, closings: Closings) -> None:
    async with open_tools(ToolsConfig(), pool) as tools:
        assert list(tools) == ["python"]
        result = await call_tool(tools, ToolCall(name="python", arguments={"code": "x"}), "t1")
        assert result.content == "t1: x" and closings.order == []
    assert closings.order == ["pool"]


async def test_tools_are_opened_in_order_and_closed_in_reverse(
    pool: SessionPool, closings: Closings, stand_in: Install
) -> None:
    for section in ("search", "browse", "files"):
        stand_in(section)
    settings = ToolsConfig(enabled=("files", "search", "python", "browse", "search"))
    async with open_tools(settings, pool) as tools:
        assert list(tools) == ["files", "search", "python", "browse"]
    assert closings.order == ["browse", "search", "files", "pool"]


async def test_a_tool_gets_its_settings_and_the_common_folder(pool: SessionPool, stand_in: Install) -> None:
    stand_in("files")
    stand_in("search")
    settings = ToolsConfig(enabled=("files", "search"), folder="/common", files=FilesConfig(max_chars=700))
    async with open_tools(settings, pool) as tools:
        said = [await call_tool(tools, ToolCall(name=name, arguments={}), "t") for name in ("files", "search")]
    assert [result.content for result in said] == ["/common 700", "None 2000"]
    own = settings.model_copy(update={"files": FilesConfig(folder="/own")})
    async with open_tools(own, pool) as tools:
        assert (await call_tool(tools, ToolCall(name="files", arguments={}), "t")).content == "/own 2000"


async def test_a_tool_that_would_not_close_keeps_none_open(
    pool: SessionPool, closings: Closings, stand_in: Install
) -> None:
    stand_in("search")
    stand_in("browse", fail=True)
    with pytest.raises(OSError, match="browse would not close"):
        async with open_tools(ToolsConfig(enabled=("search", "browse")), pool):
            pass
    assert closings.order == ["browse", "search", "pool"]


async def test_a_failure_while_opening_closes_what_was_open(
    pool: SessionPool, closings: Closings, stand_in: Install
) -> None:
    stand_in("search")
    with pytest.raises(ConfigError, match=r"tools\.vision\.base_url and tools\.vision\.model are not set"):
        async with open_tools(ToolsConfig(enabled=("search", "vision")), pool):
            raise AssertionError("opened")
    assert closings.order == ["search", "pool"]


async def test_cancellation_while_closing_waits_for_the_end(
    pool: SessionPool, closings: Closings, stand_in: Install
) -> None:
    stand_in("search")
    closings.gate.clear()
    opened = asyncio.Event()

    async def work() -> None:
        async with open_tools(ToolsConfig(enabled=("search",)), pool):
            opened.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await opened.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done() and closings.order == []
    closings.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closings.order == ["search", "pool"]


def test_names_are_a_list_or_comma_separated_and_an_unknown_one_names_the_nearest() -> None:
    for given in ("search, python,search", ["search", "python", "search"]):
        assert ToolsConfig.model_validate({"enabled": given}).enabled == ("search", "python")
    with pytest.raises(ValidationError, match="there is no tool 'serach', the nearest is 'search'"):
        ToolsConfig(enabled=("python", "serach"))
    with pytest.raises(ValidationError, match="at least 1 item"):
        ToolsConfig(enabled=())


async def test_a_tool_whose_module_is_not_installed_is_one_line(
    pool: SessionPool, closings: Closings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tools.browse", None)
    with pytest.raises(ConfigError, match=r'^the tool browse lacks the module tools\.browse, .* -e "\.\[tools\]"$'):
        async with open_tools(ToolsConfig(enabled=("browse",)), pool):
            raise AssertionError("opened")
    assert closings.order == ["pool"]


async def test_mcp_without_servers_is_not_opened(pool: SessionPool) -> None:
    with pytest.raises(ConfigError, match=r"tools\.mcp has no server"):
        async with open_tools(ToolsConfig(enabled=("mcp",)), pool):
            raise AssertionError("opened")


async def test_vision_reads_the_common_folder(pool: SessionPool, tmp_path: Path) -> None:
    settings = ToolsConfig.model_validate({"enabled": ["vision"], "vision": ENDPOINT, "folder": str(tmp_path)})
    async with open_tools(settings, pool) as tools:
        assert isinstance(tools["vision"], VisionTool)
        result = await call_tool(tools, ToolCall(name="vision", arguments={"file": "a.png"}), "t")
    assert result.content == "Error: there is no 'a.png'."


async def test_a_call_of_an_unknown_tool_lists_what_there_is() -> None:
    tools: dict[str, Tool] = {"python": FakePython(), "search": FakePython()}
    result = await call_tool(tools, ToolCall(name="pythn", arguments={"code": "1"}), "t", hint="Write it so.")
    assert (result.name, result.ok) == ("pythn", False)
    assert result.content == "There is no tool 'pythn'; there is: python, search. Write it so."
    nothing = await call_tool({}, ToolCall(name="x", arguments={}), "t")
    assert nothing.content == "There is no tool 'x'; there is: none."
    long = await call_tool(tools, ToolCall(name="x" * 9000, arguments={}), "t")
    assert len(long.content) < 200


async def test_refusals_pass_and_outages_are_raised_as_they_are() -> None:
    tools: dict[str, Tool] = {"python": FakePython()}
    refused = await call_tool(tools, ToolCall(name="python", arguments={}), "t")
    assert not refused.ok and 'needs the argument "code"' in refused.content
    for failure in (SandboxError("down"), ToolError("down")):
        with pytest.raises(type(failure), match="down"):
            await call_tool({"python": FakePython(failure)}, ToolCall(name="python", arguments={"code": "1"}), "t")


def test_every_tool_of_the_settings_has_a_builder() -> None:
    sections = {"search", "browse", "files", "vision", "audio", "mcp"}
    assert set(registry.BUILDERS) == sections | {"python"} and sections < set(ToolsConfig.model_fields)
    assert len(ToolsConfig.model_fields) < 20
    assert all(name in (ToolsConfig.model_fields["enabled"].description or "") for name in registry.BUILDERS)


def test_settings_are_the_same_after_they_were_written_and_read() -> None:
    server = {"name": "notes", "command": "notes", "args": ["--all"]}
    settings = ToolsConfig.model_validate({"enabled": ["python", "mcp"], "mcp": [server]})
    read = yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))
    assert ToolsConfig.model_validate(read) == settings
    flat = flatten(settings)
    assert (flat["enabled"], flat["mcp"]) == (read["enabled"], read["mcp"])
