"""The refinement graph: routing, what the refiner is shown, when it stops, failures, going on from earlier rounds."""

from typing import Any

import pytest

from agents.types import Round, StepFinding, StopReason, Trajectory, Turn, Verdict
from graphs.critics import bounded, told
from graphs.refine import build_refine, next_step, resumed, revision, stop_of
from graphs.refine_state import Attempt, Critique, RefineContext, record_rounds
from graphs.writers import Written
from tests.unit.fakes import CALL, FALSE, TRUE, FakeChat, FakePython, Reply, answer, script
from tools.errors import ContextLengthError, ModelError

PROBLEM = "What is 3 * 6?"
FIRST = "3 * 6 = 19\nA: 19"


def made(index: int = 0, outcome: Any = "open", **more: Any) -> Round:
    return Round(index=index, solution="s", outcome=outcome, **more)


class Verifier(FakeChat):
    """Accepts the solutions that hold one of `good`; its review of the others is `review`."""

    good: tuple[str, ...] = ()
    review: str = "Step 1: wrong. 3 * 6 is not 19."

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Look for the solution in the session's own messages."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        text = "".join(str(m.content) for m in messages)
        accepts = any(good in text for good in self.good)
        if stage == "validate":
            return "All checks hold." if accepts else self.review
        return {"plan": "<plan>look</plan>", "verdict": TRUE if accepts else FALSE}[stage]


def refiner(*solutions: Reply) -> FakeChat:
    """Write these solutions one after the other: each revision is a session of its own."""

    class Refiner(FakeChat):
        def reply_to(self, stage: str, session: str, asked: int) -> Reply:
            return solutions[int(session.rpartition(":")[2])]

    return Refiner()


async def run(verifier: FakeChat, writes: FakeChat, given: dict[str, Any] | None = None, **settings: Any) -> Any:
    context = RefineContext(chat=verifier, refiner=writes, tools={"python": FakePython()}, **settings)
    whole: Any = {"problem": PROBLEM, "solution": FIRST} | (given or {})
    return await build_refine().ainvoke(whole, context=context)


@pytest.mark.parametrize(
    ("last", "step", "stop"),
    [
        (made(), "review", None),
        (made(outcome="rejected"), "refine", None),
        (made(outcome="accepted"), "finish", "accepted"),
        (made(outcome="no_verdict"), "finish", "no_verdict"),
        (made(1, outcome="unrevised"), "finish", "unrevised"),
        (made(3), "finish", "rounds"),
        (made(error={"kind": "ModelError", "message": "m"}), "finish", "error"),
        (made(outcome="rejected", error={"kind": "ModelError", "message": "m"}), "finish", "error"),
    ],
)
def test_routing(last: Round, step: str, stop: str | None):
    assert next_step([last], 3) == step
    assert stop is None or stop_of([last]) == stop


def test_rounds_are_replaced_by_index():
    held = [made(0), made(1)]
    assert record_rounds(held, [made(1, outcome="accepted")]) == [made(0), made(1, outcome="accepted")]
    assert record_rounds([], [made(0).model_dump(mode="json")]) == [made(0)]  # type: ignore[list-item]


async def test_an_accepted_solution_is_left_alone():
    writes = refiner("never")
    out = await run(Verifier(good=("A: 19",)), writes)
    assert (out["solution"], out["accepted"], out["stop"], out["error"]) == (FIRST, True, "accepted", None)
    assert [r.outcome for r in out["rounds"]] == ["accepted"] and writes.sent == []
    assert [review.role for review in out["rounds"][0].reviews] == ["forward_verifier", "backward_verifier"]


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_it_revises_until_the_verifier_accepts(style: Any):
    writes = refiner("3 * 6 = 20\nA: 20", "<think>hm</think>3 * 6 = 18\nA: 18", "never")
    out = await run(Verifier(good=("A: 18",)), writes, style=style)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "rejected", "accepted"]
    assert [r.solution for r in out["rounds"]] == [FIRST, "3 * 6 = 20\nA: 20", "3 * 6 = 18\nA: 18"]
    assert (out["solution"], out["stop"]) == ("3 * 6 = 18\nA: 18", "accepted")
    (first, _), (second, settings) = writes.sent
    shown = str(first[-1].content)
    assert shown.startswith(
        f"Problem:\n{PROBLEM}\n\nSolution:\n{FIRST}\n\nReview:\nForward review: the solution is wrong."
    )
    assert "Step 1: wrong. 3 * 6 is not 19." in shown and "# Revise" in shown
    assert "A: 20" in str(second[-1].content) and "A: 19" not in str(second[-1].content)
    assert settings["stage"] == "refine" and settings["temperature"] == 0.0
    (turn,) = out["rounds"][1].made
    assert (turn.stage, turn.completion_tokens) == ("refine", 5)


async def test_it_stops_when_out_of_rounds_and_does_not_review_the_last():
    verifier = Verifier()
    out = await run(verifier, refiner("A: 1", "A: 2", "never"), rounds=2)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "rejected", "open"]
    assert (out["solution"], out["accepted"], out["stop"]) == ("A: 2", False, "rounds")
    assert len({kwargs["session"] for _, kwargs in verifier.sent}) == 2 * 2


async def test_the_verifiers_own_answer_is_not_passed_on():
    writes = refiner("A: 1")
    review = "I solved it: 3 * 6 gives 18.\nStep 1: wrong. It is 18, not 19.\nSo the answer is 18."
    out = await run(Verifier(review=review), writes, rounds=1)
    shown = repr([m.content for messages, _ in writes.sent for m in messages])
    assert "18" not in shown and "not 19" in shown and "[withheld]" in shown
    assert "18" not in out["rounds"][0].critique


async def test_plans_and_tool_calls_are_not_in_a_critique():
    writes = refiner("A: 1")
    replies = script(plan="<plan>SECRET-PLAN</plan>", validate=(CALL.replace("1+1", "77+1"), "fine"), verdict=FALSE)
    context = RefineContext(
        chat=FakeChat(replies=replies), refiner=writes, tools={"python": FakePython("SECRET-OUTPUT")}, rounds=1
    )
    await build_refine().ainvoke({"problem": PROBLEM, "solution": FIRST}, context=context)
    shown = repr([m.content for messages, _ in writes.sent for m in messages])
    assert "fine" in shown and "SECRET" not in shown and "77" not in shown


async def test_without_a_critique():
    verifier, writes = Verifier(), refiner("A: 1", "A: 2", "A: 2", "never")
    out = await run(verifier, writes, critic="none", rounds=4)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "rejected", "rejected", "unrevised"]
    assert verifier.sent == [] and "Review:" not in str(writes.sent[0][0][-1].content)
    assert out["stop"] == "unrevised" and out["solution"] == "A: 2"


@pytest.mark.parametrize("reply", ["", " \n", "<think>never ends", FIRST, answer("A: 1", finish_reason="length")])
async def test_a_reply_that_is_no_revision_leaves_the_solution(reply: Reply):
    out = await run(Verifier(), refiner(reply))
    assert [r.outcome for r in out["rounds"]] == ["rejected", "unrevised"]
    assert (out["solution"], out["stop"], out["error"]) == (FIRST, "unrevised", None)
    assert out["rounds"][1].made is not None  # what it cost is kept


async def test_no_verdict_is_no_reason_to_revise():
    out = await run(FakeChat(replies=script(verdict="no tags")), refiner("never"))
    assert [r.outcome for r in out["rounds"]] == ["no_verdict"] and out["stop"] == "no_verdict"
    assert {review.stop_reason for review in out["rounds"][0].reviews} == {StopReason.UNPARSED}


async def test_a_failed_review_is_a_typed_error_and_no_verdict():
    out = await run(FakeChat(replies=script(plan=ModelError("gone"))), refiner("never"))
    (only,) = out["rounds"]
    assert (only.outcome, only.error.kind, only.error.message) == ("open", "ModelError", "gone")
    assert (out["stop"], out["accepted"], out["error"]) == ("error", False, only.error)


async def test_a_failed_revision_is_a_typed_error_and_the_review_is_kept():
    out = await run(Verifier(), refiner(ModelError("gone")))
    (only,) = out["rounds"]
    assert (only.outcome, only.error.where, out["stop"], out["solution"]) == ("rejected", "refine", "error", FIRST)
    verifier = Verifier(good=("A: 18",))
    again = await run(verifier, refiner("A: 18"), {"rounds": out["rounds"]})
    assert (again["stop"], again["error"]) == ("accepted", None)
    assert not any("A: 19" in str(m.content) for messages, _ in verifier.sent for m in messages)  # not asked again


async def test_it_goes_on_from_the_rounds_made_before():
    short = await run(Verifier(), refiner("A: 1"), rounds=1)
    verifier, writes = Verifier(), refiner("never", "A: 2")
    out = await run(verifier, writes, {"rounds": [r.model_dump(mode="json") for r in short["rounds"]]}, rounds=2)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "rejected", "open"] and out["solution"] == "A: 2"
    assert len(writes.sent) == 1 and out["rounds"][0] == short["rounds"][0]
    assert resumed([made(error={"kind": "ModelError", "message": "m"}, outcome="rejected")]) == [
        made(outcome="rejected")
    ]
    assert resumed([Round(index=0, solution="", error=short["rounds"][0].error)]) == []


async def test_the_solver_writes_the_first_solution():
    solver = FakeChat(replies={"solve": ["A: 18"]})
    context = RefineContext(chat=Verifier(good=("A: 18",)), solver=solver, tools={"python": FakePython()})
    out = await build_refine().ainvoke({"problem": PROBLEM}, context=context)
    assert (out["solution"], out["stop"], out["rounds"][0].made[0].stage) == ("A: 18", "accepted", "solve")
    assert [str(m.content) for m in solver.sent[0][0]][-1] == PROBLEM
    failed = RefineContext(chat=Verifier(), solver=FakeChat(replies={"solve": [ModelError("gone")]}))
    out = await build_refine().ainvoke({"problem": PROBLEM}, context=failed)
    assert (out["stop"], out["solution"], out["error"].message) == ("error", "", "gone")


async def test_what_does_not_fit_a_context_is_a_limit_not_an_outage():
    """A review has no verdict, a revision leaves the solution, a first solution is empty: nothing is tried again."""
    long = ContextLengthError("too long")
    reviewed = await run(FakeChat(replies=script(plan=long)), refiner("never"))
    revised = await run(Verifier(), refiner(long))
    unsolved = RefineContext(chat=Verifier(), solver=FakeChat(replies={"solve": [long]}))
    first = await build_refine().ainvoke({"problem": PROBLEM}, context=unsolved)
    found = [(out["stop"], out["solution"], out["error"]) for out in (reviewed, revised, first)]
    assert found == [("no_verdict", FIRST, None), ("unrevised", FIRST, None), ("unrevised", "", None)]
    assert [resumed(out["rounds"]) == out["rounds"] for out in (reviewed, revised, first)] == [True] * 3


async def test_another_critic_takes_the_verifiers_place():
    seen: list[Attempt] = []

    async def judge(attempt: Attempt, context: RefineContext) -> Critique:
        seen.append(attempt)
        if len(seen) == 3:
            raise ModelError("the judge is gone")
        return Critique(accepted=False, text=f"Too small. The answer is 18. {'x' * 9000}")

    writes = refiner("A: 1", "A: 2")
    out = await run(Verifier(), writes, critique=judge, max_critique=100)
    assert [(a.solution, a.turns[-1].content) for a in seen] == [
        (FIRST, FIRST),
        ("A: 1", "A: 1"),
        ("A: 2", "A: 2"),
    ]
    shown = out["rounds"][0].critique
    assert shown.startswith("Too small. The answer is [withheld]") and len(shown) == 100
    assert (out["stop"], out["error"].message, out["error"].where) == ("error", "the judge is gone", "review")


def judged(critique: str, score: float) -> str:
    return f"<think>SECRET</think><critique>{critique}</critique><score>{score}</score>"


def judge(*replies: Reply) -> FakeChat:
    """Judge these solutions one after the other: each judgement is a session of its own, `…:round:judge`."""

    class Judge(FakeChat):
        def reply_to(self, stage: str, session: str, asked: int) -> Reply:
            return replies[int(session.split(":")[-2])] if stage == "judge" else "no form"

    return Judge()


async def reagent_c(judges: FakeChat, writes: FakeChat, **settings: Any) -> Any:
    context = RefineContext(judge=judges, refiner=writes, critic="judge", **settings)
    return await build_refine().ainvoke({"problem": PROBLEM, "solution": FIRST}, context=context)


async def test_the_judge_as_critic():
    """Reagent-C: first answer, critique, refined answer; the judge's analysis, score and answers are not passed on."""
    judges = judge(judged("Step 1: wrong. The answer is 18.", 0.2), judged("Fine.", 0.9))
    writes = refiner("3 * 6 = 18\nA: 18", "never")
    out = await reagent_c(judges, writes)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "accepted"] and out["solution"] == "3 * 6 = 18\nA: 18"
    shown = str(writes.sent[0][0][-1].content)
    assert "Review:\nStep 1: wrong. The answer is [withheld].\n" in shown
    assert "18" not in shown and "SECRET" not in shown and "0.2" not in shown
    (reviewed,) = out["rounds"][0].reviews
    assert (reviewed.role, reviewed.verdict.score) == ("judge", 0.2)
    first, second = (str(messages[-1].content) for messages, _ in judges.sent)
    assert f"## Turn 1\n{FIRST}\n\n# Judge" in first and "## Turn 1\n3 * 6 = 18\nA: 18\n\n# Judge" in second


@pytest.mark.parametrize(("threshold", "outcome"), [(0.5, "accepted"), (0.6, "rejected"), (1.0, "rejected")])
async def test_what_the_judge_accepts(threshold: float, outcome: str):
    out = await reagent_c(judge(judged("c", 0.6)), refiner("A: 1"), judge_accepts=threshold, rounds=1)
    assert out["rounds"][0].outcome == outcome
    always = await reagent_c(judge(judged("c", 1.0)), refiner("A: 1"), judge_accepts=1.0, rounds=1)
    assert always["solution"] == "A: 1"  # 1: nothing is left alone


async def test_a_judge_without_a_judgement_is_no_reason_to_revise():
    out = await reagent_c(judge("no form"), refiner("never"))
    assert (out["stop"], out["error"], out["solution"]) == ("no_verdict", None, FIRST)
    assert out["rounds"][0].reviews[0].stop_reason is StopReason.UNPARSED


async def test_a_judges_outage_is_a_typed_error():
    out = await reagent_c(judge(ModelError("gone")), refiner("never"))
    assert (out["stop"], out["error"].kind, out["error"].where) == ("error", "ModelError", "judge")


def review(role: Any, passed: bool, critique: str, findings: tuple[StepFinding, ...] = ()) -> Trajectory:
    verdict = Verdict(passed=passed, critique=critique, findings=findings)
    return Trajectory(role=role, stop_reason=StopReason.COMPLETED, verdict=verdict)


def test_what_reviews_say():
    wrong = (StepFinding(step=2, ok=False, note=""),)
    reviews = [
        review("forward_verifier", False, "Check 2 fails.", wrong),
        review("backward_verifier", True, "All checks hold."),
    ]
    assert told(reviews) == (
        "Forward review: the solution is wrong.\nStep 2: wrong.\nCheck 2 fails.\n\n"
        "Backward review: the solution is right.\nAll checks hold."
    )
    named = [review("forward_verifier", False, "Step 2: wrong. Why.", wrong)]
    assert told(named) == "Forward review: the solution is wrong.\nStep 2: wrong. Why."
    assert told([Trajectory(role="forward_verifier", stop_reason=StopReason.UNPARSED)]) == ""


def test_bounds():
    assert bounded("short", 10) == "short"
    assert bounded("a" * 50 + "b" * 50, 25) == "a" * 10 + "\n[…]\n" + "b" * 10
    assert len(bounded("x" * 100, 3)) == 3


def test_a_revision_out_of_time_keeps_the_solution():
    assert revision(made(), Written()) == Round(index=1, solution="s", outcome="unrevised")
    turn = Turn(stage="refine", prompt=(), content="t")
    assert revision(made(), Written("t", (turn,))) == Round(index=1, solution="t", made=(turn,))
