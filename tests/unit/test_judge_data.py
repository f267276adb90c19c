"""Training data for the judge: each of its own filters, the funnel, examples, prompts, and the order of GRPO."""

import pytest

from agents.store import Row
from agents.types import Candidate, ErrorInfo, Judgement, Message, StopReason, Task, Trajectory, Turn
from distill.judgements import judge_prompts, rrm_filters, select_judgements
from distill.sections import SelectConfig
from distill.select import FILTERS, to_examples
from tools.errors import DataError
from train.recipes import RECIPES
from train.reviews import Prompt
from train.settings import GrpoConfig

CFG = SelectConfig(max_completion_tokens=100)


def reply(score: float, critique: str = "Step 1: wrong.", thought: str = "t") -> str:
    return f"<think>{thought}</think>\n<critique>{critique}</critique>\n<score>{score}</score>"


def row(
    label: bool | None,
    score: float | None,
    *texts: str,
    question: str = "1 + 1?",
    stop: StopReason = StopReason.COMPLETED,
    tokens: int = 10,
    told: str = "Step 1: wrong.",
    **more: object,
) -> Row:
    """Make a judgement of a candidate; `told` is its critique as the graph passes it on."""
    task = Task(question=question)
    index = 0 if label else 1
    candidate = Candidate(task_id=task.id, index=index, text=f"solution {index}", correct=label)
    asked = Message(role="user", content=f"{question} {index} {more}")
    turns = tuple(
        Turn(stage="judge", prompt=(asked,), content=text, completion_tokens=tokens)
        for text in texts or (reply(score or 0.0),)
    )
    judged = Trajectory(
        role="judge",
        task_id=task.id,
        candidate_id=candidate.id,
        turns=turns,
        stop_reason=stop,
        verdict=None if score is None else Judgement(critique=told, score=score).verdict,
        error=ErrorInfo(kind="ModelError", message="gone") if stop is StopReason.ERROR else None,
        **more,  # pyright: ignore[reportArgumentType]
    )
    return Row(task, candidate, judged)


def kept(*rows: Row, **settings: object) -> tuple[list[Row], dict[str, int]]:
    cfg = CFG.model_copy(update={"balance": False, "drop_trivial": False, **settings})
    selected = select_judgements(rows, cfg)
    return selected.rows, selected.funnel.counts


@pytest.mark.parametrize(
    ("bad", "stage"),
    [
        (row(None, 0.9), "labelled"),
        (row(True, None, stop=StopReason.ERROR), "answered"),
        (row(True, None, stop=StopReason.LENGTH), "completed"),
        (row(True, None, "bad", stop=StopReason.UNPARSED), "parsed"),
        (row(True, 0.3), "right_side"),
        (row(False, 0.7), "right_side"),
        (row(True, 0.5), "right_side"),  # on neither side
        (row(False, 0.5), "right_side"),
        (row(True, 0.9, "bad", reply(0.9)), "well_formed"),  # repaired
        (row(True, 0.9, reply(0.9) + " So."), "well_formed"),
        (row(True, 0.9, reply(0.9).partition("\n")[2]), "well_formed"),  # no analysis
        (row(True, 0.9, reply(0.9, "The answer is 2."), told="The answer is [withheld]."), "silent"),
        (row(True, 0.9, tokens=101), "within_limits"),
    ],
)
def test_each_filter_takes_out_what_it_is_for(bad: Row, stage: str):
    good = row(True, 0.9, question="other?")
    left, counts = kept(good, bad)
    assert left == [good]
    names = list(counts)
    assert counts[stage] == 1 and counts[names[names.index(stage) - 1]] == 2


def test_good_ones_stay():
    rows = [row(True, 0.9), row(False, 0.1), row(True, 0.51, question="q"), row(False, 0.49, question="q")]
    left, counts = kept(*rows)
    assert {id(r) for r in left} == {id(r) for r in rows}
    assert set(counts.values()) == {4}


def test_an_analysis_that_came_apart_from_the_text_counts():
    bare = row(True, 0.9, reply(0.9).partition("\n")[2])
    turn = bare.trajectory.turns[0].model_copy(update={"reasoning": "apart"})
    whole = bare._replace(trajectory=bare.trajectory.model_copy(update={"turns": (turn,)}))
    assert kept(whole)[0] == [whole]


def test_balance_within_problems():
    """Two right and one wrong of one problem: a pair is kept; a problem with right ones only gives none."""
    rows = [row(True, 0.9), row(True, 0.8, sample_index=1), row(False, 0.1), row(True, 0.9, question="q")]
    left, counts = kept(*rows, balance=True)
    assert sorted(bool(r.candidate.correct) for r in left) == [False, True]
    assert {r.task.question for r in left} == {"1 + 1?"} and counts["unique"] == 4


def test_other_roles_are_left_out():
    verifier = row(True, 0.9)
    other = verifier._replace(trajectory=verifier.trajectory.model_copy(update={"role": "forward_verifier"}))
    assert kept(other)[1]["generated"] == 0


def test_the_stages_are_those_of_the_verifiers_but_for_their_own():
    names = list(rrm_filters({"math500": ["q"]}))
    assert [n for n in names if n in FILTERS] == [n for n in FILTERS if n != "right_verdict"]
    assert names.index("parsed") + 1 == names.index("right_side") and "not_in/math500" in names


def test_examples_have_the_role_and_the_whole_reply():
    (example,) = to_examples(kept(row(True, 0.9))[0])
    assert (example.role, example.label) == ("judge", True)
    assert [m.role for m in example.messages] == ["user", "assistant"] and example.messages[1].content == reply(0.9)


def test_the_funnel_is_a_table():
    selected = select_judgements([row(True, 0.9), row(False, 0.1)], CFG)
    assert selected.funnel.to_table()[0] == ["stage", "trajectories", "left", "judge/true", "judge/false"]


def test_prompts_are_labelled_and_each_text_once():
    task = Task(question="q", answer="SECRET")
    texts = [("a", True), ("b", False), (" a ", True), ("c", None)]
    found = [
        (task, Candidate(task_id=task.id, index=i, text=text, correct=correct))
        for i, (text, correct) in enumerate(texts)
    ]
    prompts = judge_prompts(found)
    assert [(p.problem, p.solution, p.role, p.label) for p in prompts] == [
        ("q", "a", "judge", True),
        ("q", "b", "judge", False),
    ]
    assert len({p.key for p in prompts}) == 2 and "SECRET" not in repr(prompts)


def test_the_recipe_trains_the_judge_alone_with_labels_in_turn():
    judges = [Prompt(f"j{i}", "p", "s", "judge", i < 3) for i in range(9)]
    others = [Prompt("f", "p", "s", "forward_verifier", True), Prompt("b", "p", "s", "backward_verifier", False)]
    rrm = RECIPES["rrm"].order([*others, *judges], GrpoConfig(recipe="rrm"), 0)
    assert {p.key for p in rrm} == {p.key for p in judges}
    assert [p.label for p in rrm[:6]] == [False, True] * 3 and not any(p.label for p in rrm[6:])
    agentv = RECIPES["agentv"].order([*others, *judges], GrpoConfig(), 0)
    assert {p.role for p in agentv} == {"forward_verifier", "backward_verifier"}
    with pytest.raises(DataError, match="no prompt for judge"):
        RECIPES["rrm"].order(others, GrpoConfig(recipe="rrm"), 0)
