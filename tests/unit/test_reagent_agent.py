"""Reagent's rollouts with the agent and a real PolicyChat: rows of several turns, masks, rewards, outages, sessions."""

from collections.abc import Callable
from typing import Any

import pytest

from agents.requests import Completion, Request
from graphs.refine_state import RefineContext
from graphs.state import VerifierContext
from tests.unit.fakes import FakePython
from tests.unit.test_reagent import CRITIQUE, Judge, _opened, roll  # noqa: F401
from tests.unit.writing import Writer, text
from tools.base import ToolResult
from tools.errors import ModelError, ToolError
from train.reagent import answer_context
from train.settings import GrpoConfig

PAGE = "The cat was seen above the attic."
SENT = f"\n<|im_start|>user\n<tool_response>\n{PAGE}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
WRONG, RIGHT = "<answer>in the garden</answer>", "<answer>on the roof</answer>"
LIMITS = VerifierContext(max_tokens=400, max_turns=4, max_tool_calls=3, max_trajectory_tokens=8000)


def call(query: str) -> str:
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


class FakeSearch(FakePython):
    """Finds the same page for every query but for those that begin with "gone": there it is down."""

    name = "search"
    description = "Find pages."
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}  # noqa: RUF012
    example = {"query": "x"}  # noqa: RUF012

    def __init__(self) -> None:
        """Take the page."""
        super().__init__(PAGE)

    async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
        found = await super()._run(arguments, key)
        if arguments["query"].startswith("gone"):
            raise ToolError("no index")
        return found


def acting(**replies: Any) -> Callable[[str, int], Any]:
    """Act: a call, then an answer. The first attempts are way 0 and way 1, and so on; the others mend them.

    Replies by name: `look` and `say` of way 0, `again` and `mend` of what mends it; all others go well.
    """

    def write(prompt: str, asked: int) -> Any:
        opening = prompt.split("<|im_start|>assistant")[0]
        replied = prompt.count("<|im_start|>assistant") - 1
        if "# Again" in opening:
            way0 = "cat 0" in opening
            steps = (replies.get("again") if way0 else None) or call("anew"), (way0 and replies.get("mend")) or RIGHT
        elif not replied:
            return (replies.get("look") if not asked else None) or f"Let me look. {call(f'cat {asked}')}"
        else:
            way0 = "cat 0" in prompt
            steps = "", (replies.get("say") or WRONG) if way0 else RIGHT
        return steps[min(replied, 1)]

    return write


class Cutting(Writer):
    """Cuts the replies that hold "CUT"."""

    async def generate(self, request: Request) -> Completion:
        made = await super().generate(request)
        cut = "CUT" in text(made.token_ids)
        return Completion(made.token_ids[:-1], made.logprobs[:-1], "length") if cut else made


def with_agent(limits: VerifierContext = LIMITS) -> RefineContext:
    return answer_context(GrpoConfig(), limits, "agent")


def act(writer: Writer, judge: Any = None, search: FakeSearch | None = None, **more: Any) -> tuple[dict, dict]:
    """Roll out one problem, two pairs by default."""
    tools = {"search": search or FakeSearch()}
    return roll(writer, judge or Judge(), context=with_agent(more.pop("limits", LIMITS)), tools=tools, **more)


def by_mask(out: dict, row: int, mask: int) -> str:
    """Return what the tokens of a row say that have this mask."""
    ids = zip(out["completion_ids"][row], out["env_mask"][row], strict=True)
    return text([token for token, own in ids if own == mask])


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_pool_is_first_trajectories_then_refined_ones():
    """G 2, λ 0.5. First: wrong (0 + 0), right (1 + 0.5); refined: right, right (1.5 each)."""
    out, logged = act(Writer(acting()))
    assert out["reward"] == [0.0, 1.5, 1.5, 1.5]
    assert (logged["rule/first"], logged["rule/refined"], logged["rule/delta"]) == (0.5, 1.0, 0.5)
    assert (logged["pool/dropped"], logged["rollouts/completed"]) == (0.0, 1.0)
    assert ["cat 0" in text(ids) for ids in out["prompt_ids"]] == [False, False, True, False]
    assert ["cat 1" in text(ids) for ids in out["prompt_ids"]] == [False, False, False, True]


def test_what_the_policy_wrote_is_trained_on_and_no_observation():
    """Two turns a row, the page and its marks between them: mask 0 and log-probability 0 on every one of its tokens."""
    out, _ = act(Writer(acting()))
    replies = [
        (f"Let me look. {call('cat 0')}", WRONG),
        (f"Let me look. {call('cat 1')}", RIGHT),
        (call("anew"), RIGHT),
        (call("anew"), RIGHT),
    ]
    for row, (first, second) in enumerate(replies):
        assert text(out["completion_ids"][row]) == f"{first}<|im_end|>{SENT}{second}<|im_end|>"
        assert by_mask(out, row, 1) == f"{first}<|im_end|>{second}<|im_end|>"
        assert by_mask(out, row, 0) == SENT
    assert out["logprobs"] == [[-0.25 * own for own in mask] for mask in out["env_mask"]]


def test_review_and_earlier_attempt_are_context_and_no_trained_token():
    out, _ = act(Writer(acting()))
    for row, ids in enumerate(out["prompt_ids"]):
        prompt, is_refined = text(ids), row >= 2
        for part in (
            f"Review:\n{CRITIQUE}\n",
            "Earlier attempt:\n## Turn 1\nLet me look. ",
            f"## Observation 1\n{PAGE}",
        ):
            assert (part in prompt) is is_refined
        assert CRITIQUE not in text(out["completion_ids"][row]) and PAGE not in by_mask(out, row, 1)
    assert f"## Turn 2\n{WRONG}\n\nReview:" in text(out["prompt_ids"][2])


def test_the_judge_is_shown_every_turn_of_both_attempts():
    judge = Judge()
    act(Writer(acting()), judge)
    shown = sorted(seen.split("Trajectory:\n")[1].split("\n\n# Judge")[0] for seen in judge.seen)
    wanted = [
        f"## Turn 1\nLet me look. {call('cat 0')}\n\n## Observation 1\n{PAGE}\n\n## Turn 2\n{WRONG}",
        f"## Turn 1\nLet me look. {call('cat 1')}\n\n## Observation 1\n{PAGE}\n\n## Turn 2\n{RIGHT}",
        *[f"## Turn 1\n{call('anew')}\n\n## Observation 1\n{PAGE}\n\n## Turn 2\n{RIGHT}"] * 2,
    ]
    assert shown == sorted(wanted)


def test_nobody_is_shown_the_reference_answer():
    """A policy that never writes it: it stands in no prompt, and the judge is not told."""
    writer, judge = Writer(lambda prompt, asked: f"<answer>place {len(prompt) + asked}</answer>"), Judge()
    act(writer, judge)
    assert len(writer.prompts) == len(judge.seen) == 4
    assert all("roof" not in shown for shown in (*writer.prompts, *judge.seen))


def test_every_attempt_has_a_session_of_its_own():
    """The policy's chat refuses a conversation that does not extend the one held; the tools' sessions are freed."""
    search = FakeSearch()
    act(Writer(acting()), search=search)
    keys = {"0/a/0", "0/a/1", "0/a/0:refine:0", "0/a/1:refine:0"}
    assert sorted(search.released) == sorted(keys) and len(search.calls) == 4
    asked = {key: arguments["query"] for arguments, key in search.calls}
    assert asked == {"0/a/0": "cat 0", "0/a/1": "cat 1", "0/a/0:refine:0": "anew", "0/a/1:refine:0": "anew"}


# --- rewards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reward"),
    [
        ("<answer>The Roof.</answer> I do not know", 0.0),  # not the same words
        ("<answer>on a roof!</answer>", 1.0),  # articles, case and punctuation aside
        ("<answer>on the roof of the house</answer>", 0.0),  # never containment
        ("<answer>roof</answer>", 0.0),
        ("<answer>in the garden</answer>\nAnswer: on the roof", 0.0),  # what stands beside the tag is no answer
        ("<answer>on the roof</answer>\nAnswer: in the garden", 1.0),
        ("\\boxed{on the roof}", 1.0),
        ("<think><answer>on the roof</answer></think><answer>in the garden</answer>", 0.0),
        (f"{call('more')}<answer>on the roof</answer>", 0.0),  # written before the call's result was seen
        ("<answer>on the roof</answer>CUT", 0.0),
    ],
)
def test_the_rule_reads_the_final_answer_of_the_last_turn(said: str, reward: float):
    out, logged = act(Cutting(acting(say=said)), weight=0.0)
    assert out["reward"] == [reward, 1.0, 1.0, 1.0]
    assert logged["rule/first"] == (reward + 1) / 2 and logged["pool/dropped"] == 0.0


def test_an_answer_in_the_words_of_a_solver_is_none():
    """Pointed out once, then the trajectory ends: 0, and it is refined all the same."""
    out, _ = act(Writer(acting(say="Answer: on the roof", mend="Answer: on the roof")), weight=0.0)
    assert out["reward"] == [0.0, 1.0, 0.0, 1.0]
    assert by_mask(out, 0, 1).count("Answer: on the roof<|im_end|>") == 2


def test_a_second_attempt_that_is_cut_is_worth_nothing_and_stays_in_the_pool():
    out, logged = act(Cutting(acting(mend=f"{RIGHT}CUT")))
    assert out["reward"] == [0.0, 1.5, 0.5, 1.5]  # the judge saw the answer in it; the rule did not
    assert logged["pool/dropped"] == 0.0 and by_mask(out, 2, 1).endswith(f"{RIGHT}CUT")


@pytest.mark.parametrize(("weight", "rewards", "judged"), [(0.5, [0.0, 1.5, 1.5, 1.5], 4), (0.0, [0.0, 1, 1, 1], 2)])
def test_without_weight_the_judge_only_criticises(weight: float, rewards: list[float], judged: int):
    judge = Judge()
    out, _ = act(Writer(acting()), judge, weight=weight)
    assert out["reward"] == rewards and len(judge.seen) == judged


@pytest.mark.parametrize(("weight", "worth", "judged"), [(0.5, 1.5, 3), (0.0, 1.0, 0)])
def test_reagent_r_is_first_trajectories_alone(weight: float, worth: float, judged: int):
    """At λ = 0 nobody asks the judge."""
    judge, writer = Judge(), Writer(acting())
    out, logged = act(writer, judge, rows=3, refines=False, weight=weight)
    assert out["reward"] == [0.0, worth, worth] and len(judge.seen) == judged
    assert len(writer.prompts) == 6 and not any("# Again" in prompt for prompt in writer.prompts)
    assert by_mask(out, 0, 0) == SENT and "rule/refined" not in logged


# --- outages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [call("gone"), ModelError("no engine")])
def test_an_outage_in_a_first_trajectory_drops_the_pair(look: Any):
    """Way 0 is lost, whatever it had written, and with it what should mend it; the other two ways stay."""
    out, logged = act(Writer(acting(look=look)), rows=6)
    assert out["reward"] == [None, 1.5, 1.5, None, 1.5, 1.5]
    assert (logged["pool/dropped"], logged["pool/dropped_by_judge"], logged["rollouts/n"]) == (2.0, 0.0, 6.0)


def test_an_outage_in_a_refined_trajectory_drops_its_row_alone():
    out, logged = act(Writer(acting(again=call("gone"))))
    assert out["reward"] == [0.0, 1.5, None, 1.5]
    assert (logged["pool/dropped"], logged["pool/dropped_by_judge"]) == (1.0, 0.0)
    assert [sum(mask) > 0 for mask in out["env_mask"]] == [True, True, False, True]


def test_when_search_is_down_training_stops_with_the_reason():
    with pytest.raises(ModelError, match="all rollouts of step 0 failed \\(no index\\)"):
        act(Writer(lambda prompt, asked: call("gone")))


def test_an_outage_of_the_judge_drops_what_it_did_not_score():
    out, logged = act(Writer(acting()), Judge(lambda answer: "garden" in answer))
    assert out["reward"] == [None, 1.5, None, 1.5]
    assert logged["pool/dropped"] == logged["pool/dropped_by_judge"] == 2.0


def test_the_agents_limits_are_those_of_the_rollouts():
    """One step: the call is not run, there is no answer, and the policy is sent nothing more."""
    search, limits = FakeSearch(), LIMITS.model_copy(update={"max_turns": 1})
    out, _ = act(Writer(acting(again=RIGHT)), search=search, limits=limits, weight=0.0)
    assert out["reward"] == [0.0, 0.0, 1.0, 0.0] and search.calls == []
    assert [0 in mask for mask in out["env_mask"]] == [False] * 4
