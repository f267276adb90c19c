"""The graphs with a fake chat model and a fake tool: what is asked, what is recorded, and how each path ends."""

import asyncio
import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.graph.state import CompiledStateGraph
from pydantic import Field

from agents.scripted_teacher import ScriptedTeacher
from agents.types import Candidate, Message, StepFinding, StopReason, Task, Trajectory, Verdict
from graphs.bidirectional import build_bidirectional
from graphs.opened import tools_of
from graphs.state import BidirectionalContext, BidirectionalInput, TeacherContext, VerifierContext
from graphs.teacher import build_teacher
from graphs.turns import NO_CALLS_LEFT, REFUTED
from graphs.verifier import build_verifier
from tests.unit.fakes import CALL, FALSE, FINDINGS, PLAN, TRUE, FakeChat, FakePython, FakeSolver, answer, script
from tools.errors import ConfigError, ContextLengthError, ModelError, SandboxError


async def run(
    chat: FakeChat, tool: FakePython | None = None, role: str = "forward_verifier", **limits: Any
) -> Trajectory:
    """Run the verifier on a small problem."""
    context = VerifierContext(chat=chat, tools={"python": tool or FakePython()}, **limits)
    given: Any = {"problem": "1+1?", "solution": "2", "role": role, "trajectory_id": "t1"}
    return (await build_verifier().ainvoke(given, context=context))["trajectory"]


def stages(trajectory: Trajectory) -> list[str]:
    """Return the stages of the turns."""
    return [turn.stage for turn in trajectory.turns]


@pytest.mark.parametrize("style", ["compact", "full"])
@pytest.mark.parametrize("role", ["forward_verifier", "backward_verifier"])
async def test_a_whole_review(role: str, style: str) -> None:
    chat, tool = FakeChat(replies=script()), FakePython()
    done = await run(chat, tool, role, style=style)
    assert done.stop_reason is StopReason.COMPLETED
    assert stages(done) == ["plan", "validate", "validate", "verdict"]
    assert done.verdict is not None
    assert done.verdict == Verdict(passed=True, score=None, source="verdict", critique=FINDINGS)
    assert [[m.role for m in turn.prompt] for turn in done.turns] == [["system", "user"], ["user"], ["tool"], ["user"]]
    assert done.turns[2].prompt == (Message(role="tool", content="2"),)
    assert [r.content for r in done.turns[1].results] == ["2"]
    assert (done.role, done.model, done.error, done.tool_calls) == (role, "fake", None, 1)
    assert tool.calls == [({"code": "print(1+1)"}, "t1")]
    assert tool.released == ["t1"]


async def test_each_turn_is_sent_the_whole_conversation_so_far() -> None:
    chat = FakeChat(replies=script())
    done = await run(chat, max_tokens=100, temperature=0.5, top_logprobs=7)
    conversation = [m.content for m in done.messages]
    for messages, _ in chat.sent:
        assert [m.content for m in messages] == conversation[: len(messages)]
    assert [len(messages) for messages, _ in chat.sent] == [2, 4, 6, 8]
    settings = [kwargs for _, kwargs in chat.sent]
    assert [s["stage"] for s in settings] == ["plan", "validate", "validate", "verdict"]
    assert [s["top_logprobs"] for s in settings] == [None, None, None, 7]
    assert {(s["session"], s["max_tokens"], s["temperature"]) for s in settings} == {("t1", 100, 0.5)}


async def test_what_the_endpoint_tells_is_kept() -> None:
    reply = answer(PLAN, (7, 3), prompt_token_ids=[1, 2], token_ids=[3], logprobs=[-0.5])
    reply.additional_kwargs["reasoning_content"] = "hm"
    turn = (await run(FakeChat(replies=script(plan=reply)))).turns[0]
    assert (turn.prompt_ids, turn.completion_ids, turn.logprobs, turn.reasoning) == ((1, 2), (3,), (-0.5,), "hm")
    assert (turn.prompt_tokens, turn.completion_tokens) == (7, 3)


async def test_the_score_comes_from_the_verdict_tokens() -> None:
    """p(true) = 0.3 and p(false) = 0.1: 0.75."""
    tops = [{"<verdict>": 0.0}, {"true": math.log(0.3), "false": math.log(0.1)}, {"</verdict>": 0.0}]
    reply = answer(TRUE, tokens=(9, 3), top_logprobs=tops)
    reply.response_metadata["tokens"] = ["<verdict>", "true", "</verdict>"]
    verdict = (await run(FakeChat(replies=script(verdict=reply)))).verdict
    assert verdict is not None
    assert (verdict.score, verdict.source) == (pytest.approx(0.75), "logprobs")


async def test_findings_keep_their_step_numbers() -> None:
    review = "Step 1: ok.\nStep 2: wrong. 3 + 3 is 6.\nStep 4: wrong.\nFirst error: Step 2."
    verdict = (await run(FakeChat(replies=script(validate=(CALL, review), verdict=FALSE)))).verdict
    assert verdict is not None and verdict.first_error == 2
    assert verdict.findings == (
        StepFinding(step=1, ok=True),
        StepFinding(step=2, ok=False, note="3 + 3 is 6."),
        StepFinding(step=4, ok=False),
    )


@pytest.mark.parametrize(("role", "first"), [("forward_verifier", 2), ("backward_verifier", None)])
async def test_checks_of_compact_forward_reviews_are_about_steps(role: str, first: int | None) -> None:
    verdict = (await run(FakeChat(replies=script(validate="Check 2 fails.", verdict=FALSE)), role=role)).verdict
    assert verdict is not None and verdict.first_error == first


async def test_findings_without_a_tool_call_need_no_session() -> None:
    tool = FakePython()
    done = await run(FakeChat(replies=script(validate=FINDINGS, verdict=FALSE)), tool)
    assert stages(done) == ["plan", "validate", "verdict"]
    assert done.verdict is not None and not done.verdict.passed
    assert (tool.calls, tool.released) == ([], [])


@pytest.mark.parametrize(
    ("replies", "stop", "turns"),
    [
        (script(plan="no tags"), StopReason.UNPARSED, 1),
        (script(verdict="no tags"), StopReason.UNPARSED, 4),
        (script(plan=answer(PLAN, finish_reason="length")), StopReason.LENGTH, 1),
        (script(validate=answer(CALL, finish_reason="length")), StopReason.LENGTH, 2),
        (script(verdict=answer(TRUE, finish_reason="length")), StopReason.LENGTH, 4),
        (script(validate="<tool_call>{"), StopReason.MAX_TURNS, 12),
        (script(validate=CALL), StopReason.MAX_TOOL_CALLS, 5),
        (script(plan=answer(PLAN, (16384, 5))), StopReason.MAX_TOKENS, 1),
    ],
)
async def test_every_end_has_its_reason_and_no_verdict(replies: Any, stop: StopReason, turns: int) -> None:
    tool = FakePython()
    done = await run(FakeChat(replies=replies), tool)
    assert (done.stop_reason, done.verdict, done.error, len(done.turns)) == (stop, None, None, turns)
    assert tool.released == (["t1"] if done.tool_calls else [])


async def test_a_turn_gets_no_more_tokens_than_the_trajectory_has_left() -> None:
    chat = FakeChat(replies=script(plan=answer(PLAN, (950, 20))))
    await run(chat, max_tokens=64, max_trajectory_tokens=1000)
    assert [kwargs["max_tokens"] for _, kwargs in chat.sent][:2] == [64, 30]


async def test_the_model_is_told_when_no_calls_are_left_and_asked_once_more() -> None:
    done = await run(FakeChat(replies=script(validate=(CALL, CALL, FINDINGS))), max_tool_calls=2)
    assert done.stop_reason is StopReason.COMPLETED
    assert [turn.prompt[-1].content for turn in done.turns[2:4]] == ["2", f"2\n{NO_CALLS_LEFT}"]


async def test_calls_beyond_the_limit_in_one_turn_are_refused() -> None:
    tool = FakePython()
    done = await run(FakeChat(replies=script(validate=(CALL * 3, FINDINGS))), tool, max_tool_calls=2)
    assert len(tool.calls) == 2
    assert [(r.ok, r.content) for r in done.turns[1].results][1:] == [
        (True, "2"),
        (False, "Not run: no tool calls left."),
    ]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("<tool_call>{</tool_call>", "malformed"),
        (CALL.replace("python", "browser"), "There is no tool 'browser'; there is: python."),
    ],
)
async def test_a_wrong_call_is_answered_with_the_right_form(call: str, told: str) -> None:
    tool = FakePython()
    done = await run(FakeChat(replies=script(validate=(call, FINDINGS))), tool)
    (result,) = done.turns[1].results
    assert not result.ok
    assert told in result.content and '<tool_call>{"name": "python"' in result.content
    assert done.turns[2].prompt[0].content == result.content
    assert (done.stop_reason, tool.calls) == (StopReason.COMPLETED, [])


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_without_a_plan(style: str) -> None:
    chat = FakeChat(replies=script())
    done = await run(chat, style=style, use_plan=False)
    assert (done.stop_reason, stages(done)) == (StopReason.COMPLETED, ["validate", "validate", "verdict"])
    assert [[m.role for m in turn.prompt] for turn in done.turns] == [["system", "user"], ["tool"], ["user"]]
    assert done.turns[0].prompt[1].content.startswith("Problem:\n1+1?\n\nSolution:\n2\n\n# Validate (forward)")
    assert chat.sent[0][1]["session"] == "t1"


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_without_tools(style: str) -> None:
    """No tool is opened or shown; a call ends the review as any call beyond the limit does."""
    tool = FakePython()
    done = await run(FakeChat(replies=script(validate=FINDINGS)), tool, style=style, use_tools=False)
    assert (done.stop_reason, stages(done)) == (StopReason.COMPLETED, ["plan", "validate", "verdict"])
    assert not any("tool" in m.content and "python" in m.content for m in done.messages)
    called = await run(FakeChat(replies=script()), tool, style=style, use_tools=False)
    assert (called.stop_reason, called.verdict) == (StopReason.MAX_TOOL_CALLS, None)
    assert (tool.calls, tool.released) == ([], [])


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_a_single_pass(style: str) -> None:
    reply = f"Step 1: wrong. It is 3.\n{FALSE}"
    chat = FakeChat(replies=script(verdict=reply))
    done = await run(chat, style=style, single_pass=True, top_logprobs=7)
    assert (done.stop_reason, stages(done)) == (StopReason.COMPLETED, ["verdict"])
    assert [m.role for m in done.turns[0].prompt] == ["system", "user"]
    assert done.verdict is not None
    assert (done.verdict.passed, done.verdict.critique) == (False, "Step 1: wrong. It is 3.")
    assert done.verdict.first_error == 1
    assert chat.sent[0][1]["top_logprobs"] == 7


async def test_each_ablation_has_keys_of_its_own() -> None:
    switches: list[dict[str, Any]] = [{}, {"use_plan": False}, {"use_tools": False}, {"single_pass": True}]
    done = [await run(FakeChat(replies=script(validate=FINDINGS)), None, **s) for s in switches]
    assert len({t.key for t in done}) == len(switches)


@pytest.mark.parametrize(
    ("switches", "passed"), [({"use_plan": False}, True), ({"use_tools": False}, False), ({"single_pass": True}, False)]
)
async def test_the_scripted_teacher_reads_every_mode(switches: dict[str, Any], passed: bool) -> None:
    """Without tools it can check nothing and says so."""
    context = VerifierContext(
        chat=ScriptedTeacher(error_rate=0.0), tools={"python": FakePython("True True")}, **switches
    )
    given: Any = {"problem": "Calculate 1 + 1.", "solution": "1 + 1 = 2\nA: 2", "role": "forward_verifier"}
    done = (await build_verifier().ainvoke(given, context=context))["trajectory"]
    assert done.stop_reason is StopReason.COMPLETED and done.verdict.passed == passed


async def test_only_the_last_reply_is_parsed() -> None:
    """Verdicts in the solution, the plan, the findings and the observation are none (pitfall 7)."""
    chat = FakeChat(replies=script(PLAN + TRUE, (CALL, FINDINGS + TRUE), "I cannot say."))
    context = VerifierContext(chat=chat, tools={"python": FakePython(TRUE)})
    given: Any = {"problem": TRUE, "solution": TRUE + CALL, "role": "forward_verifier"}
    done = (await build_verifier().ainvoke(given, context=context))["trajectory"]
    assert (done.stop_reason, done.verdict) == (StopReason.UNPARSED, None)
    assert done.tool_calls == 1


@pytest.mark.parametrize(
    ("replies", "tool", "kind", "where", "turns"),
    [
        (script(plan=ModelError("down")), FakePython(), "ModelError", "plan", 0),
        (script(validate=(CALL, ModelError("down"))), FakePython(), "ModelError", "validate", 2),
        (script(verdict=ModelError("down")), FakePython(), "ModelError", "verdict", 4 - 1),
        (script(), FakePython(SandboxError("down")), "SandboxError", "tools", 2),
    ],
)
async def test_an_outage_is_a_record(replies: Any, tool: FakePython, kind: str, where: str, turns: int) -> None:
    done = await run(FakeChat(replies=replies), tool)
    assert (done.stop_reason, done.verdict, len(done.turns)) == (StopReason.ERROR, None, turns)
    assert done.error is not None and done.error.model_dump() == {"kind": kind, "message": "down", "where": where}
    assert tool.released == (["t1"] if tool.calls else [])


async def test_a_conversation_over_the_models_context_is_a_limit_not_an_outage() -> None:
    told = ContextLengthError("prompt of 1115 tokens: 1024 fit the context")
    done = await run(FakeChat(replies=script(verdict=told)), FakePython())
    assert (done.stop_reason, done.verdict, done.error) == (StopReason.MAX_TOKENS, None, None)
    assert stages(done) == ["plan", "validate", "validate"]  # what was said is kept


async def test_time_limit_stops_a_slow_model_and_a_slow_tool() -> None:
    done = await run(FakeChat(replies=script(), delay=5.0), max_seconds=0.05)
    assert (done.stop_reason, done.turns) == (StopReason.MAX_SECONDS, ())
    tool = FakePython(delay=5.0)
    done = await run(FakeChat(replies=script()), tool, max_seconds=0.2)
    assert (done.stop_reason, stages(done), tool.released) == (StopReason.MAX_SECONDS, ["plan", "validate"], ["t1"])


async def test_many_turns_are_no_graph_recursion() -> None:
    done = await run(FakeChat(replies=script(validate=CALL)), max_turns=200, max_tool_calls=150)
    assert (done.stop_reason, done.tool_calls) == (StopReason.MAX_TOOL_CALLS, 151)


async def test_many_turns_inside_another_graph() -> None:
    chat = FakeChat(replies=script(validate="<tool_call>{"))
    context = BidirectionalContext(chat=chat, tools={"python": FakePython()}, max_turns=100)
    out = await build_bidirectional().ainvoke({"problem": "p", "solution": "s"}, context=context)
    assert [out[d].stop_reason for d in ("forward", "backward")] == [StopReason.MAX_TURNS] * 2


def test_local_tools_are_one_for_an_event_loop_and_end_with_it() -> None:
    async def twice() -> tuple[Any, Any]:
        return await tools_of(VerifierContext()), await tools_of(VerifierContext())

    first, again = asyncio.run(twice())
    assert first is again
    assert asyncio.run(tools_of(VerifierContext())) is not first
    with pytest.raises(SandboxError, match="closed"):
        asyncio.run(first["python"].call({"code": "1"}, key="t"))


async def test_a_failed_teardown_does_not_undo_the_trajectory(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(FakePython):
        async def release(self, key: str) -> None:
            raise SandboxError("stuck")

    done = await run(FakeChat(replies=script()), Stuck())
    assert done.stop_reason is StopReason.COMPLETED
    assert "t1" in caplog.text and "stuck" in caplog.text


async def test_ids_are_fresh_where_none_is_given() -> None:
    chat = FakeChat(replies=script())
    context = VerifierContext(chat=chat, tools={"python": FakePython()})
    given: Any = {"problem": "p", "solution": "s", "role": "forward_verifier"}
    await asyncio.gather(*(build_verifier().ainvoke(given, context=context) for _ in range(3)))
    assert len({kwargs["session"] for _, kwargs in chat.sent}) == 3


async def test_an_unknown_role_is_the_callers_error() -> None:
    with pytest.raises(ConfigError, match="poet"):
        await run(FakeChat(replies=script()), role="poet")


async def test_trajectories_survive_json() -> None:
    done = await run(FakeChat(replies=script()))
    assert Trajectory.model_validate_json(done.model_dump_json()) == done


# --- bidirectional ---------------------------------------------------------------------------------------------------


async def test_both_directions_run_at_once_and_are_joined() -> None:
    chat, tool = FakeChat(replies=script(), delay=0.05), FakePython()
    context = BidirectionalContext(chat=chat, tools={"python": tool}, aggregation="mean")
    given = BidirectionalInput(problem="p", solution="s", trajectory_id="t")
    out = await build_bidirectional().ainvoke(given, context=context)
    assert set(out) == {"asked", "forward", "backward", "reviews", "verdict"}
    assert out["asked"] == ["forward_verifier", "backward_verifier"]
    assert out["reviews"] == [out["forward"], out["backward"]]
    assert (out["forward"].role, out["backward"].role) == ("forward_verifier", "backward_verifier")
    assert (out["verdict"].passed, out["verdict"].score, out["verdict"].source) == (True, 1.0, "aggregate")
    assert {kwargs["session"] for _, kwargs in chat.sent} == {"t:forward_verifier", "t:backward_verifier"}
    assert [kwargs["stage"] for _, kwargs in chat.sent][:2] == ["plan", "plan"]
    assert len(set(tool.released)) == 2


async def test_no_joint_verdict_when_a_direction_gave_none() -> None:
    class HalfDown(FakeChat):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if kwargs["session"].endswith("backward_verifier"):
                raise ModelError("down")
            return await super()._agenerate(messages, *args, **kwargs)

    context = BidirectionalContext(chat=HalfDown(replies=script()), tools={"python": FakePython()})
    out = await build_bidirectional().ainvoke({"problem": "p", "solution": "s"}, context=context)
    assert (out["forward"].verdict.passed, out["backward"].stop_reason, out["verdict"]) == (
        True,
        StopReason.ERROR,
        None,
    )


class Votes(FakeChat):
    """Gives each session the verdict that `votes` has for the end of its name; None: the model is down."""

    votes: dict[str, Any] = Field(default_factory=dict)

    def reply_to(self, stage: str, session: str, asked: int) -> Any:
        vote = self.votes.get(session.removeprefix("t:"), TRUE)
        if vote is None:
            return ModelError("down")
        return vote if stage == "verdict" else super().reply_to(stage, session, asked)


def votes(**by_session: str | None) -> Votes:
    """Return a chat; keys are like `forward_1`: direction and sample."""
    names = {
        f"{k.partition('_')[0]}_verifier:{k.partition('_')[2]}".removesuffix(":0"): v for k, v in by_session.items()
    }
    return Votes(replies=script(), votes=names)


async def bidirectional(chat: FakeChat, **settings: Any) -> dict[str, Any]:
    """Run the bidirectional verifier on a small problem."""
    context = BidirectionalContext(chat=chat, tools={"python": FakePython()}, **settings)
    return await build_bidirectional().ainvoke({"problem": "p", "solution": "s", "trajectory_id": "t"}, context=context)


async def test_samples_of_each_direction_are_averaged_and_outvoted() -> None:
    """Forward 2 of 3 true: passed, 2/3. Backward 2 of 2 (one is down): passed, 1. Joint 0.7 * 2/3 + 0.3."""
    chat = votes(forward_1=FALSE, backward_2=None)
    out = await bidirectional(chat, samples=3, temperature=0.7)
    assert [(r.role[:8], r.sample_index) for r in out["reviews"]] == [
        (side, i) for side in ("forward_", "backward") for i in range(3)
    ]
    assert len({k["session"] for _, k in chat.sent}) == 6
    assert (out["verdict"].passed, out["verdict"].score) == (True, pytest.approx(0.7 * 2 / 3 + 0.3))
    assert (out["forward"], out["backward"]) == (out["reviews"][0], out["reviews"][3])
    assert out["reviews"][5].stop_reason is StopReason.ERROR


async def test_a_direction_whose_samples_all_failed_gives_no_joint_verdict() -> None:
    out = await bidirectional(votes(backward_0=None, backward_1=None), samples=2, temperature=0.7)
    assert out["verdict"] is None and len(out["reviews"]) == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"samples": 2}, "set a temperature"),
        ({"directions": "forward", "cascade": (0.2, 0.8)}, "need both directions"),
        ({"directions": "backward", "reconcile": True}, "need both directions"),
        ({"cascade": (0.8, 0.2)}, "low at most high"),
        ({"cascade": (0.2, 1.2)}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BidirectionalContext(**settings)


@pytest.mark.parametrize(("side", "other"), [("forward", "backward"), ("backward", "forward")])
async def test_one_direction_alone(side: Any, other: str) -> None:
    out = await bidirectional(votes(**{f"{side}_0": FALSE}), directions=side)
    assert (out["asked"], out[other]) == ([f"{side}_verifier"], None)
    assert out["reviews"] == [out[side]]
    assert out["verdict"] == out[side].verdict  # its own, with its own source
    assert (out["verdict"].passed, out["verdict"].source) == (False, "verdict")


def scored(true: float) -> AIMessage:
    """Return a verdict of this probability, with log-probabilities."""
    top = {"true": math.log(true), "false": math.log(1 - true)}
    made = answer(TRUE if true > 0.5 else FALSE)
    made.response_metadata |= {
        "tokens": ["<verdict>", "true", "</verdict>"],
        "top_logprobs": [{"<": 0.0}, top, {"<": 0.0}],
    }
    return made


@pytest.mark.parametrize(
    ("true", "asked", "score", "source"),
    [
        (0.95, ["forward_verifier"], 0.95, "logprobs"),
        (0.05, ["forward_verifier"], 0.05, "logprobs"),
        (0.75, ["forward_verifier", "backward_verifier"], 0.7 * 0.75 + 0.3, "aggregate"),
    ],
)
async def test_cascade(true: float, asked: list[str], score: float, source: str) -> None:
    """Backward (always true, 1.0) is asked inside the band only; else the verdict is forward's own."""
    chat = Votes(replies=script(), votes={"forward_verifier": scored(true)})
    out = await bidirectional(chat, cascade=(0.1, 0.9))
    assert out["asked"] == asked
    assert (out["verdict"].score, out["verdict"].source) == (pytest.approx(score), source)
    assert (out["backward"] is None) == (len(asked) == 1)
    assert len({k["session"] for _, k in chat.sent}) == len(asked)


async def test_a_failed_forward_review_is_no_reason_to_ask_backward() -> None:
    out = await bidirectional(votes(forward_0=None), cascade=(0.0, 1.0))
    assert (out["asked"], out["verdict"]) == (["forward_verifier"], None)
    assert out["forward"].stop_reason is StopReason.ERROR


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_each_side_reads_the_other_and_may_change_its_mind(style: str) -> None:
    chat = votes(backward_0=FALSE)
    chat.replies["validate"] = ["Step 1: ok."]
    chat.replies["reconcile"] = [f"Step 2: wrong. I see now.\n{FALSE}"]
    out = await bidirectional(chat, reconcile=True, style=style)
    for side, other_said in (("forward", "false"), ("backward", "true")):
        review = out[side]
        assert [t.stage for t in review.turns] == ["plan", "validate", "verdict", "reconcile"]
        (asked,) = review.turns[-1].prompt
        assert f"\nStep 1: ok.\nIts verdict: {other_said}" in asked.content
        assert review.verdict.passed is False
        assert review.verdict.critique == "Step 1: ok.\nStep 2: wrong. I see now."
        assert review.verdict.first_error == 2
    assert (out["verdict"].passed, out["verdict"].score) == (False, 0.0)
    sent = [(k["session"], [m.content for m in messages]) for messages, k in chat.sent if k["stage"] == "reconcile"]
    assert {session for session, _ in sent} == {"t:forward_verifier", "t:backward_verifier"}
    whole = {f"t:{r.role}": [m.content for m in r.messages[:-1]] for r in out["reviews"]}
    assert all(contents == whole[session] for session, contents in sent)  # the conversation goes on where it ended


async def test_reconciled_reviews_have_keys_of_their_own() -> None:
    chat = votes(backward_0=FALSE)
    chat.replies["reconcile"] = [FALSE]
    reconciled, plain = await bidirectional(chat, reconcile=True), await bidirectional(votes(backward_0=FALSE))
    assert plain["forward"].key != reconciled["forward"].key
    assert len(plain["forward"].turns) + 1 == len(reconciled["forward"].turns)


async def test_agreement_is_not_reconciled() -> None:
    chat = votes()
    out = await bidirectional(chat, reconcile=True)
    assert out["verdict"].passed and {k["stage"] for _, k in chat.sent} == {"plan", "validate", "verdict"}


@pytest.mark.parametrize(("reply", "turns"), [("I cannot tell.", 5), (answer(TRUE, finish_reason="length"), 5)])
async def test_a_reply_without_a_verdict_changes_nothing(reply: Any, turns: int) -> None:
    chat = votes(backward_0=FALSE)
    chat.replies["reconcile"] = [reply]
    out = await bidirectional(chat, reconcile=True)
    assert [len(out[s].turns) for s in ("forward", "backward")] == [turns, turns]
    assert [out[s].verdict.passed for s in ("forward", "backward")] == [True, False]
    assert {out[s].stop_reason for s in ("forward", "backward")} == {StopReason.COMPLETED}
    assert out["verdict"].passed is False


async def test_no_turn_is_left_for_reconciliation() -> None:
    out = await bidirectional(votes(backward_0=FALSE), reconcile=True, max_turns=4)
    assert [len(out[s].turns) for s in ("forward", "backward")] == [4, 4]
    assert out["verdict"].passed is False


async def test_an_outage_while_reconciling_is_a_failed_review() -> None:
    chat = votes(backward_0=FALSE)
    chat.replies["reconcile"] = [ModelError("down")]
    out = await bidirectional(chat, reconcile=True)
    assert (out["forward"].stop_reason, out["forward"].verdict, out["verdict"]) == (StopReason.ERROR, None, None)
    assert out["forward"].error.where == "reconcile"


async def test_samples_are_reconciled_in_pairs() -> None:
    """Forward: true true true. Backward: true false false. Pairs 1 and 2 differ."""
    chat = votes(backward_1=FALSE, backward_2=FALSE)
    chat.replies["reconcile"] = [TRUE]
    out = await bidirectional(chat, reconcile=True, samples=3, temperature=0.7)
    assert [r.turns[-1].stage for r in out["reviews"]] == ["verdict", "reconcile", "reconcile"] * 2
    assert (out["verdict"].passed, out["verdict"].score) == (True, 1.0)


# --- early stop ------------------------------------------------------------------------------------------------------

WRONG_AND_CALL = f"Step 1: wrong. 1 + 1 is 2.\nTo be sure:\n{CALL}"


async def test_a_step_marked_wrong_ends_the_checks() -> None:
    tool = FakePython()
    chat = FakeChat(replies=script(validate=(CALL, WRONG_AND_CALL), verdict=FALSE))
    done = await run(chat, tool, early_stop=True)
    assert (done.stop_reason, stages(done)) == (StopReason.COMPLETED, ["plan", "validate", "validate", "verdict"])
    assert len(tool.calls) == 1  # the second call was not run
    assert done.verdict is not None
    assert done.verdict.critique == "Step 1: wrong. 1 + 1 is 2.\nTo be sure:"
    assert done.verdict.first_error == 1


async def test_a_failed_check_is_the_last_one() -> None:
    tool = FakePython("True False")
    done = await run(FakeChat(replies=script(validate=(CALL, CALL), verdict=FALSE)), tool, early_stop=True)
    assert stages(done) == ["plan", "validate", "validate", "verdict"]
    assert done.turns[2].prompt[0].content == f"True False\n{REFUTED}"
    assert (done.stop_reason, len(tool.calls)) == (StopReason.COMPLETED, 1)


async def test_a_refutation_at_the_last_call_is_no_limit() -> None:
    replies = script(validate=(CALL, WRONG_AND_CALL), verdict=FALSE)
    done = await run(FakeChat(replies=replies), early_stop=True, max_tool_calls=1)
    assert done.stop_reason is StopReason.COMPLETED
    assert (await run(FakeChat(replies=replies), max_tool_calls=1)).stop_reason is StopReason.MAX_TOOL_CALLS


async def test_without_early_stop_every_check_is_made() -> None:
    tool = FakePython("True False")
    replies = script(validate=(CALL, WRONG_AND_CALL, FINDINGS), verdict=FALSE)
    done = await run(FakeChat(replies=replies), tool)
    assert (len(tool.calls), done.turns[2].prompt[0].content) == (2, "True False")
    stopped = await run(FakeChat(replies=replies), tool, early_stop=True)
    assert stopped.prompt_version != done.prompt_version


# --- teacher ---------------------------------------------------------------------------------------------------------


def teacher_context(solutions: list[Any], **settings: Any) -> TeacherContext:
    """Return a context whose solver gives the solutions in turn, and whose verifiers always pass."""
    return TeacherContext(
        chat=FakeChat(replies=script()),
        solver=FakeSolver(replies={"solve": solutions}),
        tools={"python": FakePython()},
        k=len(solutions),
        **settings,
    )


async def test_sample_label_verify_record() -> None:
    context, task = teacher_context(["Answer: 2", "Answer: 3"], n=2), Task(question="1+1?", answer="2")
    out = await build_teacher().ainvoke({"task": task}, context=context)
    assert set(out) == {"candidates", "trajectories", "dropped", "errors"}
    first, second = out["candidates"]
    assert [(c.index, c.text, c.correct, c.model, c.task_id) for c in (first, second)] == [
        (0, "Answer: 2", True, "fake-solver", task.id),
        (1, "Answer: 3", False, "fake-solver", task.id),
    ]
    forward, backward = "forward_verifier", "backward_verifier"
    assert [(t.candidate_id, t.role, t.sample_index) for t in out["trajectories"]] == [
        (c.id, role, i) for c in (first, second) for role in (forward, backward) for i in (0, 1)
    ]
    assert {t.task_id for t in out["trajectories"]} == {task.id}
    assert len({t.key for t in out["trajectories"]}) == 8
    assert (out["dropped"], out["errors"]) == ("", [])


async def test_sessions_are_the_same_in_every_run() -> None:
    sessions = []
    for _ in range(2):
        context = teacher_context(["Answer: 2", "Answer: 3"])
        await build_teacher().ainvoke({"task": Task(question="1+1?", answer="2")}, context=context)
        assert isinstance(context.chat, FakeChat)
        sessions.append({kwargs["session"] for _, kwargs in context.chat.sent})
    assert sessions[0] == sessions[1]
    assert len(sessions[0]) == 4


async def test_a_trivial_problem_is_dropped_unverified() -> None:
    context = teacher_context(["Answer: 2", "so 2"])
    out = await build_teacher().ainvoke({"task": Task(question="1+1?", answer="2")}, context=context)
    assert (out["dropped"], out["trajectories"]) == ("trivial", [])
    assert [c.correct for c in out["candidates"]] == [True, True]


async def test_candidates_of_the_task_are_used_and_plain_json_is_read() -> None:
    context = TeacherContext(
        chat=FakeChat(replies=script()), tools={"python": FakePython()}, label=lambda task, text: text == "right"
    )
    held = tuple(Candidate(task_id="", index=i, text=t) for i, t in enumerate(["right", "wrong"]))
    plain: Any = Task(question="q", answer="a", candidates=held).model_dump(mode="json")
    out = await build_teacher().ainvoke({"task": plain}, context=context)
    assert [(c.text, c.correct) for c in out["candidates"]] == [("right", True), ("wrong", False)]
    assert len(out["trajectories"]) == 4


async def test_a_question_over_the_solvers_context_is_no_outage() -> None:
    """It is answered by nobody: empty candidates, which are wrong; no error, which would be tried for ever."""
    context = teacher_context([ContextLengthError("too long"), ContextLengthError("too long"), "Answer: 2"])
    out = await build_teacher().ainvoke({"task": Task(question="1+1?", answer="2")}, context=context)
    assert [(c.text, c.correct) for c in out["candidates"]] == [("", False), ("", False), ("Answer: 2", True)]
    assert out["errors"] == [] and len({c.id for c in out["candidates"]}) == 3


async def test_a_solver_outage_is_a_record() -> None:
    context = teacher_context([ModelError("down"), "Answer: 2", "Answer: 3"])
    out = await build_teacher().ainvoke({"task": Task(question="1+1?", answer="2")}, context=context)
    assert [c.index for c in out["candidates"]] == [1, 2]
    assert [(e.kind, e.where) for e in out["errors"]] == [("ModelError", "sample 0")]
    assert len(out["trajectories"]) == 4


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "edges"),
    [
        (
            build_verifier,
            "plan>validate plan>finish validate>tools validate>verdict validate>finish tools>validate tools>finish "
            "verdict>finish",
        ),
        (
            build_bidirectional,
            "verify_forward>verify_backward verify_forward>aggregate verify_backward>aggregate aggregate>reconcile "
            "reconcile>aggregate",
        ),
        (build_teacher, "sample>label label>verify label>record verify>record"),
    ],
)
def test_the_drawing_shows_the_machine(build: Any, edges: str) -> None:
    graph: CompiledStateGraph = build()
    drawn = {f"{e.source}>{e.target}" for e in graph.get_graph().edges if "__" not in e.source + e.target}
    assert drawn == set(edges.split())
    assert graph.checkpointer is None


@pytest.mark.parametrize("build", [build_verifier, build_bidirectional, build_teacher])
def test_live_objects_are_hidden_from_the_schema_of_the_context(build: Any) -> None:
    schema = build().get_context_jsonschema()
    assert {"model", "base_url", "max_turns", "style"} <= set(schema["properties"])
    assert not {"chat", "tools", "solver", "label"} & set(schema["properties"])


@pytest.mark.parametrize(
    ("build", "given", "given_back"),
    [
        (build_verifier, {"problem", "solution", "role", "trajectory_id"}, {"trajectory"}),
        (
            build_bidirectional,
            {"problem", "solution", "trajectory_id"},
            {"asked", "forward", "backward", "reviews", "verdict"},
        ),
        (build_teacher, {"task"}, {"candidates", "trajectories", "dropped", "errors"}),
    ],
)
def test_inputs_and_outputs_have_schemas(build: Any, given: set[str], given_back: set[str]) -> None:
    assert set(build().get_input_jsonschema()["properties"]) == given
    assert set(build().get_output_jsonschema()["properties"]) == given_back
