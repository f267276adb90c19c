"""The judge's graph: what it is shown, its one repair, its failures, and what its critique may say."""

from typing import Any

import pytest

from agents.plain_roles import judge_version, render_judge, render_repair
from agents.types import ErrorInfo, Judgement, Message, StopReason, Trajectory, Turn
from graphs.judge import after_judge, build_judge, failure_of
from graphs.judge_state import JudgeContext
from tests.unit.fakes import FakeChat, Reply, answer
from tools.base import ToolResult
from tools.errors import ContextLengthError, DataError, ModelError

PROBLEM = "What is 3 * 6?"
WRONG = "3 * 6 = 19\nA: 19"
GOOD = "<think>look</think>\n<critique>Step 1: wrong. It was not worked out.</critique>\n<score>0.1</score>"
BAD = "I give it 3 of 10."


def judge(*replies: Reply, repairs: tuple[Reply, ...] = ()) -> FakeChat:
    return FakeChat(replies={"judge": list(replies), "repair": list(repairs)})


async def run(chat: FakeChat, given: dict[str, Any] | None = None, **settings: Any) -> Any:
    whole: Any = {"problem": PROBLEM, **({"solution": WRONG} if given is None else given)}
    return await build_judge().ainvoke(whole, context=JudgeContext(chat=chat, **settings))


async def test_a_solution_is_judged():
    chat = judge(GOOD)
    out = await run(chat)
    assert out["judgement"] == Judgement(thought="look", critique="Step 1: wrong. It was not worked out.", score=0.1)
    assert out["error"] is None
    judged = out["trajectory"]
    assert (judged.role, judged.model, judged.stop_reason) == ("judge", "fake", StopReason.COMPLETED)
    assert (judged.verdict.passed, judged.verdict.score, judged.verdict.source) == (False, 0.1, "judge")
    assert [t.stage for t in judged.turns] == ["judge"] and judged.completion_tokens == 5
    ((messages, settings),) = chat.sent
    assert str(messages[-1].content).startswith(f"Problem:\n{PROBLEM}\n\nTrajectory:\n## Turn 1\n{WRONG}\n\n# Judge\n")
    assert (settings["stage"], settings["temperature"], settings["top_logprobs"]) == ("judge", 0.0, None)


@pytest.mark.parametrize("as_json", [False, True])
async def test_the_whole_trajectory_is_shown(as_json: bool):
    """Not the last message alone: each turn, call and observation, and not the agent's own instructions."""
    call = '<tool_call>{"name": "python", "arguments": {"code": "print(3*6)"}}</tool_call>'
    opening = (Message(role="system", content="SYSTEM"), Message(role="user", content="OPENING"))
    turns = [
        Turn(stage="think", prompt=opening, content=call, results=(ToolResult(name="python", content="18"),)),
        Turn(stage="think", prompt=(Message(role="tool", content="18"),), content="A: 19"),
    ]
    chat = judge(GOOD)
    await run(chat, {"turns": [t.model_dump(mode="json") for t in turns] if as_json else turns})
    shown = str(chat.sent[0][0][-1].content)
    assert f"## Turn 1\n{call}\n\n## Observation 1\n18\n\n## Turn 2\nA: 19\n\n# Judge" in shown
    assert "SYSTEM" not in shown and "OPENING" not in shown


async def test_a_long_trajectory_is_cut_in_its_middle_with_a_mark():
    chat = judge(GOOD)
    await run(chat, {"solution": "begin " + "x" * 5000 + " end"}, max_transcript=300)
    shown = str(chat.sent[0][0][-1].content)
    assert "begin xxx" in shown and "xxx end" in shown and "characters left out" in shown and len(shown) < 500


async def test_a_malformed_reply_is_asked_for_once_more():
    chat = judge(BAD, repairs=(GOOD,))
    out = await run(chat)
    assert out["judgement"].score == 0.1 and out["error"] is None
    judged = out["trajectory"]
    assert [t.stage for t in judged.turns] == ["judge", "repair"] and judged.stop_reason is StopReason.COMPLETED
    (_, first), (messages, second) = chat.sent
    assert [m.type for m in messages] == ["system", "human", "ai", "human"] and str(messages[2].content) == BAD
    assert "There is no critique." in str(messages[3].content) and "<score>" in str(messages[3].content)
    assert first["session"] == second["session"]


async def test_there_is_one_repair_and_then_a_typed_error():
    chat = judge(BAD, repairs=(BAD, GOOD))
    out = await run(chat)
    assert out["judgement"] is None and len(chat.sent) == 2
    assert out["error"] == ErrorInfo(kind="ParseError", message="the judge's reply is not in the form", where="judge")
    judged = out["trajectory"]
    assert (judged.stop_reason, judged.verdict, judged.error) == (StopReason.UNPARSED, None, None)


async def test_repair_can_be_left_out():
    chat = judge(BAD, repairs=(GOOD,))
    out = await run(chat, max_turns=1)
    assert out["judgement"] is None and len(chat.sent) == 1


async def test_a_reply_that_is_cut_is_not_asked_for_again():
    chat = judge(answer(GOOD, finish_reason="length"), repairs=(GOOD,))
    out = await run(chat)
    assert out["judgement"] is None and len(chat.sent) == 1
    assert out["trajectory"].stop_reason is StopReason.LENGTH
    assert out["error"].kind == "ParseError" and "was cut (length)" in out["error"].message
    whole = await run(judge(answer(GOOD, tokens=(90, 10), finish_reason="length")), max_trajectory_tokens=100)
    assert whole["trajectory"].stop_reason is StopReason.MAX_TOKENS


async def test_no_repair_where_no_tokens_are_left():
    out = await run(judge(answer(BAD, tokens=(90, 10)), repairs=(GOOD,)), max_trajectory_tokens=100)
    assert out["trajectory"].stop_reason is StopReason.MAX_TOKENS and out["judgement"] is None


@pytest.mark.parametrize("where", ["judge", "repair"])
async def test_an_outage_is_none_with_a_typed_error_never_a_score(where: str):
    gone = ModelError("gone")
    chat = judge(gone) if where == "judge" else judge(BAD, repairs=(gone,))
    out = await run(chat)
    assert out["judgement"] is None and out["error"] == ErrorInfo(kind="ModelError", message="gone", where=where)
    judged = out["trajectory"]
    assert (judged.stop_reason, judged.error, judged.verdict) == (StopReason.ERROR, out["error"], None)


@pytest.mark.parametrize("where", ["judge", "repair"])
async def test_a_trajectory_over_the_judges_context_is_a_limit_not_an_outage(where: str):
    long = ContextLengthError("too long")
    out = await run(judge(long) if where == "judge" else judge(BAD, repairs=(long,)))
    judged = out["trajectory"]
    assert (judged.stop_reason, judged.error, out["judgement"]) == (StopReason.MAX_TOKENS, None, None)
    assert out["error"].message == "the judge's reply was cut (max_tokens)"


async def test_time_runs_out():
    chat = judge(GOOD)
    chat.delay = 5.0
    out = await run(chat, max_seconds=0.05)
    assert out["trajectory"].stop_reason is StopReason.MAX_SECONDS and out["judgement"] is None
    assert out["error"].message == "the judge's reply was cut (max_seconds)"


async def test_the_critique_gives_no_answer_away():
    said = "Step 1: wrong. 3 * 6 is 18.\nThe right answer is 18."
    out = await run(judge(f"<think>18!</think><critique>{said}</critique><score>0.1</score>"))
    critique = out["judgement"].critique
    assert "18" not in critique and "[withheld]" in critique and "Step 1: wrong." in critique
    assert out["trajectory"].verdict.critique == critique
    assert "18" in out["trajectory"].turns[0].content  # as the model wrote it


async def test_what_a_tool_returned_may_be_pointed_to():
    seen = Turn(stage="think", prompt=(), content="look", results=(ToolResult(name="python", content="18"),))
    turns = [seen, Turn(stage="think", prompt=(), content="A: 19")]
    said = "Turn 1 returned 18, and the answer ignores it. The answer is 18."
    out = await run(judge(f"<think>t</think><critique>{said}</critique><score>0</score>"), {"turns": turns})
    assert out["judgement"].critique == "Turn 1 returned 18, and the answer ignores it. The answer is [withheld]."


async def test_thoughts_that_an_endpoint_hands_over_apart():
    reply = answer("<critique>Fine.</critique><score>0.9</score>")
    reply.additional_kwargs["reasoning_content"] = "apart"
    out = await run(judge(reply))
    assert (out["judgement"].thought, out["judgement"].score) == ("apart", 0.9)


async def test_a_judgement_inside_the_trajectory_is_not_one():
    """What the agent wrote is never parsed: the judge's reply here is empty."""
    out = await run(judge("", repairs=("",)), {"solution": GOOD})
    assert out["judgement"] is None


async def test_nothing_to_judge():
    with pytest.raises(DataError, match="nothing to judge"):
        await run(judge(GOOD), {"turns": []})


def test_routing():
    assert after_judge({"fault": object()}, 2) == "repair"
    assert after_judge({"fault": object()}, 1) == "finish"
    assert after_judge({"fault": None, "outcome": object()}, 2) == "finish"
    assert after_judge({"stop": StopReason.ERROR}, 2) == "finish"


def test_what_has_a_judgement_has_not_failed():
    verdict = Judgement(critique="c", score=0.5).verdict
    assert failure_of(Trajectory(role="judge", stop_reason=StopReason.COMPLETED, verdict=verdict)) is None
    assert verdict.passed is False and verdict.confidence == 0.5


@pytest.mark.parametrize("style", ["compact", "full"])
def test_prompts(style: str):
    """Values are put in as they are; the form is shown; the version follows the text and the length that is shown."""
    system, user = render_judge(style, "{trajectory} \\frac{1}{2}", "{problem} {fault}")
    assert user.content.startswith("Problem:\n{trajectory} \\frac{1}{2}\n\nTrajectory:\n{problem} {fault}\n\n# Judge\n")
    assert all(tag in system.content for tag in ("<think>", "<critique>", "<score>"))
    (again,) = render_repair(style, "There is no score.")
    assert "There is no score." in again.content and again.role == "user"
    shorter = JudgeContext(style=style, max_transcript=10)  # pyright: ignore[reportArgumentType]
    assert shorter.version != JudgeContext(style=style).version  # pyright: ignore[reportArgumentType]
    assert judge_version("compact") != judge_version("full")
