"""The mixture of several roles: what each role's filters take out, shares, cap, order, the funnel's names."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agents.store import Row, Store
from agents.types import Candidate, ErrorInfo, Judgement, Message, Role, StopReason, Task, Trajectory, Turn, Verdict
from distill.export import open_run
from distill.mixture import Apart, answer_row, in_shares, is_verifiers_alone, select_mixture
from distill.mixture_section import MixtureConfig
from distill.sections import SelectConfig
from distill.select import FILTERS, Selected, select, to_examples
from tests.unit.made_run import make_run
from tools.errors import DataError, NothingAcceptedError

FORWARD: Role = "forward_verifier"
BACKWARD: Role = "backward_verifier"
ROOF = "\nAnswer: roof"


def task(i: int) -> Task:
    """A problem whose right answer is `roof i`."""
    return Task(question=f"Where is cat number {i}?", answer=f"roof {i}", kind="qa")


def candidate(i: int, label: bool | None, n: int = 0) -> Candidate:
    """The n-th right, wrong or unlabelled solution of problem i."""
    said = f"Look {n}.{ROOF if label else 'Answer: cellar'} {i}"
    return Candidate(task_id=task(i).id, index=2 * n + (not label), text=said, correct=label, model="fake")


def row(role: Role, i: int, label: bool | None, reply: str, n: int = 0, **more: Any) -> Row:
    """A conversation of one turn, about a candidate (an agent's about none: the store makes one of its reply)."""
    about = candidate(i, label, n)
    if role == "agent":
        about = Candidate(task_id=task(i).id, index=n, text=reply, model="fake")
    stop = more.pop("stop", StopReason.COMPLETED)
    asked = Message(role="user", content=f"{role}: {task(i).question} {about.text}")
    made = Trajectory(
        role=role,
        task_id=task(i).id,
        candidate_id="" if role == "agent" else about.id,
        sample_index=n,
        turns=(Turn(stage="s", prompt=(asked,), content=reply, completion_tokens=more.pop("tokens", 5)),),
        stop_reason=stop,
        error=ErrorInfo(kind="ModelError", message="gone") if stop is StopReason.ERROR else None,
        **more,
    )
    return Row(task(i), about, made)


def review(role: Role, i: int, label: bool, said: bool | None = None, n: int = 0) -> Row:
    passed = label if said is None else said
    return row(role, i, label, f"<verdict>{passed}</verdict> {n}", n, verdict=Verdict(passed=passed))


def judgement(i: int, label: bool, score: float, n: int = 0, **more: Any) -> Row:
    said = Judgement(critique="Look again.", score=score)
    reply = f"<think>t {n}</think><critique>Look again.</critique><score>{score}</score>"
    return row("judge", i, label, reply, n, verdict=said.verdict, **more)


def revision(i: int, label: bool | None, right: bool = True, n: int = 0, **more: Any) -> Row:
    """A revision of a right or a wrong solution, which ends in the right answer or does not."""
    return row("refiner", i, label, f"Seen there, {n}.{ROOF if right else 'Answer: cellar'} {i}", n, **more)


def acted(i: int, right: bool = True, n: int = 0, **more: Any) -> Row:
    return row("agent", i, None, f"Thought {n}. <answer>{'roof' if right else 'cellar'} {i}</answer>", n, **more)


def solved(i: int, label: bool = True, n: int = 0) -> Row:
    return answer_row(task(i), candidate(i, label, n))


def good(i: int) -> list[Row]:
    """What is to be kept of a problem: two of each role."""
    out = [review(role, i, label) for role in (FORWARD, BACKWARD) for label in (True, False)]
    out += [judgement(i, True, 0.9), judgement(i, False, 0.1)]
    out += [revision(i, True), revision(i, False)]
    return [*out, acted(i), acted(i, n=1)]


def weights(**given: float) -> MixtureConfig:
    short = {"forward": FORWARD, "backward": BACKWARD}
    return MixtureConfig.model_validate({"weights": {short.get(role, role): w for role, w in given.items()}})


EVERY = weights(forward=1, backward=1, judge=1, solver=1, refiner=1, agent=1)


def mix(rows: list[Row], mixture: MixtureConfig, seed: int = 0, **more: Any) -> Selected:
    """Select; what is of a solver goes in as its solutions."""
    apart = Apart(more.pop("held_out", ()), more.pop("benchmarks", {}))
    solutions = [r for r in rows if r.trajectory.role == "solver"]
    others = [r for r in rows if r.trajectory.role != "solver"]
    return select_mixture(others, solutions, mixture, SelectConfig(**more), apart, seed)


def by_role(selected: Selected) -> dict[str, int]:
    return dict(Counter(r.trajectory.role for r in selected.rows))


def keys(selected: Selected) -> list[str]:
    return [r.trajectory.key for r in selected.rows]


ALL = [*good(0), *good(1), solved(0), solved(0, n=1), solved(1), solved(1, n=1)]


def test_every_role_has_its_rows():
    """Two problems: four rows of each role, all good; four of each in equal shares."""
    selected = mix(ALL, EVERY)
    assert by_role(selected) == dict.fromkeys(EVERY.roles, 4) and len(EVERY.roles) == 6
    assert sorted(keys(selected)) == sorted(r.trajectory.key for r in ALL)
    labels = {(e.role, e.label) for e in to_examples(selected.rows)}
    assert {label for role, label in labels if role == "refiner"} == {True, False}  # of what was revised
    assert {label for role, label in labels if role in ("agent", "solver")} == {True}


@pytest.mark.parametrize(
    ("bad", "stage"),
    [
        (review(FORWARD, 0, True, said=False, n=3), "verifiers/right_verdict"),
        (review(BACKWARD, 0, False, said=True, n=3), "verifiers/right_verdict"),
        (judgement(0, True, 0.4, n=3), "judge/right_side"),
        (judgement(0, False, 0.6, n=3), "judge/right_side"),
        (judgement(0, True, 0.9, n=3, stop=StopReason.ERROR), "judge/answered"),
        (solved(0, False), "solver/right_answer"),
        (revision(0, False, right=False, n=3), "refiner/right_answer"),
        (revision(0, True, right=False, n=3), "refiner/right_answer"),
        (revision(0, False, n=3, stop=StopReason.ERROR), "refiner/answered"),
        (revision(0, False, n=3, stop=StopReason.LENGTH), "refiner/completed"),
        (revision(0, False, n=3, tokens=101), "refiner/within_limits"),
        (acted(0, right=False, n=3), "agent/right_answer"),
        (acted(0, n=3, stop=StopReason.UNPARSED), "agent/right_answer"),  # it came to no answer
        (acted(0, n=3, stop=StopReason.MAX_TURNS), "agent/completed"),
        (acted(0, n=3, stop=StopReason.ERROR), "agent/answered"),
        (acted(0, model="another"), "agent/unique"),
    ],
)
def test_each_roles_filters_take_out_what_they_are_for(bad: Row, stage: str):
    """It is counted up to that stage and at no later one."""
    role = bad.trajectory.role
    mixture = weights(forward=1, backward=1) if stage.startswith("verifiers/") else weights(**{role: 1})
    selected = mix([*ALL, bad], mixture, max_completion_tokens=100)
    assert by_role(selected) == dict.fromkeys(mixture.roles, 4)
    counts, without = selected.funnel.counts, mix(ALL, mixture, max_completion_tokens=100).funnel.counts
    names = list(counts)
    assert [n for n in names if counts[n] != without[n]] == names[: names.index(stage)]
    assert all(counts[n] == without[n] + 1 for n in names[: names.index(stage)])


def test_what_verifiers_go_by_is_nothing_to_an_answer():
    """Problem 0 has right solutions alone: nothing to review, but the solver's and the refiner's to learn."""
    rows = [solved(0), solved(1), solved(1, n=1), revision(0, True), revision(1, False), revision(2, None)]
    assert by_role(mix(rows, weights(solver=1))) == {"solver": 3}
    assert {r.task.id for r in mix(rows, weights(solver=1)).rows} == {task(0).id, task(1).id}
    assert by_role(mix(rows, weights(refiner=1))) == {"refiner": 2}


@pytest.mark.parametrize(("copied", "mended", "kept"), [(3, 1, 1), (3, 3, 3), (1, 3, 1), (4, 2, 2)])
def test_no_more_right_solutions_are_left_than_wrong_ones_mended(copied: int, mended: int, kept: int):
    rows = [revision(i, True) for i in range(copied)] + [revision(i, False, n=1) for i in range(mended)]
    selected = mix(rows, weights(refiner=1))
    assert Counter(r.candidate.correct for r in selected.rows) == {True: kept, False: mended}
    assert selected.funnel.counts["refiner/unique"] == copied + mended
    assert selected.funnel.counts["refiner/selected"] == kept + mended


def test_a_refiner_that_mends_nothing_is_no_teacher():
    with pytest.raises(NothingAcceptedError, match=r"of refiner was accepted: most fell at selected \(2 of 2\)"):
        mix([revision(0, True), revision(1, True)], weights(refiner=1))


@pytest.mark.parametrize(
    ("shares", "cap", "found"),
    [
        ({"solver": 2, "agent": 1}, None, (4, 2)),  # 6 / 2 = 3, 2 / 1 = 2: the agent has fewest for its weight
        ({"solver": 1, "agent": 1}, None, (2, 2)),
        ({"solver": 4, "agent": 1}, None, (6, 1)),  # 6 / 4 = 1.5: 6 and 1.5
        ({"solver": 0.5, "agent": 1}, None, (1, 2)),
        ({"solver": 2, "agent": 1}, 3, (2, 1)),
        ({"solver": 1, "agent": 1}, 100, (2, 2)),
        ({"solver": 1, "agent": 1}, 3, (1, 1)),
        ({"solver": 1, "agent": 0}, None, (6, 0)),
    ],
)
def test_shares_go_by_the_role_that_has_fewest(shares: dict[str, float], cap: int | None, found: tuple[int, int]):
    rows = [*(solved(i) for i in range(6)), *(acted(i) for i in range(2))]
    selected = mix(rows, weights(**shares), max_examples=cap)
    counts = by_role(selected)
    assert (counts["solver"], counts.get("agent", 0)) == found
    assert cap is None or len(selected.rows) <= cap


def test_a_cut_keeps_labels_in_turn_and_spreads_over_problems():
    """Verifiers of 4 problems with 3 of each label, cut to 4 by the agent's: two of each label, no problem twice."""
    rows = [review(FORWARD, i, label, n=n) for i in range(4) for label in (True, False) for n in range(3)]
    rows += [acted(i) for i in range(4)]
    for seed in range(4):
        chosen = [r for r in mix(rows, weights(forward=1, agent=1), seed).rows if r.trajectory.role == FORWARD]
        assert Counter(r.candidate.correct for r in chosen) == {True: 2, False: 2}
    written = [solved(i, n=n) for i in range(4) for n in range(5)]
    for seed in range(4):
        chosen = mix(written, weights(solver=1), seed, max_examples=4).rows
        assert len({r.task.id for r in chosen}) == 4


def test_in_shares_by_hand():
    rows: dict[Role, list[Row]] = {"solver": [solved(i) for i in range(5)], "judge": [judgement(0, True, 0.9)]}
    assert [r.trajectory.role for r in in_shares(rows, {"solver": 3, "judge": 1}, None)] == ["solver"] * 3 + ["judge"]
    assert len(in_shares(rows, {"solver": 100, "judge": 1}, None)) == 6  # each has one at least


def test_the_seed_alone_fixes_rows_and_order():
    rows = [*ALL, *good(2), *(solved(2, n=n) for n in range(6))]
    chosen = mix(rows, EVERY, seed=3, max_examples=12)
    arrived = rows.copy()
    random.Random(0).shuffle(arrived)
    assert keys(mix(arrived, EVERY, seed=3, max_examples=12)) == keys(chosen) and len(chosen.rows) == 12
    assert keys(mix(rows, EVERY, seed=4, max_examples=12)) != keys(chosen)
    roles = [r.trajectory.role for r in chosen.rows]
    assert roles != sorted(roles, key=roles.index)  # mixed, not role after role


def test_the_funnel_names_role_and_filter():
    """Of the solver's the verdict's stages are left out; benchmarks are stages of each role, held-out ones too."""
    apart: dict[str, Any] = {"held_out": [task(8).question], "benchmarks": {"math500": [task(9).question]}}
    rows = [solved(0), solved(8), solved(9), acted(0), acted(8), acted(9)]
    short: dict[str, Any] = {"decontaminate_share": 1.0}
    selected = mix(rows, weights(solver=1, agent=1), **apart, **short)
    own = ["generated", "answered", "completed", "right_answer", "within_limits", "unique"]
    own += ["decontaminated", "not_in/math500", "selected"]
    assert list(selected.funnel.counts) == [f"{role}/{name}" for role in ("solver", "agent") for name in own] + [
        "mixture"
    ]
    assert [selected.funnel.counts[f"agent/{name}"] for name in own[-4:]] == [3, 2, 1, 1]
    assert selected.funnel.counts["mixture"] == 2
    both = mix([*good(0), *good(1)], weights(forward=1, backward=1, judge=1)).funnel.counts
    assert [n for n in both if n.startswith("verifiers/")] == [f"verifiers/{n}" for n in ("generated", *FILTERS)]
    assert "judge/right_side" in both and "judge/right_verdict" not in both


def test_the_funnels_table_is_read_role_by_role():
    """Solver: 4 rows, half of them right. Agent: 2 rows, both. The mixture is 2 and 2 of the 6 generated."""
    rows = [solved(0), solved(1), solved(0, False), solved(1, False), acted(0), acted(1)]
    table = {line[0]: line[1:3] for line in mix(rows, weights(solver=1, agent=1)).funnel.to_table()[1:]}
    assert table["solver/selected"] == ["2", "50 %"] and table["agent/selected"] == ["2", "100 %"]
    assert table["mixture"] == ["4", "67 %"]


@pytest.mark.parametrize(
    ("left_out", "told"),
    [
        ("solver", r"nothing of 0 trajectories of solver"),
        ("agent", r"nothing of 0 trajectories of agent"),
        ("judge", r"nothing of 0 trajectories of judge"),
        (BACKWARD, r"trajectories of backward_verifier"),
    ],
)
def test_an_empty_role_is_told_by_name(left_out: str, told: str):
    with pytest.raises(NothingAcceptedError, match=told) as raised:
        mix([r for r in ALL if r.trajectory.role != left_out], EVERY)
    assert f"mixture.weights without {left_out}" in str(raised.value) and "\n" not in str(raised.value)


def test_the_error_says_which_filter():
    with pytest.raises(
        NothingAcceptedError, match=r"nothing of 3 .* of agent .*: most fell at right_answer \(3 of 3\)"
    ):
        mix([*ALL[:-4], *(acted(i, right=False) for i in range(3))][-3:], weights(agent=1))


# --- verifiers alone --------------------------------------------------------------------------------------------------


def test_verifiers_alone_are_selected_as_ever():
    assert is_verifiers_alone(MixtureConfig()) and is_verifiers_alone(weights(forward=3, backward=3, judge=0))
    for other in (weights(forward=2, backward=1), weights(forward=1), weights(forward=1, backward=1, judge=1)):
        assert not is_verifiers_alone(other)


def chosen_of(folder: Path, mixture: MixtureConfig) -> Selected:
    with Store(folder / "store.sqlite", readonly=True) as store:
        run = open_run(folder, store)
        run.cfg = run.cfg.model_copy(update={"mixture": mixture})
        return run.choose()


def test_a_run_of_verifiers_is_selected_by_select(tmp_path: Path):
    """Unequal shares take the mixture's way: of two pairs each, 4 forward and 2 backward."""
    folder = make_run(tmp_path)
    with Store(folder / "store.sqlite", readonly=True) as store:
        run = open_run(folder, store)
        ids, held_out = {t.id for t in run.parts["harvest"]}, [t.question for t in run.parts["eval"]]
        wanted = select([r for r in store if r.task.id in ids], run.cfg.select, seed=run.cfg.seed, held_out=held_out)
    assert len(wanted.rows) == 8
    for mixture in (MixtureConfig(), weights(forward=3, backward=3)):
        assert chosen_of(folder, mixture) == wanted
    unequal = chosen_of(folder, weights(forward=2, backward=1))
    assert by_role(unequal) == {FORWARD: 4, BACKWARD: 2} and list(unequal.funnel.counts)[-1] == "mixture"
    with pytest.raises(NothingAcceptedError, match="of judge"):
        chosen_of(folder, weights(forward=1, judge=1))


def test_an_agents_turns_without_a_prompt_are_no_example():
    given = candidate(0, True, 0).model_copy(update={"turns": (Turn(stage="act", prompt=(), content="x"),)})
    with pytest.raises(DataError, match="its first turn has no prompt to learn from"):
        answer_row(task(0), given)
