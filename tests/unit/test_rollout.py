"""Rows for the trainer, dynamic sampling and metrics, with a fake graph; ids and masks are worked out by hand."""

import itertools
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace

import pytest

from agents.types import ErrorInfo, Judgement, StopReason, ToolCall, Trajectory, Turn, Verdict
from graphs.state import VerifierContext
from tests.unit.fakes import FakeChat
from tools.errors import ModelError, RolloutError
from train import rollout
from train.groups import choose_groups, row_of, share_of
from train.reviews import Group, Prompt, rollout_metrics
from train.rewards import verdict_reward
from train.rollout import ReviewRollouts, judging, roll_out

END = 99
NAMES = ("tpr", "tnr", "balanced_accuracy")
IN_FORM = "<think>t</think><critique>c</critique><score>0.8</score>"


def turn(prompt: list[int], completion: list[int], **more) -> Turn:
    return Turn(
        stage=more.pop("stage", "plan"),
        prompt=(),
        content="",
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        logprobs=tuple(-0.5 for _ in completion),
        completion_tokens=len(completion),
        **more,
    )


def trajectory(passed: bool | None, turns: tuple[Turn, ...] | None = None) -> Trajectory:
    stop = StopReason.UNPARSED if passed is None else StopReason.COMPLETED
    return Trajectory(
        role="forward_verifier",
        turns=turns if turns is not None else (turn([1, 2], [3, END]),),
        stop_reason=stop,
        verdict=None if passed is None else Verdict(passed=passed),
    )


def outage() -> Trajectory:
    return Trajectory(
        role="forward_verifier", stop_reason=StopReason.ERROR, error=ErrorInfo(kind="ModelError", message="gone")
    )


def test_row_masks_what_the_environment_wrote():
    """Prompt 1 2, reply 3 END; environment 7 8; reply 4 END: mask 1 1 0 0 1 1, logprobs 0 on the environment."""
    row = row_of(trajectory(True, (turn([1, 2], [3, END]), turn([1, 2, 3, END, 7, 8], [4, END]))).turns)
    assert row.prompt_ids == [1, 2]
    assert row.completion_ids == [3, END, 7, 8, 4, END]
    assert row.env_mask == [1, 1, 0, 0, 1, 1]
    assert row.logprobs == [-0.5, -0.5, 0.0, 0.0, -0.5, -0.5]


def test_a_prompt_that_does_not_extend_the_ids_held_is_a_typed_error():
    with pytest.raises(RolloutError, match="does not extend"):
        row_of(trajectory(True, (turn([1, 2], [3, END]), turn([1, 2, 5, END, 7], [4, END]))).turns)


def test_a_turn_without_ids_is_a_typed_error():
    with pytest.raises(RolloutError, match="no token ids"):
        row_of(trajectory(True, (Turn(stage="plan", prompt=(), content=""),)).turns)


def test_live_groups_come_first_and_in_order():
    prompts = [Prompt(str(i), "p", "s", "forward_verifier", True) for i in range(4)]
    made = [Group(p, (), r) for p, r in zip(prompts, [(1, 1), (1, -1), (-1, -1), (-1, 1)], strict=True)]
    assert [g.prompt.key for g in choose_groups(made, 3)] == ["1", "3", "0"]


def test_metrics_by_hand():
    """Label true: 1 of 2 right, TPR 0.5. Label false: 2 of 2 right, TNR 1. Balanced 0.75; one of two groups is dead."""
    right = Prompt("a", "p", "s", "forward_verifier", True)
    wrong = Prompt("b", "p", "s", "backward_verifier", False)
    call = turn([1], [2], tool_calls=(ToolCall(name="python", arguments={}),))
    made = [
        Group(right, (trajectory(True), trajectory(None), outage()), (1.0, -1.0, None)),
        Group(wrong, (trajectory(False), trajectory(False, (call,))), (1.0, 1.0)),
    ]
    m = rollout_metrics(made, made[:1])
    assert (m["verdict/tpr"], m["verdict/tnr"], m["verdict/balanced_accuracy"]) == (0.5, 1.0, 0.75)
    assert m["verdict/base_rate"] == pytest.approx(1 / 3)
    assert m["groups/zero_variance"] == 0.5
    assert m["groups/live_in_update"] == 1.0
    assert m["rollouts/outages"] == 1.0
    assert m["rollouts/completed"] == 0.75
    assert m["tools/calls"] == 0.25
    assert (m["reward/forward_verifier"], m["reward/backward_verifier"]) == (0.0, 1.0)
    assert "verdict/tpr/forward_verifier" not in m  # it saw one label only


def test_rates_by_role_by_hand():
    """Forward: 1 of 2 right on true, 1 of 1 on false. Backward: 1 of 1 and 0 of 1. In all: 2 of 3 and 1 of 2."""
    found = {("forward_verifier", True): (1.0, -1.0), ("forward_verifier", False): (1.0,)}
    found |= {("backward_verifier", True): (1.0,), ("backward_verifier", False): (-1.0,)}
    made = [
        Group(Prompt(str(i), "p", "s", role, label), tuple(trajectory(True) for _ in rewards), rewards)  # pyright: ignore
        for i, ((role, label), rewards) in enumerate(found.items())
    ]
    m = rollout_metrics(made, made)
    rates = {
        name: [m[f"verdict/{name}{of}"] for of in ("", "/forward_verifier", "/backward_verifier")] for name in NAMES
    }
    assert rates["tpr"] == pytest.approx([2 / 3, 0.5, 1.0])
    assert rates["tnr"] == pytest.approx([0.5, 1.0, 0.0])
    assert rates["balanced_accuracy"] == pytest.approx([7 / 12, 0.75, 0.5])


def test_processes_never_take_the_same_fresh_prompts():
    fresh = list("abcdefg")
    taken = [
        fresh[share_of(SimpleNamespace(accelerator=SimpleNamespace(process_index=i, num_processes=3)))]
        for i in range(3)
    ]
    assert sorted(itertools.chain(*taken)) == fresh and [len(part) for part in taken] == [3, 2, 2]
    assert fresh[share_of(SimpleNamespace())] == fresh


@asynccontextmanager
async def no_tools():
    yield {}


class FakeGraph:
    """Answers by the prompt's key: a list of verdicts, one a rollout."""

    def __init__(self, verdicts):
        self.verdicts, self.seen = verdicts, []

    async def ainvoke(self, state, context):
        _, key, i = state["trajectory_id"].split("/")
        self.seen.append(key)
        passed = self.verdicts[key][int(i)]
        return {"trajectory": outage() if passed == "down" else trajectory(passed)}


def roll(monkeypatch, verdicts, keys, budget):
    graph = FakeGraph(verdicts)
    monkeypatch.setattr(rollout, "build_verifier", lambda: graph)
    logged = {}
    trainer = SimpleNamespace(
        num_generations=2, state=SimpleNamespace(global_step=0), _log_metric=lambda k, v: logged.__setitem__(k, v)
    )
    policy = SimpleNamespace(chat=None, refresh=lambda: None, attached=lambda trainer: nullcontext())
    pool = [Prompt(k, "p", "s", "forward_verifier", True) for k in verdicts]
    func = ReviewRollouts(
        pool,
        policy,  # pyright: ignore[reportArgumentType]
        VerifierContext(),
        no_tools,
        reward=verdict_reward,
        resample_budget=budget,
        end_token=END,
        seed=0,
    )
    return func([k for k in keys for _ in range(2)], trainer), graph.seen, logged


def judgement(score: float | None, texts: tuple[str, ...] = (IN_FORM,)) -> Trajectory:
    return Trajectory(
        role="judge",
        turns=tuple(turn([1], [2], stage="judge").model_copy(update={"content": text}) for text in texts),
        stop_reason=StopReason.UNPARSED if score is None else StopReason.COMPLETED,
        verdict=None if score is None else Judgement(critique="c", score=score).verdict,
    )


def test_metrics_of_judges_by_hand():
    """Label true: 0.8 and none; false: 0.8 and 0.4. TPR 1/2, TNR 1/2 although every reward is positive."""
    right, wrong = (Prompt(key, "p", "s", "judge", label) for key, label in (("a", True), ("b", False)))
    made = [
        Group(right, (judgement(0.8), judgement(None, ("bad", "bad"))), (1.16, 0.0)),
        Group(wrong, (judgement(0.8), judgement(0.4)), (0.56, 1.04)),
    ]
    m = rollout_metrics(made, made)
    assert (m["verdict/tpr"], m["verdict/tnr/judge"]) == (0.5, 0.5)
    assert m["judge/score"] == pytest.approx(2 / 3)
    assert m["judge/brier"] == pytest.approx((0.04 + 0.64 + 0.16) / 3)
    assert (m["judge/repaired"], m["reward/judge"]) == pytest.approx((0.25, 0.69))


async def test_a_judges_prompt_runs_the_judges_graph():
    """With the verifier's limits; the label is not sent."""
    chat = FakeChat(replies={"judge": [IN_FORM]})
    context = VerifierContext(chat=chat, max_tokens=7, max_trajectory_tokens=100, temperature=0.5)
    turns = (Turn(stage="think", prompt=(), content="FIRST"), Turn(stage="think", prompt=(), content="LAST"))
    for given, shown in (((), "## Turn 1\nTHE SOLUTION\n"), (turns, "## Turn 1\nFIRST\n\n## Turn 2\nLAST\n")):
        prompt = Prompt("k", "THE PROBLEM", "THE SOLUTION", "judge", True, given)
        made = await roll_out(prompt, "0/k/1", context)
        assert (made.role, made.stop_reason) == ("judge", StopReason.COMPLETED)
        messages, settings = chat.sent[-1]
        assert "THE PROBLEM" in str(messages[-1].content) and shown in str(messages[-1].content)
        assert (settings["session"], settings["max_tokens"], settings["temperature"]) == ("0/k/1", 7, 0.5)
        assert "True" not in repr(messages)
    assert judging(context).max_transcript == 200


def test_dead_groups_are_replaced_by_fresh_prompts_never_by_copies(monkeypatch):
    verdicts = {"live": [True, False], "dead": [True, True], "fresh": [False, True]}
    out, seen, logged = roll(monkeypatch, verdicts, ["live", "dead"], budget=1)
    assert seen == ["live", "live", "dead", "dead", "fresh", "fresh"]  # in one wave
    assert out["reward"] == [1.0, -1.0, -1.0, 1.0]
    assert all(sum(mask) == 2 for mask in out["env_mask"])
    assert logged["groups/resampled"] == 1.0


def test_what_stays_dead_after_the_budget_is_left_out_of_the_update(monkeypatch):
    verdicts = {"live": [True, False], "dead": [True, True], "other": [False, False]}
    out, _, logged = roll(monkeypatch, verdicts, ["live", "dead"], budget=1)
    assert [sum(mask) for mask in out["env_mask"]] == [2, 2, 0, 0]
    assert out["completion_ids"][2:] == [[END], [END]]
    assert logged["groups/live_in_update"] == 0.5
    assert logged["groups/zero_variance"] == pytest.approx(2 / 3)


def test_an_outage_is_masked_and_has_no_reward(monkeypatch):
    out, _, logged = roll(monkeypatch, {"a": ["down", True], "b": [False, True]}, ["b", "a"], budget=0)
    assert out["reward"] == [-1.0, 1.0, None, 1.0]
    assert [sum(mask) for mask in out["env_mask"]] == [2, 2, 0, 0]
    assert logged["rollouts/outages"] == 1.0


def test_a_rollout_that_ran_out_of_time_before_its_first_reply_is_silent(monkeypatch):
    """It has no tokens to train on; its reward, the policy's own doing, still counts in the group."""
    timed_out = trajectory(None, ())
    monkeypatch.setattr(FakeGraph, "ainvoke", lambda self, state, context: given(state, timed_out))
    out, _, _ = roll(monkeypatch, {"a": [None, True]}, ["a"], budget=0)
    assert out["reward"] == [-1.0, 1.0]
    assert [sum(mask) for mask in out["env_mask"]] == [0, 2]


async def given(state, timed_out):
    return {"trajectory": timed_out if state["trajectory_id"].endswith("/0") else trajectory(True)}


def test_when_everything_is_down_training_stops_with_one_line(monkeypatch):
    with pytest.raises(ModelError, match="all rollouts of step 0 failed \\(gone\\)"):
        roll(monkeypatch, {"a": ["down", "down"]}, ["a"], budget=0)
