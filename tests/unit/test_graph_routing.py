"""Routing and stop rules: pure functions, called without a model."""

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agents.protocol import ParseFailure
from agents.types import Candidate, StepFinding, StopReason, Task, Trajectory, Turn, Verdict
from graphs.bidirectional import (
    AGGREGATIONS,
    after_forward,
    aggregate,
    agreed,
    first_asked,
    joint_verdict,
    must_reconcile,
)
from graphs.state import Aggregation, BidirectionalContext, VerifierContext, record_reviews, record_turn
from graphs.teacher import drop_or_fan_out, is_trivial, labelled, rollouts_of, same_last_number
from graphs.turns import findings, is_refuted, refutes, stop_after, stop_before, unanswered, wants_tools, within
from graphs.verifier import after_plan, after_tools, after_validate
from tests.unit.fakes import CALL, FINDINGS
from tools.base import ToolCall, ToolResult
from tools.errors import ModelError

FAILURE = ParseFailure(reason="r", hint="h")
CODE = ToolCall(name="python", arguments={"code": "1"})


def turn(stage: str = "validate", content: str = "", calls: int = 0, tokens: int = 0, finish: str = "stop") -> Turn:
    """Return a turn whose conversation holds `tokens` tokens."""
    return Turn(
        stage=stage, prompt=(), content=content, tool_calls=(CODE,) * calls, finish_reason=finish, prompt_tokens=tokens
    )


@pytest.mark.parametrize(
    ("content", "node"),
    [(CALL, "tools"), ("<tool_call>{", "tools"), (FINDINGS, "verdict"), ("", "verdict")],
)
def test_after_validate(content: str, node: str) -> None:
    assert after_validate({"turns": turn(content=content)}) == node
    assert after_validate({"turns": turn(content=content), "stop": StopReason.LENGTH}) == "finish"


def test_after_plan_and_tools() -> None:
    assert after_plan({"turns": turn("plan")}) == "validate"
    assert after_plan({"stop": StopReason.UNPARSED}) == "finish"
    assert after_tools({"turns": []}) == "validate"
    assert after_tools({"stop": StopReason.ERROR}) == "finish"


def test_a_tool_call_in_a_thought_is_none() -> None:
    assert not wants_tools(turn(content=f"<think>{CALL}</think>{FINDINGS}"))


@pytest.mark.parametrize(
    ("turns", "elapsed", "stop"),
    [
        ([], 0.0, None),
        ([turn()] * 4, 0.0, StopReason.MAX_TURNS),
        ([turn()] * 3, 0.0, None),
        ([turn(tokens=100)], 0.0, StopReason.MAX_TOKENS),
        ([turn(tokens=99)], 0.0, None),
        ([turn(tokens=200), turn(tokens=99)], 0.0, None),  # the last turn holds the whole conversation
        ([], 9.9, None),
        ([], 10.0, StopReason.MAX_SECONDS),
    ],
)
def test_stop_before(turns: list[Turn], elapsed: float, stop: StopReason | None) -> None:
    context = VerifierContext(max_turns=4, max_trajectory_tokens=100, max_seconds=10.0)
    assert stop_before(turns, elapsed, context) == stop


@pytest.mark.parametrize(
    ("turns", "parsed", "stop"),
    [
        ([turn("plan")], "v1", None),
        ([turn("plan")], FAILURE, StopReason.UNPARSED),
        ([turn("verdict")], False, StopReason.COMPLETED),
        ([turn("verdict")], True, StopReason.COMPLETED),
        ([turn("verdict")], FAILURE, StopReason.UNPARSED),
        ([turn("verdict", finish="length")], True, StopReason.LENGTH),
        ([turn("verdict", finish="length", tokens=100)], True, StopReason.MAX_TOKENS),
        ([turn(calls=2)], [CODE, CODE], None),  # beyond the limit in one turn: the tools node refuses the second
        ([turn(calls=1), turn()], [], None),
        ([turn(calls=1), turn(calls=1)], [CODE], StopReason.MAX_TOOL_CALLS),
        ([turn(calls=1), turn()], FAILURE, StopReason.MAX_TOOL_CALLS),
        ([turn(calls=0), turn(calls=1)], [CODE], None),  # a malformed call used none up
    ],
)
def test_stop_after(turns: list[Turn], parsed: object, stop: StopReason | None) -> None:
    assert stop_after(turns, parsed, VerifierContext(max_tool_calls=1, max_trajectory_tokens=100)) == stop


def test_turns_are_appended_and_results_fill_the_last_one() -> None:
    first, second, result = turn(content="a"), turn(content="b", calls=1), ToolResult(name="python", content="2")
    held = record_turn(record_turn([], first), second)
    filled = record_turn(held, [result])
    assert held == [first, second]  # not mutated
    assert filled == [first, second.model_copy(update={"results": (result,)})]


def test_unanswered_and_findings() -> None:
    human = HumanMessage("x")
    assert unanswered([human, AIMessage("a"), human, human]) == [human, human]
    assert unanswered([human]) == [human]
    assert findings([turn("plan", "p"), turn(content="old"), turn(content="<think>t</think> new\n")]) == "new"
    assert findings([]) == ""


async def test_within_tells_its_own_limit_from_other_timeouts() -> None:
    async def late() -> dict[str, Any]:
        await asyncio.sleep(5)
        return {}

    async def fails(error: Exception) -> dict[str, Any]:
        raise error

    assert await within(0.01, "plan", late()) == {"stop": StopReason.MAX_SECONDS}
    out = await within(5, "plan", fails(ModelError("down")))
    assert (out["stop"], out["error"].model_dump()) == (
        StopReason.ERROR,
        {"kind": "ModelError", "message": "down", "where": "plan"},
    )
    with pytest.raises(TimeoutError):
        await within(5, "plan", fails(TimeoutError()))
    with pytest.raises(KeyError):  # a bug is no outage
        await within(5, "plan", fails(KeyError("x")))


# --- aggregation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "score"), [("weighted", 0.7 * 0.9 + 0.3 * 0.4), ("mean", 0.65), ("min", 0.4), ("product", 0.36)]
)
def test_aggregate_scores(method: Aggregation, score: float) -> None:
    forward = Verdict(passed=True, score=0.9, source="logprobs", critique="f")
    backward = Verdict(passed=False, score=0.4, source="logprobs", critique="b")
    joint = aggregate(forward, backward, method)
    assert joint is not None
    assert joint.score == pytest.approx(score)
    assert (joint.passed, joint.source) == (False, "aggregate")
    assert "f" in joint.critique and "b" in joint.critique


@pytest.mark.parametrize("method", AGGREGATIONS)
@pytest.mark.parametrize(("forward", "backward"), [(True, True), (True, False), (False, True), (False, False)])
def test_aggregate_is_the_and_of_the_verdicts(method: Aggregation, forward: bool, backward: bool) -> None:
    joint = aggregate(Verdict(passed=forward), Verdict(passed=backward), method)
    assert joint is not None and joint.passed == (forward and backward)


def test_a_missing_review_gives_no_joint_verdict() -> None:
    assert aggregate(None, Verdict(passed=True)) is None
    assert aggregate(Verdict(passed=False), None) is None


def test_joint_findings_are_those_of_the_direction_that_found_an_error() -> None:
    def found(*oks: bool) -> Verdict:
        steps = [StepFinding(step=i, ok=ok) for i, ok in enumerate(oks, 1)]
        return Verdict(passed=all(oks), findings=tuple(steps))

    for forward, backward, first in [
        (found(True, False), found(False), 2),
        (found(True, True), found(True, False), 2),
        (found(True), found(), None),
    ]:
        joint = aggregate(forward, backward)
        assert joint is not None and joint.first_error == first
        assert len(joint.findings) > 0


def test_weights_are_normalised() -> None:
    joint = aggregate(Verdict(passed=True, score=1.0), Verdict(passed=True, score=0.0), weights=(3.0, 1.0))
    assert joint is not None and joint.score == pytest.approx(0.75)


def given(*votes: bool | float) -> list[Verdict]:
    """Return verdicts: a bool without a score, a number as the score of a verdict that is true above one half."""
    return [
        Verdict(passed=v, critique=str(i)) if isinstance(v, bool) else Verdict(passed=v > 0.5, score=v, critique=str(i))
        for i, v in enumerate(votes)
    ]


@pytest.mark.parametrize(
    ("verdicts", "passed", "score", "critique"),
    [
        (given(True, False, True), True, 2 / 3, "0"),
        (given(0.9, 0.2, 0.3), False, 1.4 / 3, "1"),
        (given(0.2, 0.9), True, 0.55, "1"),  # a tie: the mean confidence decides
        (given(0.1, 0.9), False, 0.5, "0"),
        (given(True, False), False, 0.5, "1"),
        ([None, *given(0.9, 0.7), None], True, 0.8, "0"),
    ],
)
def test_samples_of_a_direction(verdicts: Any, passed: bool, score: float, critique: str) -> None:
    joint = agreed(verdicts)
    assert joint is not None
    assert (joint.passed, joint.score, joint.source) == (passed, pytest.approx(score), "aggregate")
    assert joint.critique == critique


@pytest.mark.parametrize(
    ("settings", "nodes"),
    [
        ({}, ["verify_forward", "verify_backward"]),
        ({"cascade": (0.2, 0.8)}, ["verify_forward"]),
        ({"directions": "forward"}, ["verify_forward"]),
        ({"directions": "backward"}, ["verify_backward"]),
    ],
)
def test_first_asked(settings: dict[str, Any], nodes: list[str]) -> None:
    assert first_asked(BidirectionalContext(**settings)) == nodes


def review(role: Any, verdict: Verdict | None, index: int = 0) -> Trajectory:
    return Trajectory(role=role, sample_index=index, verdict=verdict, stop_reason=StopReason.COMPLETED)


@pytest.mark.parametrize(
    ("score", "node"),
    [
        (0.2, "verify_backward"),
        (0.5, "verify_backward"),
        (0.8, "verify_backward"),
        (0.19, "aggregate"),
        (0.81, "aggregate"),
    ],
)
def test_backward_is_asked_inside_the_band(score: float, node: str) -> None:
    forward = [review("forward_verifier", v) for v in given(score)]
    assert after_forward(forward, BidirectionalContext(cascade=(0.2, 0.8))) == node
    assert after_forward(forward, BidirectionalContext()) == "aggregate"
    assert after_forward([review("forward_verifier", None)], BidirectionalContext(cascade=(0, 1))) == "aggregate"


def test_joint_verdict_of_what_was_asked() -> None:
    forward = [review("forward_verifier", v, i) for i, v in enumerate(given(0.9, 0.7))]
    backward = [review("backward_verifier", v, i) for i, v in enumerate(given(0.4))]
    both, alone = joint_verdict("A: 4", [*forward, *backward]), joint_verdict("A: 4", forward)
    assert both is not None and (both.passed, both.score) == (False, pytest.approx(0.7 * 0.8 + 0.3 * 0.4))
    assert alone is not None and (alone.passed, alone.score) == (True, pytest.approx(0.8))
    assert joint_verdict("A: 4", [*forward, review("backward_verifier", None)]) is None  # asked, and failed
    assert joint_verdict("A: 4", []) is None


def test_only_disagreement_is_reconciled_and_only_once() -> None:
    def state(forward: Any, backward: Any, **more: Any) -> Any:
        return {"reviews": [review("forward_verifier", forward), review("backward_verifier", backward)], **more}

    yes, no = given(True, False)
    on = BidirectionalContext(reconcile=True)
    assert must_reconcile(state(yes, no), on)
    assert not must_reconcile(state(yes, no), BidirectionalContext())
    assert not must_reconcile(state(yes, no, reconciled=True), on)
    assert not must_reconcile(state(no, no), on)
    assert not must_reconcile(state(yes, None), on)


@pytest.mark.parametrize(
    ("content", "ok", "decided"),
    [
        ("True False", True, True),
        ("True\nFalse", True, True),
        ("False", True, True),
        ("True True", True, False),
        ("x = 3 False", True, False),
        ("", True, False),
        ("False", False, False),
    ],
)
def test_a_check_refutes_by_truth_values_alone(content: str, ok: bool, decided: bool) -> None:
    assert refutes(ToolResult(name="python", content=content, ok=ok)) == decided


def test_what_ends_the_checks() -> None:
    failed = turn(content=CALL, calls=1).model_copy(update={"results": (ToolResult(name="python", content="False"),)})
    marked = f"Step 3: wrong. Sign.\n{CALL}"
    assert is_refuted([turn("plan", "Step 1: wrong"), turn(content=marked)])
    assert is_refuted([failed, turn(content="Let me see.")])
    assert not is_refuted([turn("plan", "Step 1: wrong"), turn(content=CALL)])
    assert not is_refuted([turn(content=marked), turn(content="Step 3: ok after all.")])
    assert after_validate({"turns": turn(content=marked)}, refuted=True) == "verdict"
    assert after_validate({"turns": turn(content=marked), "stop": StopReason.LENGTH}, refuted=True) == "finish"


def test_one_sample_is_its_own_verdict() -> None:
    (only,) = given(0.8)
    assert agreed([only]) is only
    assert agreed([None, only]) is only
    assert agreed([None]) is agreed([]) is None


def test_reviews_are_kept_in_order_and_replaced_by_place() -> None:
    forward, backward = [review("forward_verifier", None, i) for i in (0, 1)], review("backward_verifier", None)
    held = record_reviews(record_reviews([], [backward]), forward[::-1])
    assert held == [*forward, backward]
    later = forward[1].model_copy(update={"model": "later"})
    assert record_reviews(held, [later]) == [forward[0], later, backward]


# --- data engine -----------------------------------------------------------------------------------------------------


def candidates(*labels: bool | None) -> list[Candidate]:
    """Return candidates with these labels."""
    return [Candidate(task_id="t", index=i, text=f"text {i}", correct=c) for i, c in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "trivial"),
    [
        ((True, True), True),
        ((False, False, False), True),
        ((True, False), False),
        ((True, None, True), True),
        ((True, None), False),
        ((True,), False),
        ((None, None), False),
        ((), False),
    ],
)
def test_is_trivial(labels: tuple[bool | None, ...], trivial: bool) -> None:
    assert is_trivial(candidates(*labels)) == trivial


@pytest.mark.parametrize(
    ("answer", "text", "same"),
    [
        ("18", "so 3 * 6 = 18.", True),
        ("#### 1,800", "A: $1800", True),
        ("2.50", "2.5", True),
        ("-3", "x = 3", False),
        ("18", "no number", False),
        ("blue", "18", None),
        (None, "18", None),
    ],
)
def test_same_last_number(answer: str | None, text: str, same: bool | None) -> None:
    assert same_last_number(Task(question="q", answer=answer), text) is same


def test_labels_that_are_there_stay() -> None:
    out = labelled(Task(question="q"), candidates(True, None), lambda task, text: False)
    assert [c.correct for c in out] == [True, False]


def test_fan_out_is_each_candidate_role_and_sample_without_ground_truth() -> None:
    task = Task(question="q", answer="42")
    sends = drop_or_fan_out(task, candidates(True, False), "", 2)
    assert not isinstance(sends, str)
    assert [s.node for s in sends] == ["verify"] * 8
    assert [(s.arg["solution"], s.arg["role"], s.arg["sample_index"]) for s in sends][:5] == [
        ("text 0", "forward_verifier", 0),
        ("text 0", "forward_verifier", 1),
        ("text 0", "backward_verifier", 0),
        ("text 0", "backward_verifier", 1),
        ("text 1", "forward_verifier", 0),
    ]
    assert set(rollouts_of(task, candidates(True), 1)[0]) == {
        "problem",
        "task_id",
        "candidate_id",
        "solution",
        "role",
        "sample_index",
    }


def test_nothing_is_sent_out_for_a_dropped_or_empty_task() -> None:
    assert drop_or_fan_out(Task(question="q"), candidates(True, True), "trivial", 1) == "record"
    assert drop_or_fan_out(Task(question="q"), [], "", 1) == "record"
