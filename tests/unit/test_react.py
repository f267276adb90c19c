"""The agent's graph with a fake chat model and fake tools: routing, limits, repeated calls, how each path ends."""

import asyncio
from typing import Any

import pytest

from agents.plain_roles import NO_REVIEW, Earlier, agent_tools, render_agent
from agents.types import ErrorInfo, StopReason, Trajectory, Turn
from graphs.react import build_react
from graphs.react_state import ReactContext
from graphs.react_turns import (
    LAST_STEP,
    NO_CALLS_LEFT,
    NOTHING_DONE,
    Past,
    after_think,
    after_tools,
    call_hint,
    notice,
    past_calls,
    repeated,
    stop_after_act,
)
from tests.unit.fakes import CALL, FakeChat, FakePython, answer
from tools.base import ToolCall, ToolResult
from tools.errors import ModelError, SandboxError, ToolError

ANSWER = "So: <answer>2</answer>"
OTHER = CALL.replace("1+1", "2+2")
SEARCH = '<tool_call>{"name": "search", "arguments": {"code": "primes"}}</tool_call>'


class FakeSearch(FakePython):
    name = "search"
    description = "Find pages."


async def run(chat: FakeChat, tool: FakePython | None = None, **limits: Any) -> tuple[Trajectory, str | None]:
    """Run the agent on a small question."""
    tool = tool or FakePython()
    tools = limits.pop("tools", {tool.name: tool})
    context = ReactContext(chat=chat, tools=tools, **limits)
    out = await build_react().ainvoke({"problem": "1+1?", "trajectory_id": "t1"}, context=context)
    return out["trajectory"], out["answer"]


def says(*replies: Any) -> FakeChat:
    return FakeChat(replies={"act": list(replies)})


def turn(content: str, calls: int = 0, tokens: int = 0, finish: str = "stop") -> Turn:
    code = ToolCall(name="python", arguments={"code": "1"})
    return Turn(
        stage="act", prompt=(), content=content, tool_calls=(code,) * calls, prompt_tokens=tokens, finish_reason=finish
    )


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "stop"),
    [
        ([turn(ANSWER)], StopReason.COMPLETED),
        ([turn(r"\boxed{2}")], StopReason.COMPLETED),
        ([turn(CALL, 1)], None),
        ([turn(f"{CALL}{ANSWER}", 1)], None),
        ([turn("<tool_call>{")], None),
        ([turn("hm")], None),
        ([turn("hm"), turn("hm")], StopReason.UNPARSED),
        ([turn("hm"), turn(CALL, 1), turn("hm")], None),
        ([turn("hm"), turn("<tool_call>{"), turn("hm")], None),
        ([turn(ANSWER, finish="length")], StopReason.LENGTH),
        ([turn(CALL, 1, tokens=500, finish="length")], StopReason.MAX_TOKENS),
        ([turn(CALL, 1)] * 3, StopReason.MAX_TOOL_CALLS),
        ([turn(CALL, 1)] * 2 + [turn("<tool_call>{")], StopReason.MAX_TOOL_CALLS),
        ([turn(CALL, 2), turn(ANSWER)], StopReason.COMPLETED),
        ([turn("<tool_call>{")] * 4, StopReason.MAX_TURNS),
        ([*[turn("<tool_call>{")] * 3, turn("hm")], StopReason.MAX_TURNS),
        ([*[turn("<tool_call>{")] * 3, turn(ANSWER)], StopReason.COMPLETED),
    ],
)
def test_when_it_stops(turns: list[Turn], stop: StopReason | None) -> None:
    context = ReactContext(max_turns=4, max_tool_calls=2, max_trajectory_tokens=500)
    assert stop_after_act(turns, context) is stop


def test_where_it_goes() -> None:
    assert after_think({"turns": turn(CALL)}) == after_think({"turns": turn("<tool_call>{")}) == "tools"
    assert after_think({"turns": turn("hm")}) == "think"
    assert after_think({"turns": turn(CALL), "stop": StopReason.MAX_TURNS}) == "finish"
    assert after_think({"stop": StopReason.ERROR}) == "finish"
    assert (after_tools({"turns": []}), after_tools({"stop": StopReason.ERROR})) == ("think", "finish")


def test_what_the_model_is_told_of_its_limits() -> None:
    context = ReactContext(max_turns=3, max_tool_calls=2, max_tokens=10, max_trajectory_tokens=100)
    assert notice([turn(CALL, 1)], context) == ""
    assert notice([turn(CALL, 1)] * 2, context) == LAST_STEP
    assert notice([turn(CALL, 2)], context) == NO_CALLS_LEFT
    assert notice([turn(CALL, 1, tokens=80)], context) == ""
    assert notice([turn(CALL, 1, tokens=81)], context) == LAST_STEP  # 19 left, which is less than two steps


def call(name: str = "search", **arguments: Any) -> ToolCall:
    return ToolCall(name=name, arguments=arguments)


@pytest.mark.parametrize(
    ("past", "asked", "step"),
    [
        ([], call(q="a"), None),
        ([Past(1, call(q="a"), True)], call(q="a"), 1),
        ([Past(1, call(q="a"), True)], call(q="b"), None),
        ([Past(1, call(q="a"), True)], call("browse", q="a"), None),
        ([Past(1, call(q="a", n=1), True)], call(n=1, q="a"), 1),  # the order of arguments means nothing
        ([Past(1, call(q="a"), True), Past(2, call(q="b"), True)], call(q="a"), 1),
        ([Past(1, call(q="a"), False)], call(q="a"), None),  # a failure may be tried again, once
        ([Past(1, call(q="a"), False), Past(2, call(q="a"), False)], call(q="a"), 2),
        ([Past(1, call("python", code="x"), True)], call("python", code="x"), 1),
        ([Past(1, call("python", code="x"), True), Past(2, call(q="b"), True)], call("python", code="x"), 1),
        (
            [Past(1, call("python", code="x"), True), Past(2, call("python", code="x = 2"), True)],
            call("python", code="x"),
            None,  # x may be another one now
        ),
    ],
)
def test_which_calls_are_repeated(past: list[Past], asked: ToolCall, step: int | None) -> None:
    assert repeated(asked, past) == step


def test_past_calls_are_those_with_results() -> None:
    ran = turn(CALL, 2).model_copy(
        update={"results": (ToolResult(name="python", content="2"), ToolResult(name="python", content="e", ok=False))}
    )
    assert [(p.step, p.ok) for p in past_calls([turn("hm"), ran, turn(CALL, 1)])] == [(2, True), (2, False)]


# --- the graph -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_a_whole_trajectory(style: Any) -> None:
    chat, tool = says(f"Let me see. {CALL}", ANSWER), FakePython()
    made, given = await run(chat, tool, style=style, temperature=0.5, max_tokens=100)
    assert (made.role, made.model, made.stop_reason, given) == ("agent", "fake", StopReason.COMPLETED, "2")
    assert [t.stage for t in made.turns] == ["act", "act"] and made.tool_calls == 1 and made.verdict is None
    assert [[m.role for m in t.prompt] for t in made.turns] == [["system", "user"], ["tool"]]
    assert made.turns[0].prompt[1].content == "Question:\n1+1?"
    assert made.turns[1].prompt[0].content == "2"
    assert (tool.calls, tool.released) == ([({"code": "print(1+1)"}, "t1")], ["t1"])
    settings = chat.sent[0][1]
    assert (settings["session"], settings["stage"], settings["max_tokens"]) == ("t1", "act", 100)
    assert (settings["temperature"], settings["top_logprobs"]) == (0.5, None)


async def test_each_step_is_sent_the_whole_conversation_so_far() -> None:
    chat = says(CALL, "hm", OTHER, ANSWER)
    made, _ = await run(chat)
    conversation = [m.content for m in made.messages]
    assert [len(messages) for messages, _ in chat.sent] == [2, 4, 6, 8]
    for messages, _ in chat.sent:
        assert [m.content for m in messages] == conversation[: len(messages)]


async def test_an_answer_beside_a_call_counts_for_nothing() -> None:
    made, given = await run(says(f"{CALL}<answer>99</answer>", ANSWER))
    assert (given, len(made.turns), made.tool_calls) == ("2", 2, 1)


async def test_a_reply_that_does_nothing_is_pointed_out_once() -> None:
    made, given = await run(says("hm", ANSWER))
    assert given == "2" and [m.role for m in made.turns[1].prompt] == ["user"]
    assert made.turns[1].prompt[0].content == NOTHING_DONE
    made, given = await run(says("hm", "hm", ANSWER))
    assert (made.stop_reason, given, len(made.turns)) == (StopReason.UNPARSED, None, 2)


async def test_a_repeated_call_is_pointed_out_and_not_run() -> None:
    tool = FakePython()
    made, given = await run(says(CALL, CALL, CALL + CALL, OTHER + OTHER, ANSWER), tool)
    assert given == "2" and [arguments["code"] for arguments, _ in tool.calls] == ["print(1+1)", "print(2+2)"]
    told = [r.content for t in made.turns for r in t.results if not r.ok]
    assert len(told) == 4 and all("this very call was made" in text for text in told)
    assert "in step 1" in told[0] and "in step 2" in told[1] and "in this step" in told[3]
    assert made.turns[2].prompt[0].content == told[0]


async def test_a_call_that_failed_is_tried_again_once() -> None:
    class Refusing(FakePython):
        async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
            await super()._run(arguments, key)
            return self.refused("no such page")

    tool = Refusing()
    made, _ = await run(says(CALL, CALL, CALL, ANSWER), tool)
    assert len(tool.calls) == 2
    assert ["very call" in t.results[0].content for t in made.turns[:3]] == [False, False, True]


async def test_several_tools_and_what_there_is_none_of() -> None:
    tools = {"python": FakePython(), "search": FakeSearch("found")}
    made, _ = await run(says(SEARCH + CALL, SEARCH.replace("search", "fly"), "<tool_call>{", ANSWER), tools=tools)
    assert [r.content for r in made.turns[0].results] == ["found", "2"]
    assert "There is no tool 'fly'; there is: python, search." in made.turns[1].results[0].content
    assert made.turns[2].results[0].content.startswith("The tool call is malformed")
    for at in (1, 2):
        assert call_hint(tools) in made.turns[at].results[0].content
        assert '<tool_call>{"name": "python"' in made.turns[at].results[0].content


@pytest.mark.parametrize(
    ("replies", "limits", "stop", "turns"),
    [
        ([CALL, OTHER, ANSWER], {"max_turns": 2}, StopReason.MAX_TURNS, 2),
        (["<tool_call>{"], {}, StopReason.MAX_TURNS, 13),
        ([CALL + OTHER, CALL], {"max_tool_calls": 1}, StopReason.MAX_TOOL_CALLS, 2),
        ([CALL], {"max_tool_calls": 0}, StopReason.MAX_TOOL_CALLS, 1),
        ([answer(CALL, (900, 200)), ANSWER], {"max_trajectory_tokens": 1000}, StopReason.MAX_TOKENS, 1),
        ([answer(ANSWER, finish_reason="length")], {}, StopReason.LENGTH, 1),
    ],
)
async def test_every_limit_has_its_reason_and_no_answer(
    replies: list[Any], limits: dict[str, Any], stop: StopReason, turns: int
) -> None:
    tool = FakePython()
    made, given = await run(says(*replies), tool, **limits)
    assert (made.stop_reason, given, made.error, len(made.turns)) == (stop, None, None, turns)
    assert tool.released == (["t1"] if made.tool_calls else [])


async def test_the_last_step_is_announced_and_its_calls_are_not_run() -> None:
    tool = FakePython()
    made, _ = await run(says(CALL, OTHER), tool, max_turns=2)
    assert made.turns[1].prompt[0].content == f"2\n{LAST_STEP}"
    assert len(tool.calls) == 1 and made.turns[1].results == ()
    made, _ = await run(says("hm", ANSWER), max_turns=2)
    assert made.turns[1].prompt[0].content == f"{NOTHING_DONE}\n{LAST_STEP}"


async def test_calls_beyond_the_limit_are_refused() -> None:
    tool = FakePython()
    made, given = await run(says(CALL + OTHER, ANSWER), tool, max_tool_calls=1)
    assert given == "2" and len(tool.calls) == 1
    assert made.turns[1].prompt[0].content.endswith(f"Not run: no tool calls left.\n{NO_CALLS_LEFT}")


async def test_a_step_gets_no_more_tokens_than_the_trajectory_has_left() -> None:
    chat = says(answer(CALL, (950, 20)), ANSWER)
    await run(chat, max_tokens=64, max_trajectory_tokens=1000)
    assert [kwargs["max_tokens"] for _, kwargs in chat.sent] == [64, 30]


@pytest.mark.parametrize(
    ("replies", "reply", "kind", "where", "turns"),
    [
        ([ModelError("down")], "2", "ModelError", "think", 0),
        ([CALL, ModelError("down")], "2", "ModelError", "think", 1),
        ([CALL, ANSWER], SandboxError("down"), "SandboxError", "tools", 1),
        ([CALL, ANSWER], ToolError("down"), "ToolError", "tools", 1),
    ],
)
async def test_an_outage_is_a_record_and_no_answer(
    replies: list[Any], reply: Any, kind: str, where: str, turns: int
) -> None:
    tool = FakePython(reply)
    made, given = await run(says(*replies), tool)
    assert (made.stop_reason, given, len(made.turns)) == (StopReason.ERROR, None, turns)
    assert made.error == ErrorInfo(kind=kind, message="down", where=where)
    assert tool.released == (["t1"] if tool.calls else [])


async def test_time_limit_stops_a_slow_model_and_a_slow_tool() -> None:
    chat = FakeChat(replies={"act": [ANSWER]}, delay=5.0)
    made, given = await run(chat, max_seconds=0.05)
    assert (made.stop_reason, given, made.turns) == (StopReason.MAX_SECONDS, None, ())
    tool = FakePython(delay=5.0)
    made, _ = await run(says(CALL), tool, max_seconds=0.2)
    assert (made.stop_reason, len(made.turns), tool.released) == (StopReason.MAX_SECONDS, 1, ["t1"])


async def test_a_failed_teardown_does_not_undo_the_trajectory(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(FakePython):
        async def release(self, key: str) -> None:
            raise SandboxError("stuck")

    made, given = await run(says(CALL, ANSWER), Stuck())
    assert (made.stop_reason, given) == (StopReason.COMPLETED, "2") and "stuck" in caplog.text


async def test_many_steps_are_no_graph_recursion() -> None:
    made, _ = await run(says("<tool_call>{"), max_turns=120)
    assert (made.stop_reason, len(made.turns)) == (StopReason.MAX_TURNS, 120)


async def test_the_key_follows_prompts_and_tools() -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"style": "full"},
        {"tools": {"python": FakePython(), "search": FakeSearch()}},
    ]
    made = [(await run(says(ANSWER), **more))[0].prompt_version for more in settings]
    assert len(set(made)) == 3


async def test_ids_are_fresh_where_none_is_given() -> None:
    chat = says(ANSWER)
    context = ReactContext(chat=chat, tools={"python": FakePython()})
    await asyncio.gather(*(build_react().ainvoke({"problem": "p"}, context=context) for _ in range(3)))
    assert len({kwargs["session"] for _, kwargs in chat.sent}) == 3


# --- settings and prompts --------------------------------------------------------------------------------------------


def test_the_limits_of_training_are_the_defaults() -> None:
    context = ReactContext()
    assert (context.max_turns, context.max_trajectory_tokens) == (13, 16384 + 11000)
    assert context.tool_settings.enabled == ("python",)
    more = ReactContext(enabled=("python", "search"), corpus="c.jsonl").tool_settings
    assert (more.enabled, more.search.corpus) == (("python", "search"), "c.jsonl")


@pytest.mark.parametrize("wrong", [{"max_turns": 0}, {"enabled": ()}, {"enabled": ("files",)}, {"mcp": []}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ReactContext(**wrong)


@pytest.mark.parametrize("earlier", [Earlier("I tried {tools}.", r"\1 {review}"), ["I tried {tools}.", r"\1 {review}"]])
async def test_an_earlier_attempt_stands_in_the_first_prompt_alone(earlier: Any) -> None:
    """Also where it comes as JSON, and whatever it holds."""
    chat = says(CALL, ANSWER)
    context = ReactContext(chat=chat, tools={"python": FakePython()})
    out = await build_react().ainvoke({"problem": "1+1?", "earlier": earlier}, context=context)
    first, second = (turn.prompt for turn in out["trajectory"].turns)
    told = "Question:\n1+1?\n\nEarlier attempt:\nI tried {tools}.\n\nReview:\n\\1 {review}\n\n# Again\nAnswer it"
    assert first[1].content == f"{told} anew, mended." and [m.role for m in second] == ["tool"]
    assert first[0] == render_agent("compact", "1+1?", "python(code)")[0] and out["answer"] == "2"


@pytest.mark.parametrize("style", ["compact", "full"])
def test_an_attempt_without_a_review_says_so(style: str) -> None:
    user = render_agent(style, "q", "", Earlier("a", ""))[1].content
    assert user.startswith(f"Question:\nq\n\nEarlier attempt:\na\n\nReview:\n{NO_REVIEW}\n\n# Again\n")


@pytest.mark.parametrize("problem", ["{tools} and {problem}", r"\frac{1}{2} \1", "<answer>1</answer>"])
def test_prompts_take_any_question(problem: str) -> None:
    tools = [FakePython(), FakeSearch()]
    for style in ("compact", "full"):
        told = agent_tools(style, tools)
        system, user = render_agent(style, problem, told)
        assert user.content == f"Question:\n{problem}" and told in system.content and "<answer>" in system.content
    assert agent_tools("compact", tools) == "python(code), search(code)"
    assert '"name": "search"' in agent_tools("full", tools)
