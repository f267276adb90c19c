"""The scripted agent on blanks: what it searches and reads off, its lapses, and its second attempts."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from agents.protocol import parse_tool_calls
from agents.scripted_agent import ScriptedAgent
from agents.scripted_blanks import BLANK_LAPSES, next_of_blank
from agents.scripted_talk import Talk, read_talk
from graphs.react import build_react
from graphs.react_state import ReactContext
from tools.search import SearchTool
from tools.sections import SearchConfig

QUESTION = "Fill the blank: The mural Blue Harbour was painted by ____ in 1987."
WHOLE = "The mural Blue Harbour was painted by in 1987."
RESULT = (
    "1. Oulu\n   p:1\n   Anton Berg came to Oulu in 1950. The mural Blue Harbour was painted by Karla Lindt in 1987.\n"
    '[results 1-1; for more call search again with "page": 2]'
)
OTHER = (
    '1. Vaasa\n   p:2\n   The mural in Vaasa is by Timo Salo.\n[results 1-1; for more call search again with "page": 2]'
)
SYSTEM = "Tools: search(query, [page], [result])"


def talk(*results: str, attempt: str = "", review: str = "") -> Talk:
    return Talk(QUESTION, SYSTEM, len(results), results, attempt, review)


def step(seen: Talk, lapse: str = "") -> Any:
    """Return the arguments of the call that comes next, or the text that ends it."""
    text = next_of_blank(seen, lapse, random.Random(0))
    calls = parse_tool_calls(text)
    return calls[0].arguments if isinstance(calls, list) and calls else text


def test_it_searches_with_the_whole_sentence_and_reads_the_blank_off() -> None:
    assert step(talk()) == {"query": WHOLE}
    assert step(talk(RESULT)) == "<answer>Karla Lindt</answer>"
    assert step(talk(OTHER)) == {"query": WHOLE, "page": 2}
    assert step(talk(OTHER, RESULT)) == "<answer>Karla Lindt</answer>"
    assert step(talk(OTHER, OTHER)) == "<answer>Vaasa</answer>"  # its best guess
    assert step(talk("No results; try other words.", "There are none on page 2.")) == "<answer>unknown</answer>"
    assert step(talk(OTHER.replace("; for more call search again with", ", the last]"))) == "<answer>Vaasa</answer>"


def test_a_query_is_short_enough() -> None:
    seen = talk()._replace(question="Fill the blank: " + "word " * 100 + "____.")
    assert step(seen)["query"] == ("word " * 60).strip()


def test_lapses() -> None:
    assert step(talk(), "head") == "<answer>Blue Harbour</answer>"
    bare = talk()._replace(question="Fill the blank: it was ____ then.")
    assert step(bare, "head") == "<answer>unknown</answer>"
    assert step(talk(), "second") == {"query": WHOLE}
    assert step(talk(RESULT), "second") == "<answer>Anton Berg</answer>"
    year = "Fill the blank: The mural Blue Harbour was painted by Karla Lindt in ____."
    assert step(talk(RESULT)._replace(question=year), "second") == "<answer>1950</answer>"
    alone = RESULT.replace("Anton Berg came to Oulu in 1950. ", "")
    assert step(talk(alone), "second") == "<answer>Karla Lindt</answer>"  # there is no other name
    assert step(talk(OTHER), "second") == {"query": WHOLE, "page": 2}
    assert step(talk(), "short") == {"query": "The mural Blue"}
    assert step(talk(OTHER), "short") == "<answer>Vaasa</answer>"
    assert step(talk(f"<tool_response>\n{OTHER}\n</tool_response>"), "short") == "<answer>Vaasa</answer>"
    assert step(talk("nothing"), "short") == "<answer>unknown</answer>"
    assert step(talk(), "mute") == {"query": WHOLE}
    assert step(talk(RESULT), "mute") == step(talk(RESULT, ""), "mute") == "I could not find it."


def again(attempt: str, review: str) -> str:
    return f"Question:\n{QUESTION}\n\nEarlier attempt:\n{attempt}\n\nReview:\n{review}\n\n# Again\nAnswer it."


def call(**arguments: Any) -> str:
    return "<tool_call>" + json.dumps({"name": "search", "arguments": arguments}) + "</tool_call>"


def test_a_second_attempt_is_read() -> None:
    attempt = "## Turn 1\nReview:\nnone\n\nEarlier attempt:\n\n## Turn 2\n<answer>x</answer>"
    seen = read_talk([SystemMessage(SYSTEM), HumanMessage(again(attempt, "Nothing was looked up."))])
    assert seen == talk(attempt=attempt, review="Nothing was looked up.")
    asked = [SystemMessage(SYSTEM), HumanMessage(f"Question:\n{QUESTION}")]
    first = read_talk([*asked, AIMessage("a"), ToolMessage("b", tool_call_id="1")])
    assert first == Talk(QUESTION, SYSTEM, 1, ("b",), "", "")


def test_a_second_attempt_begins_with_what_was_not_tried() -> None:
    review = "The sentence is not in what was found: search with more of its words."
    short = (
        f"## Turn 1\n{call(query='The mural Blue')}\n\n## Observation 1\n{OTHER}\n\n## Turn 2\n<answer>Vaasa</answer>"
    )
    assert step(talk(attempt=short, review=review)) == {"query": WHOLE}
    whole = short.replace("The mural Blue", WHOLE)
    assert step(talk(attempt=whole, review=review)) == {"query": WHOLE, "page": 2}
    assert step(talk(OTHER, attempt=whole, review=review)) == {"query": WHOLE, "page": 3}
    found = whole.replace(OTHER, RESULT)
    assert step(talk(attempt=found, review="The answer is not what stands in the sentence found.")) == {"query": WHOLE}


def test_after_a_review_lapses_are_drawn_anew_and_half_as_many() -> None:
    def lapses(text: str, rate: float, n: int = 300) -> list[bool]:
        agent, messages = ScriptedAgent(error_rate=rate), [SystemMessage(SYSTEM), HumanMessage(text)]
        return [agent.reply(messages, session=f"q:{i}") != call(query=WHOLE) for i in range(n)]

    first, second = lapses(f"Question:\n{QUESTION}", 1.0), lapses(again("", "No."), 1.0)
    assert 120 < sum(first) < 180  # of four lapses "head" and "short" begin in another way
    assert 50 < sum(second) < 100 and second != lapses(again("", "Yes."), 1.0)
    assert not any(lapses(again("", "No."), 0.0))
    sums = HumanMessage("Question:\nCalculate 1 + 2.\n\nEarlier attempt:\nx\n\nReview:\nNo.\n\n# Again\n")
    system = SystemMessage("python(code)")
    agent = ScriptedAgent(error_rate=1.0)
    right = [agent.reply([system, sums], session=f"q:{i}").endswith('print(1 + 2)"}}</tool_call>') for i in range(300)]
    assert 165 < sum(right) < 235  # half have no lapse, and of the others a third misreads later


@pytest.fixture
def search(tmp_path: Path) -> SearchTool:
    path = tmp_path / "pages.jsonl"
    pages = [
        {
            "title": "Oulu",
            "text": "Anton Berg came. The mural Blue Harbour was painted by Karla Lindt in 1987.",
        },
        *({"title": f"Village {i}", "text": f"The mural of village {i} is by Timo Salo."} for i in range(8)),
    ]
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    return SearchTool(SearchConfig(corpus=str(path)))


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_the_graph_runs_it(search: SearchTool, style: Any) -> None:
    context = ReactContext(chat=ScriptedAgent(error_rate=0.0), tools={"search": search}, style=style)
    out = await build_react().ainvoke({"problem": QUESTION, "trajectory_id": "q:0"}, context=context)
    assert (out["answer"], out["trajectory"].tool_calls) == ("Karla Lindt", 1)
    lapsed = ReactContext(chat=ScriptedAgent(error_rate=1.0), tools={"search": search}, style=style)
    given = set()
    for i in range(24):
        out = await build_react().ainvoke({"problem": QUESTION, "trajectory_id": f"q:{i}"}, context=lapsed)
        given.add((out["answer"], out["trajectory"].tool_calls))
    assert {calls for _, calls in given} == {0, 1} and "Karla Lindt" not in {answer for answer, _ in given}
    assert len(given) == len(BLANK_LAPSES)
