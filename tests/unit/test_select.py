"""Selection: each filter, balance, order, funnel and conversion, on hand-made rows."""

import itertools
import random
from collections import Counter

import pytest

from agents.store import Row
from agents.types import Candidate, ErrorInfo, Message, Role, StopReason, Task, Trajectory, Turn, Verdict
from distill.sections import SelectConfig
from distill.select import FILTERS, Selection, conversation, decontaminate, ngrams, select, to_examples

FORWARD: Role = "forward_verifier"
BACKWARD: Role = "backward_verifier"
_serial = itertools.count()


def row(
    question: str = "1 + 1?",
    label: bool | None = True,
    role: Role = FORWARD,
    said: bool | None = None,
    stop: StopReason = StopReason.COMPLETED,
    tokens: int = 10,
    index: int = 0,
    text: str | None = None,
) -> Row:
    """Make a row; the verdict is right unless `said` says otherwise, and its conversation is its own."""
    task = Task(question=question)
    candidate = Candidate(task_id=task.id, index=index, text=f"solution {index}", correct=label)
    verdict = Verdict(passed=bool(label if said is None else said)) if stop is StopReason.COMPLETED else None
    content = text if text is not None else f"reply {next(_serial)}"
    turn = Turn(stage="verdict", prompt=(Message(role="user", content=question),), content=content)
    return Row(
        task,
        candidate,
        Trajectory(
            role=role,
            task_id=task.id,
            candidate_id=candidate.id,
            turns=(turn.model_copy(update={"completion_tokens": tokens}),),
            stop_reason=stop,
            verdict=verdict,
            error=ErrorInfo(kind="ModelError", message="down") if stop is StopReason.ERROR else None,
        ),
    )


def problem(question: str, *labels: bool, role: Role = FORWARD) -> list[Row]:
    return [row(question, label, role, index=i) for i, label in enumerate(labels)]


def config(**settings: object) -> SelectConfig:
    return SelectConfig.model_validate({"balance": False, "drop_trivial": False} | settings)


def kept(rows: list[Row], **settings: object) -> set[int]:
    """Return the places of the rows kept."""
    chosen = select(rows, config(**settings)).rows
    return {i for i, r in enumerate(rows) if any(r is c for c in chosen)}


def test_only_finished_trajectories_with_the_right_verdict_are_kept() -> None:
    rows = [
        row(label=True),
        row(label=False, index=1),
        row(label=True, said=False, index=2),
        row(label=False, said=True, index=3),
        row(label=None, index=4),
        *(row(stop=stop, index=5 + i) for i, stop in enumerate(StopReason) if stop is not StopReason.COMPLETED),
    ]
    assert kept(rows) == {0, 1}


def test_funnel_counts_every_stage() -> None:
    rows = [
        *problem("good?", True, False),  # kept
        row("good?", None, index=2),  # unlabelled
        *problem("trivial?", True, True),
        row("good?", True, index=3, stop=StopReason.ERROR),
        row("good?", True, index=4, stop=StopReason.MAX_TURNS),
        row("good?", True, index=5, stop=StopReason.UNPARSED),
        row("good?", True, index=6, said=False),
        row("good?", True, index=7, tokens=101),
        row("good?", False, index=8, text="same"),
        row("good?", False, index=9, text="same"),
    ]
    funnel = select(rows, SelectConfig(max_completion_tokens=100)).funnel
    assert funnel.counts == {
        "generated": 12,
        "labelled": 11,
        "non_trivial": 9,
        "answered": 8,
        "completed": 7,
        "parsed": 6,
        "right_verdict": 5,
        "within_limits": 4,
        "unique": 3,
        "decontaminated": 3,
        "selected": 2,
    }
    assert funnel.stages[0].groups == {
        "forward_verifier/true": 8,
        "forward_verifier/false": 3,
        "forward_verifier/unlabelled": 1,
    }
    table = funnel.to_table()
    assert table[0] == [
        "stage",
        "trajectories",
        "left",
        "forward_verifier/true",
        "forward_verifier/false",
        "forward_verifier/unlabelled",
    ]
    assert table[1] == ["generated", "12", "100 %", "8", "3", "1"]
    assert table[-1] == ["selected", "2", "17 %", "1", "1", "0"]
    assert funnel.worst == "non_trivial (2 of 11)"
    assert list(funnel.counts)[1:] == list(FILTERS)


def test_nothing_at_all() -> None:
    chosen = select([], SelectConfig())
    assert chosen.rows == [] and set(chosen.funnel.counts.values()) == {0}
    assert chosen.funnel.to_table()[-1] == ["selected", "0", "0 %"] and chosen.funnel.worst == ""


def test_trivial_is_judged_by_all_candidates_not_by_the_accepted_ones() -> None:
    rows = [row("p?", True), row("p?", False, said=True, index=1)]
    assert kept(rows, drop_trivial=True) == {0}
    assert kept(problem("all right?", True, True), drop_trivial=True) == set()
    assert kept(problem("all wrong?", False, False), drop_trivial=True) == set()
    assert kept(problem("all right?", True, True), drop_trivial=False) == {0, 1}
    assert kept(problem("one only?", True), drop_trivial=True) == {0}


def test_as_many_true_as_false_from_as_many_problems_as_there_are() -> None:
    rows = problem("a?", True, True, True, False) + problem("b?", True, False, False) + problem("c?", True, True)
    chosen = select(rows, SelectConfig(drop_trivial=False)).rows
    found = Counter((r.task.question, r.candidate.correct) for r in chosen)
    assert found == {("a?", True): 1, ("b?", True): 1, ("c?", True): 1, ("a?", False): 1, ("b?", False): 2}


def test_balance_of_the_roles_keeps_the_balance_of_the_labels() -> None:
    rows = [r for i in range(5) for r in problem(f"{i}?", True, False, role=FORWARD)]
    rows += [r for i in range(2) for r in problem(f"{i}?", True, False, role=BACKWARD)]
    found = Counter((r.trajectory.role, r.candidate.correct) for r in select(rows, SelectConfig()).rows)
    assert found == {(FORWARD, True): 2, (FORWARD, False): 2, (BACKWARD, True): 2, (BACKWARD, False): 2}


def test_one_role_alone_is_not_cut_to_nothing() -> None:
    assert len(select(problem("a?", True, False), SelectConfig()).rows) == 2


def test_cap_spreads_over_problems_before_it_takes_second_rows() -> None:
    rows = [r for i in range(4) for r in problem(f"{i}?", True, False, True, False)]
    chosen = select(rows, SelectConfig(max_examples=8)).rows
    assert Counter(r.task.question for r in chosen) == {f"{i}?": 2 for i in range(4)}
    assert len(select(rows, SelectConfig(max_examples=5)).rows) == 4  # whole pairs only
    assert len(select(rows, config(max_examples=5)).rows) == 5


def test_same_seed_same_rows_in_the_same_order_whatever_the_order_of_arrival() -> None:
    rows = [r for i in range(12) for r in problem(f"{i}?", True, False, True)]
    rows += [row("0?", True, index=i, text="same") for i in range(3, 9)]
    chosen = select(rows, SelectConfig(max_examples=8), seed=3).rows
    mixed = rows.copy()
    random.Random(0).shuffle(mixed)
    again = select(mixed, SelectConfig(max_examples=8), seed=3).rows
    assert [r.trajectory.key for r in again] == [r.trajectory.key for r in chosen]
    other = select(rows, SelectConfig(max_examples=8), seed=4).rows
    assert [r.trajectory.key for r in other] != [r.trajectory.key for r in chosen]


def test_repeats_are_dropped_once() -> None:
    rows = [row(text="x"), row(text="x", index=1), row(text="y", index=2), row("other?", text="x")]
    assert len(kept(rows)) == 3


def test_ngrams() -> None:
    assert ngrams("A b, c!", 2) == {("a", "b"), ("b", "c")}
    assert ngrams("Two words", 5) == {("two", "words")}
    assert ngrams("costs 1.50", 1) == {("costs",), ("1.50",)}


@pytest.mark.parametrize(
    ("question", "stays"),
    [
        ("one two three four five six", False),  # the same
        ("One two, three FOUR five six!", False),  # but for case and punctuation
        ("one two three four seven eight", False),  # 2 of 4 trigrams
        ("one two three seven eight nine", True),  # 1 of 4
        ("seven eight nine", True),
        ("one two", True),  # shorter than n: the whole text counts
    ],
)
def test_decontaminate_by_share_of_ngrams(question: str, stays: bool) -> None:
    by = Selection(config(decontaminate_ngram=3, decontaminate_share=0.5), held_out=("one two three four five six",))
    assert bool(decontaminate([row(question)], by)) is stays


def test_short_question_that_is_held_out_is_dropped() -> None:
    held_out = ["4 - 1 - 7 ="]
    assert select([row("4 - 1 - 7 =")], config(), held_out=held_out).rows == []
    assert len(select([row("4 - 1 - 8 =")], config(), held_out=held_out).rows) == 1


def test_named_benchmarks_are_stages_of_the_funnel_of_their_own() -> None:
    words = "one two three four five six"
    rows = [row(words), row(f"{words} seven"), row("eight nine ten eleven"), row("twelve thirteen")]
    benchmarks = {"math500": [words], "file": ["Eight, nine, ten: eleven!"]}
    selected = select(rows, config(decontaminate_ngram=3), held_out=["twelve thirteen"], benchmarks=benchmarks)
    assert selected.rows == []
    counts = selected.funnel.counts
    assert list(counts)[-4:] == ["decontaminated", "not_in/math500", "not_in/file", "selected"]
    assert [counts[name] for name in list(counts)[-4:]] == [3, 1, 0, 0]
    assert selected.funnel.to_table()[-2][:2] == ["not_in/file", "0"]


def test_without_benchmarks_the_funnel_is_as_ever() -> None:
    assert list(select(problem("a?", True, False), config()).funnel.counts)[1:] == list(FILTERS)


def test_a_cap_without_balance_is_a_choice_of_the_seed() -> None:
    rows = [row(f"{i}?") for i in range(20)]
    chosen = {seed: kept_by(rows, seed) for seed in (0, 1)}
    assert len(chosen[0]) == len(chosen[1]) == 5
    assert chosen[0] == kept_by(rows, 0) != chosen[1]
    assert chosen[0] != {f"{i}?" for i in range(5)}  # not the first ones


def kept_by(rows: list[Row], seed: int) -> set[str]:
    return {r.task.question for r in select(rows, config(max_examples=5), seed=seed).rows}


def test_examples_show_the_conversation_with_its_thoughts() -> None:
    made = row(label=False)
    turns = (
        Turn(
            stage="plan",
            prompt=(Message(role="system", content="s"), Message(role="user", content="u")),
            content="plan",
            reasoning=" hm \n",
        ),
        Turn(stage="validate", prompt=(Message(role="tool", content="4"),), content="fine"),
    )
    made = made._replace(trajectory=made.trajectory.model_copy(update={"turns": turns}))
    (example,) = to_examples([made])
    assert [(m.role, m.content) for m in example.messages] == [
        ("system", "s"),
        ("user", "u"),
        ("assistant", "<think>\nhm\n</think>\n\nplan"),
        ("tool", "4"),
        ("assistant", "fine"),
    ]
    assert conversation(made.trajectory) == list(example.messages)
    assert (example.label, example.role, example.task_id) == (False, FORWARD, made.task.id)
    assert example.trajectory_key == made.trajectory.key
