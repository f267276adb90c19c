"""The scripted agent: what it reads and calls, that careful ones are right where that can be had, and its lapses."""

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from agents.models import open_chat
from agents.reading import best_names, content_words
from agents.scripted_agent import ScriptedAgent, code_for
from agents.types import StopReason, Trajectory
from graphs.react import build_react
from graphs.react_state import ReactContext
from tests.unit.fakes import FakePython
from tools.base import Tool, ToolResult
from tools.errors import ModelError
from tools.search import SearchTool
from tools.sections import SearchConfig

PAGES = (
    (
        "Karla Lindt",
        "Karla Lindt is a painter from Tampere. The mural Blue Harbour was painted by Karla Lindt in 1987.",
    ),
    ("Blue Harbour", "Blue Harbour is a mural in the town hall of Oulu."),
    ("Anton Berg", "Anton Berg was a composer. He wrote three operas."),
)
QUESTION = "Who painted the mural Blue Harbour?"


class Calculator(FakePython):
    """Runs a program of the scripted agent in this process."""

    async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
        await super()._run(arguments, key)
        printed: list[str] = []
        exec(arguments["code"], {"print": lambda value: printed.append(str(value))})
        return ToolResult(name=self.name, content="\n".join(printed))


@pytest.fixture
def search(tmp_path: Path) -> SearchTool:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"title": title, "text": text}) + "\n" for title, text in PAGES))
    return SearchTool(SearchConfig(corpus=str(path)))


async def ask(
    question: str, tools: dict[str, Tool], agent: ScriptedAgent, sample: int = 0, **limits: Any
) -> tuple[Trajectory, str | None]:
    context = ReactContext(chat=agent, tools=tools, **limits)
    out = await build_react().ainvoke({"problem": question, "trajectory_id": f"q:{sample}"}, context=context)
    return out["trajectory"], out["answer"]


@pytest.mark.parametrize("style", ["compact", "full"])
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Calculate 12 + 30 - 5.", "37"),
        ("Solve for e: 56 - 98*e = -1218", "13"),
        ("Solve for x: 2*x + 1 = 4", "3/2"),
        ("What is 7 * (2 + 3)?", "35"),
    ],
)
async def test_sums_are_given_to_python(question: str, answer: str, style: Any) -> None:
    made, given = await ask(question, {"python": Calculator()}, ScriptedAgent(error_rate=0.0), style=style)
    assert (given, made.stop_reason, made.tool_calls) == (answer, StopReason.COMPLETED, 1)
    assert made.turns[0].results[0].ok


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_other_questions_are_looked_up_and_read(search: SearchTool, style: Any) -> None:
    tools: dict[str, Tool] = {"search": search}
    made, given = await ask(QUESTION, tools, ScriptedAgent(error_rate=0.0), style=style)
    assert (given, made.stop_reason) == ("Karla Lindt", StopReason.COMPLETED)
    assert [t.tool_calls[0].arguments.get("result") for t in made.turns[:-1]] == [None, 1, 2]
    assert all(r.ok for t in made.turns for r in t.results)


async def test_lapses_are_of_several_kinds(search: SearchTool) -> None:
    agent = ScriptedAgent(error_rate=1.0)
    sums = [await ask("Calculate 12 + 30 - 5.", {"python": Calculator()}, agent, i) for i in range(12)]
    assert all(given != "37" for _, given in sums)
    assert {made.tool_calls for made, _ in sums} == {0, 1}
    tools: dict[str, Tool] = {"search": search}
    texts = [await ask(QUESTION, tools, agent, i) for i in range(24)]
    assert {made.stop_reason for made, _ in texts} == {StopReason.COMPLETED, StopReason.UNPARSED}
    told = [r.content for made, _ in texts for t in made.turns for r in t.results if not r.ok]
    assert told and all("this very call was made" in text for text in told)
    assert any(given not in ("Karla Lindt", None) for _, given in texts)


async def test_skill_is_the_share_without_a_lapse() -> None:
    agent = open_chat("scripted-agent", error_rate=0.4, seed=1)
    assert isinstance(agent, ScriptedAgent) and agent.skill == pytest.approx(0.6)
    tools: dict[str, Tool] = {"python": Calculator()}
    right = [(await ask(f"Calculate {10 + i} + 58 - 19.", tools, agent))[1] == str(49 + i) for i in range(60)]
    assert 0.4 < sum(right) / len(right) < 0.8
    again = await ask("Calculate 11 + 58 - 19.", tools, ScriptedAgent(error_rate=0.4, seed=1))
    assert again[1] == (await ask("Calculate 11 + 58 - 19.", tools, agent))[1]


async def test_without_the_tool_it_does_not_pretend_to_have_called_it(search: SearchTool) -> None:
    made, given = await ask(QUESTION, {"python": Calculator()}, ScriptedAgent(error_rate=0.0))
    assert (given, made.tool_calls) == ("unknown", 0)
    made, given = await ask("Calculate 12 + 30 - 5.", {"search": search}, ScriptedAgent(error_rate=0.0))
    assert made.tool_calls == 0 and given is not None


class Files(FakePython):
    name = "files"
    description = "Read files."
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}}  # noqa: RUF012


async def test_an_attached_file_is_read() -> None:
    tool = Files("notes.txt\n\nThe mural Blue Harbour was painted by Karla Lindt.")
    _, given = await ask(f"{QUESTION}\n\nAttached file: notes.txt", {"files": tool}, ScriptedAgent(error_rate=0.0))
    assert tool.calls[0][0] == {"path": "notes.txt"} and given == "Karla Lindt"


def test_it_reads_agents_conversations_only() -> None:
    with pytest.raises(ModelError, match="reads an agent's conversations only"):
        ScriptedAgent().invoke([HumanMessage("Problem:\n1+1?")])


@pytest.mark.parametrize("question", ["Who was first?", "Which year is 1987 + a?", ""])
def test_what_is_no_sum_has_no_program(question: str) -> None:
    assert code_for(question) == ""


@pytest.mark.parametrize(
    ("question", "text", "first"),
    [
        ("Where was Karla Lindt born?", "It rained. Karla Lindt was born in Tampere.", "Tampere"),
        ("When was the mural painted?", "The town has 3 halls. The mural was painted in 1987.", "1987"),
        ("Is Oulu a town?", "Oulu is a town.", "yes"),
        ("Is Oulu a village?", "Oulu is a town.", "no"),
    ],
)
def test_reading(question: str, text: str, first: str) -> None:
    assert best_names(question, [text])[0] == first


def test_reading_names_nothing_of_the_question() -> None:
    assert best_names("Who is Karla Lindt?", ["Karla Lindt."]) == []
    assert best_names("Who?", []) == [] and content_words("The Oulu of 1987") == {"oulu", "1987"}
