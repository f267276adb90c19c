"""The tools of a run: settings, what is said when one cannot be had, what the model sees of them, who is called."""

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from agents.protocol import CALL_HINT
from agents.types import Turn
from distill.config import check_run_dir, data_hash, load_config, save_config
from distill.pipeline import open_tools
from distill.run import main
from graphs.opened import tools_of
from graphs.state import VerifierContext
from graphs.turns import run_calls
from graphs.verifier import build_verifier
from tests.unit.fakes import FINDINGS, FakeChat, FakePython, script
from tools.base import ToolResult
from tools.errors import ConfigError, SandboxError
from tools.sandbox.base import ExecResult, ExecStop, Sandbox, Session

ENDPOINT = "base_url: 'http://127.0.0.1:9/v1', model: m"
FULL = "teacher.style=full"


def test_settings_from_the_command_line() -> None:
    cfg = load_config(None, [FULL, "tools.enabled=python,search", "tools.search.results=3", "tools.folder=/data"])
    assert (cfg.tools.enabled, cfg.tools.search.results, cfg.tools.folder) == (("python", "search"), 3, "/data")
    server = "{name: notes, command: notes-server, args: [--all, 1]}"
    (read,) = load_config(None, [FULL, "tools.enabled=[python, mcp]", f"tools.mcp=[{server}]"]).tools.mcp
    assert (read.name, read.command, read.args) == ("notes", "notes-server", ("--all", "1"))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["tools.enabled=python,serach", FULL], "tools.enabled: there is no tool 'serach', the nearest is 'search'"),
        (["tools.enabled=python,search"], "set teacher.style=full, whose system prompt shows every tool's schema"),
        (["tools.enabled=search", FULL], "tools.enabled should hold python"),
        (["tools.serach.results=3"], "unknown key 'tools.serach.results'"),
        (["tools.search.result=3"], "unknown key 'tools.search.result'; did you mean tools.search.results?"),
        (["tools.mcp=[{name: a, comand: x}]"], "unknown key 'tools.mcp.0.comand'; did you mean tools.mcp.0.command?"),
        (["tools.mcp=[{name: a}]"], "tools.mcp.0: give either command (started here, stdio) or url (streamable HTTP)"),
        (["tools.vision.model=m"], "tools.vision: base_url and model go together: give both, or none"),
    ],
)
def test_wrong_settings_are_one_line(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets)
    assert message in str(caught.value) and len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_a_run_resumes_with_its_tools_and_no_others(tmp_path: Path) -> None:
    sets = [FULL, "tools.enabled=python,mcp", "tools.mcp=[{name: a, command: x}]", "tools.folder=/here"]
    save_config(load_config(None, sets), tmp_path)
    check_run_dir(tmp_path, load_config(None, [*sets[:3], "tools.folder=/there"]))
    with pytest.raises(ConfigError, match=r"tools\.mcp: .*'x'.* there, .*'y'"):
        check_run_dir(tmp_path, load_config(None, [*sets[:2], "tools.mcp=[{name: a, command: y}]"]))
    assert data_hash(load_config(None, sets)) != data_hash(load_config(None, [FULL]))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["tools.enabled=python,vision"], "tools.vision.base_url and tools.vision.model are not set"),
        (["tools.enabled=python,audio", f"tools.audio={{{ENDPOINT}}}"], "tools.audio.folder is not set"),
        (["tools.enabled=python,mcp"], "tools.mcp has no server"),
        (["tools.enabled=python,mcp", "tools.mcp=[{name: a, command: /no/server}]"], "cannot start '/no/server'"),
    ],
)
def test_a_tool_that_cannot_be_had_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: list[str], message: str
) -> None:
    code = main(["--set", f"out={tmp_path}/runs", "student.model=a/b", FULL, *sets])
    told = capsys.readouterr().err
    assert code == 2 and told.startswith("error: ") and message in told and told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


async def test_a_run_opens_what_is_enabled_and_closes_it(tmp_path: Path) -> None:
    cfg = load_config(
        None, [FULL, "tools.enabled=python,vision", f"tools.vision={{{ENDPOINT}}}", f"tools.folder={tmp_path}"]
    )
    async with open_tools(cfg) as tools:
        assert list(tools) == ["python", "vision"]
        assert (await tools["vision"].call({"file": "a.png"}, key="t")).content == "Error: there is no 'a.png'."
    with pytest.raises(SandboxError, match="closed"):
        await tools["python"].call({"code": "1"}, key="t")
    async with open_tools(load_config()) as tools:
        assert list(tools) == ["python"]


class Fake(Sandbox, Session):
    """A sandbox, and its only session."""

    closed = False

    async def open(self) -> Session:
        return self

    async def run(self, code: str, seconds: float | None = None) -> ExecResult:
        return ExecResult(stop=ExecStop.OK, value=code)

    async def close(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True


def test_local_tools_that_nobody_closes_last_as_long_as_their_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, failures = Fake(), []
    monkeypatch.setattr("tools.registry.open_sandbox", lambda _: sandbox)

    async def leave_open() -> ToolResult:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        tools = await tools_of(VerifierContext())
        gc.collect()
        await asyncio.sleep(0.01)
        return await tools["python"].call({"code": "7"}, key="t")

    assert asyncio.run(leave_open()).content == "7"
    assert sandbox.closed and failures == []


class Search(FakePython):
    name = "search"
    description = "Find pages."
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}  # noqa: RUF012
    example = {"query": "primes"}  # noqa: RUF012


async def test_the_full_prompt_shows_every_tool_and_a_call_reaches_the_one_it_names() -> None:
    call = '<tool_call>{"name": "search", "arguments": %s}</tool_call>'
    chat = FakeChat(replies=script(validate=(call % '{"query": "1+1"}', call % '{"q": 1}', FINDINGS)))
    python, search = FakePython(), Search("found it")
    context = VerifierContext(chat=chat, tools={"python": python, "search": search}, style="full")
    given: Any = {"problem": "1+1?", "solution": "2", "role": "forward_verifier", "trajectory_id": "t1"}
    done = (await build_verifier().ainvoke(given, context=context))["trajectory"]
    block = done.turns[0].prompt[0].content.partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [json.loads(line) for line in block.split("\n")] == [python.schema, search.schema]
    assert done.turns[2].prompt[0].content == "found it"
    assert done.turns[3].prompt[0].content == (
        'Error: search needs the argument "query". Call it with {"name": "search", "arguments": {"query": "primes"}}.'
    )
    assert (search.calls, python.calls) == ([({"query": "1+1"}, "t1")], [])
    assert search.released == python.released == ["t1"]


async def test_the_observation_of_an_unknown_tool_shows_the_form_of_a_call() -> None:
    turn = Turn(stage="validate", prompt=(), content='<tool_call>{"name": "browser", "arguments": {}}</tool_call>')
    (result,) = await run_calls(turn, {"python": FakePython()}, "t", budget=1)
    assert result.content == f"There is no tool 'browser'; there is: python. {CALL_HINT}"
