"""Who takes part in an answer beside the policy: opened where they are needed, closed whatever happens."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from graphs.state import VerifierContext
from tools.errors import ConfigError, SandboxError
from train import recipes
from train.recipes import Around
from train.settings import Answerer, JudgeConfig

TOOLS = {"search": "the search"}


class Doors:
    """Keeps what was opened and closed, in order; what is in `shut` cannot be opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *shut: str) -> None:
        """Take the judge's place, and that of the tools."""
        self.shut, self.log, self.judges = shut, [], []
        monkeypatch.setattr(recipes, "open_judge", self.judge)

    def around(self, answers: Answerer) -> Around:
        """Return what rollouts are made with."""
        return Around(VerifierContext(), self.tools, JudgeConfig(concurrency=7), answers)

    @asynccontextmanager
    async def judge(self, settings: JudgeConfig) -> AsyncIterator[Any]:
        """Open the judge."""
        self.judges.append(settings)
        async with self.open("judge", ConfigError("no such judge")):
            yield "the judge"

    @asynccontextmanager
    async def tools(self) -> AsyncIterator[Any]:
        """Open the tools."""
        async with self.open("tools", SandboxError("no sandbox")):
            yield TOOLS

    @asynccontextmanager
    async def open(self, name: str, error: Exception) -> AsyncIterator[None]:
        """Open one of them."""
        if name in self.shut:
            raise error
        self.log.append(f"{name} open")
        try:
            yield
        finally:
            self.log.append(f"{name} closed")


@pytest.mark.parametrize(
    ("answers", "tools", "log"),
    [
        ("solver", {}, ["judge open", "in use", "judge closed"]),
        ("agent", TOOLS, ["judge open", "tools open", "in use", "tools closed", "judge closed"]),
    ],
)
async def test_tools_are_opened_where_the_agent_answers(
    answers: Answerer, tools: Any, log: list[str], monkeypatch: pytest.MonkeyPatch
):
    doors = Doors(monkeypatch)
    async with doors.around(answers).open_parties() as parties:
        doors.log.append("in use")
        assert (parties.judge, parties.tools) == ("the judge", tools)
    assert doors.log == log and doors.judges == [JudgeConfig(concurrency=7)]


def test_the_solver_answers_unless_it_is_said():
    assert Around(VerifierContext(), None).answers == "solver"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("answers", ["solver", "agent"])
async def test_all_are_closed_when_the_rollouts_fail(answers: Answerer, monkeypatch: pytest.MonkeyPatch):
    doors = Doors(monkeypatch)
    with pytest.raises(ValueError, match="in the rollouts"):
        async with doors.around(answers).open_parties():
            raise ValueError("in the rollouts")
    opened = [line.split()[0] for line in doors.log if line.endswith("open")]
    assert sorted(line.split()[0] for line in doors.log if line.endswith("closed")) == sorted(opened) != []


@pytest.mark.parametrize(
    ("shut", "error", "told"), [("judge", ConfigError, "no such judge"), ("tools", SandboxError, "no sandbox")]
)
async def test_nothing_stays_open_when_one_cannot_be_opened(
    shut: str, error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
):
    doors = Doors(monkeypatch, shut)
    with pytest.raises(error, match=told):
        async with doors.around("agent").open_parties():
            raise AssertionError("it was opened")
    assert sum(line.endswith("open") for line in doors.log) == sum(line.endswith("closed") for line in doors.log)
    assert ("judge open" in doors.log) is (shut == "tools")
