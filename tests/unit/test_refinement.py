"""The evaluation of refinement: metrics worked out by hand, the journal, resuming, the table, bad input."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.types import ErrorInfo, Round, StopReason, Trajectory, Turn
from eval import refinement, refining
from eval.costs import Cost
from eval.journal import Journal
from eval.refinement_metrics import Course, course_of, points
from eval.refinement_report import Report, gains, sections, write
from eval.refining import Item, Refiners, refine_items
from graphs.critics import CRITICS
from graphs.refine_state import RefineContext
from tests.unit.fakes import EvenJudge, FakeChat, Reply
from tools.errors import ConfigError, DataError, ModelError


def turn(tokens: int, seconds: float) -> Turn:
    return Turn(stage="refine", prompt=(), content="s", completion_tokens=tokens, seconds=seconds)


def reviewed(tokens: int) -> Trajectory:
    return Trajectory(
        role="forward_verifier", stop_reason=StopReason.COMPLETED, turns=(turn(tokens, 0.0),), seconds=2.0
    )


def test_the_course_of_a_solution():
    """Two of three rounds: rejected and mended, then accepted; the third round has nothing left to do."""
    rounds = [
        Round(index=0, solution="bad", outcome="rejected", reviews=(reviewed(10), reviewed(20)), made=(turn(7, 1.0),)),
        Round(index=1, solution="good", outcome="accepted", reviews=(reviewed(5),), made=(turn(3, 0.5),)),
    ]
    assert course_of("p", rounds, 3, lambda text: text == "good") == Course(
        problem="p",
        right=(False, True, True, True),
        accepted=(False, True, True),
        undecided=(False, False, False),
        revised=(True, False, False),
        first_cost=Cost(7, 1, 0, 1.0),
        costs=(Cost(33, 3, 0, 4.5), Cost(5, 1, 0, 2.0), Cost(0, 0, 0, 0)),
    )
    kept = [Round(index=0, solution="bad", outcome="rejected"), Round(index=1, solution="bad", outcome="unrevised")]
    course = course_of("p", kept, 1, lambda text: text == "good")
    assert (course.revised, course.right) == ((False,), (False, False))
    silent = course_of("p", [Round(index=0, solution="bad", outcome="no_verdict")], 2, lambda text: False)
    assert silent.undecided == (True, True) and silent.accepted == (False, False)


def course(problem: str, right: str, accepted: str, tokens: tuple[float, ...]) -> Course:
    """Make a course; "1" is right or accepted."""
    k = len(right) - 1
    return Course(
        problem=problem,
        right=tuple(c == "1" for c in right),
        accepted=tuple(c == "1" for c in accepted),
        undecided=(False,) * k,
        revised=tuple(c == "0" for c in accepted),
        first_cost=Cost(8, 1, 0, 0),
        costs=tuple(Cost(t, 2, 1, 0.5) for t in tokens),
    )


def test_points_by_hand():
    """Four solutions over two rounds.

    Round 1: the first becomes right (Δ↑ 1/4), the third wrong (Δ↓ 1/4): accuracy stays 2/4. Round 2: the second and the
    third become right (Δ↑ 2/4): 4/4.
    """
    courses = [
        course("p", "011", "01", (100, 40)),
        course("p", "001", "00", (100, 100)),
        course("q", "101", "00", (100, 100)),
        course("q", "111", "11", (60, 0)),
    ]
    first, one, two = points(courses, 200, 0)
    assert (first.accuracy, first.up, first.gain, first.accepted, first.tokens) == (0.5, None, None, None, 8.0)
    assert (one.accuracy, one.up, one.down, one.gain) == (0.5, 0.25, 0.25, 0.0)
    assert (one.accepted, one.revised, one.tokens, one.turns, one.tool_calls) == (0.25, 0.75, 90.0, 2.0, 1.0)
    assert (two.accuracy, two.up, two.down, two.gain) == (1.0, 0.5, 0.0, 0.5)
    assert (two.accepted, two.revised, two.tokens) == (0.5, 0.5, 60.0)
    # Problem p alone gains 1 in two solutions, q 0 right to 1: resampled, round 1's Δ↓ is 0, 1/4 or 1/2.
    assert one.down_ci == (0.0, 0.5) and two.accuracy_ci == (1.0, 1.0)
    assert first.accuracy_ci == (0.0, 1.0)  # p has no right solution, q has two


def test_the_table(tmp_path: Path):
    courses = {"verifier": [course("p", "01", "0", (90,)), course("q", "11", "1", (30,))]}
    report = Report(
        candidates="f",
        first_solutions="the file's",
        verifier={"model": "m"},
        refiner="r",
        problems=2,
        solutions=2,
        rounds=1,
        seed=0,
        curves={"verifier": points(courses["verifier"], 0, 0)},
    )
    quality, doing = sections(report)
    assert quality.rows == (
        ("first", "0.500", "", ""),
        ("verifier 1", "1.000", "0.500", "0.000"),
    )
    assert doing.rows == (
        ("first", "", "", "", "8.0", "1.0", "0.0", "0.0"),
        ("verifier 1", "0.500", "0.000", "0.500", "60.0", "2.0", "1.0", "0.5"),
    )
    assert gains(report) == ["verifier's critique: +0.500 accuracy after 1 rounds."]
    write(report, tmp_path, "r")
    assert Report.model_validate_json((tmp_path / "r.json").read_text()) == report
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_the_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path):
    path = tmp_path / "rounds.jsonl"
    with Journal(path) as journal:
        journal.add("verifier", "c", Round(index=0, solution="a"))
        journal.add("verifier", "c", Round(index=0, solution="a", outcome="rejected"))
        journal.add("none", "c", Round(index=0, solution="a"))
        with pytest.raises(DataError, match="being written by another process"), Journal(path):
            pass
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"critic":"verifier","cand')
    with Journal(path) as journal:
        assert journal.of("verifier", "c") == [Round(index=0, solution="a", outcome="rejected")]
        assert journal.of("verifier", "d") == []
        journal.add("verifier", "c", Round(index=1, solution="b"))
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 4
    path.write_bytes(b"{}\n")
    with pytest.raises(DataError, match=r"rounds\.jsonl:1: no round"), Journal(path):
        pass


class Next(FakeChat):
    """Writes the solution again with the next number."""

    model_id: str = "scripted-refiner"
    down: bool = False

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Look for the solution in the request."""
        if self.down:
            return ModelError("refiner gone")
        text = str(self.sent[-1][0][-1].content)
        return f"A: {int(text.split('Solution:')[1].split()[1]) + 1}"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> tuple[EvenJudge, Next]:
    """Let fakes be the verifier and the refiner of every run."""
    chats = EvenJudge(findings="Step 1: wrong."), Next()

    @contextmanager
    def opened(verifier: Any, option: str = "--model") -> Iterator[FakeChat]:
        yield chats[option == "--refiner"]

    monkeypatch.setattr(refining, "open_model", opened)
    return chats


ITEMS = [Item("one", "q", "A: 1"), Item("two", "q", "A: 2"), Item("three", "r", "A: 3")]
WHO = Refiners(RefineContext(rounds=2), ("verifier",), width=2)


def test_refinements_are_made_once(models: tuple[EvenJudge, Next], tmp_path: Path):
    judge, refiner = models
    found = refine_items(ITEMS, WHO, tmp_path)["verifier"]
    assert [[r.solution for r in found[i.name]] for i in ITEMS] == [["A: 1", "A: 2"], ["A: 2"], ["A: 3", "A: 4"]]
    assert [found[i.name][-1].outcome for i in ITEMS] == ["accepted"] * 3
    calls = len(judge.sent), len(refiner.sent)
    assert calls == (5 * 2 * 3, 2)
    assert refine_items(ITEMS, WHO, tmp_path)["verifier"] == found
    assert (len(judge.sent), len(refiner.sent)) == calls


def test_more_rounds_go_on_and_fewer_are_what_they_would_have_been(models: tuple[EvenJudge, Next], tmp_path: Path):
    judge, refiner = models
    one = Refiners(RefineContext(rounds=1), ("verifier",))
    short = refine_items(ITEMS, one, tmp_path)["verifier"]
    assert [r.outcome for r in short["one"]] == ["rejected", "open"]
    calls = len(judge.sent), len(refiner.sent)
    refine_items(ITEMS, WHO, tmp_path)
    assert (len(judge.sent), len(refiner.sent)) == (calls[0] + 2 * 2 * 3, calls[1])
    assert refine_items(ITEMS, one, tmp_path)["verifier"] == short


def test_what_was_done_before_a_kill_is_not_asked_again(models: tuple[EvenJudge, Next], tmp_path: Path):
    judge, refiner = models
    whole = refine_items(ITEMS, WHO, tmp_path / "whole")
    lines = (tmp_path / "whole" / "rounds.jsonl").read_bytes().splitlines(keepends=True)
    calls = len(judge.sent) + len(refiner.sent)
    for held in range(len(lines) + 1):
        folder = tmp_path / str(held)
        folder.mkdir()
        (folder / "rounds.jsonl").write_bytes(b"".join(lines[:held]))
        judge.sent.clear()
        refiner.sent.clear()
        again = refine_items(ITEMS, WHO, folder)["verifier"]
        outcomes = {name: [(r.solution, r.outcome) for r in rounds] for name, rounds in again.items()}
        assert outcomes == {n: [(r.solution, r.outcome) for r in rounds] for n, rounds in whole["verifier"].items()}
        done = [json.loads(line)["round"] for line in lines[:held]]
        revised = sum(bool(r["made"]) and not r["reviews"] for r in done)
        asked = 6 * sum(bool(r["reviews"]) for r in done) + revised
        assert len(judge.sent) + len(refiner.sent) == calls - asked


def test_an_outage_is_an_entry_and_is_tried_again(models: tuple[EvenJudge, Next], tmp_path: Path):
    judge, refiner = models
    judge.down = "A: 3"
    with pytest.raises(ModelError, match=r"1 refinements failed; .* run the same command again.* gone"):
        refine_items(ITEMS, WHO, tmp_path)
    with Journal(tmp_path / "rounds.jsonl") as journal:
        (only,) = journal.of("verifier", "three")
    assert only.outcome == "open" and only.error == ErrorInfo(kind="ModelError", message="gone", where="plan")
    judge.down, refiner.down = "none", True
    with pytest.raises(ModelError, match="refiner gone"):
        refine_items(ITEMS, WHO, tmp_path)
    calls, refiner.down = len(judge.sent), False
    found = refine_items(ITEMS, WHO, tmp_path)["verifier"]
    assert found["three"][-1].outcome == "accepted" and found["three"][0].error is None
    assert len(judge.sent) - calls == 6  # the review of A: 3 is held, that of A: 4 is not


def test_outages_in_a_row_stop_the_work(models: tuple[EvenJudge, Next], tmp_path: Path):
    models[0].down = "A: "
    with pytest.raises(ModelError, match="2 failures in a row"):
        refine_items(ITEMS, WHO._replace(width=1, max_outages=2), tmp_path)


def test_critics_begin_with_the_same_solution(models: tuple[EvenJudge, Next], tmp_path: Path):
    judge, refiner = models
    found = refine_items(ITEMS, WHO._replace(critics=("verifier", "none")), tmp_path)
    sessions = [asked["session"] for _, asked in refiner.sent]
    assert len(sessions) == len(set(sessions))  # a model in this process takes a session for one conversation
    assert [r.solution for r in found["none"]["two"]] == ["A: 2", "A: 3", "A: 4"]  # nobody says that it is right
    assert all(r.critique == "" and r.reviews == () for rounds in found["none"].values() for r in rounds)
    calls = len(judge.sent)
    alone = refine_items(ITEMS, WHO._replace(critics=("none",)), tmp_path / "alone")
    assert alone["none"]["two"][-1].solution == "A: 4" and len(judge.sent) == calls


def test_a_folder_is_one_refiners(models: tuple[EvenJudge, Next], tmp_path: Path):
    refine_items(ITEMS, WHO, tmp_path)
    other = RefineContext(rounds=2, refiner_model="other", refiner_base_url="http://x/v1")
    with pytest.raises(ConfigError, match=r"refiner_model: 'scripted-refiner' there, 'other' here.*--out"):
        refine_items(ITEMS, Refiners(other), tmp_path)


def arguments(*more: str) -> Any:
    return refinement.options().parse_args(["--candidates", "f.jsonl", "--model", "m", *more])


def test_who_refines():
    who = refinement._who(arguments("--base-url", "http://x/v1", "--set", "refiner_temperature=0.5", "style=full"))
    context = who.context
    assert (context.refiner_model, context.refiner_base_url) == ("m", "http://x/v1")  # the verifier, unless named
    assert (context.refiner_temperature, context.style, context.rounds, who.critics) == (0.5, "full", 3, ("verifier",))
    args = refinement.options().parse_args(["--candidates", "f", "--model", "scripted-teacher"])
    assert refinement._who(args).context.refiner_model == "scripted-refiner"
    assert set(refinement.CRITICS) == set(CRITICS)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--refiner-url", "http://x/v1"], "--refiner-url needs --refiner"),
        (["--solver-url", "http://x/v1"], "--solver-url needs --solver"),
        (["--set", "rounds=2"], "it has an option of its own"),
        (["--set", "refiner_temprature=2"], "did you mean refiner_temperature"),
        (["--set", "critique=x"], "unknown verifier setting"),
    ],
)
def test_bad_options(more: list[str], told: str):
    with pytest.raises(ConfigError, match=told):
        refinement._who(arguments(*more))


@pytest.mark.parametrize(
    ("record", "more", "told"),
    [
        ({"question": "q", "samples": ["A: 1"], "evaluations": [{"correct": True}]}, [], "no reference answer"),
        ({"question": "q", "answer": "1"}, [], "no labelled candidate"),
        ({"samples": []}, ["--solver", "scripted-solver"], "no question"),
        (None, ["--solver", "scripted-solver"], "no records"),
    ],
)
def test_bad_files(record: dict | None, more: list[str], told: str, tmp_path: Path):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(record) + "\n" if record else "")
    args = refinement.options().parse_args(["--candidates", str(path), "--model", "m", *more])
    with pytest.raises(DataError, match=told):
        refinement._problems(args)


def test_the_whole_command_labels_afterwards(
    models: tuple[EvenJudge, Next], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Of 1, 2 and 2 (right: 2) the first is mended; the two that are the same are refined once and count twice."""
    path, out = tmp_path / "f.jsonl", tmp_path / "out"
    path.write_text(json.dumps({"question": "q", "answer": "2", "samples": ["A: 1", "A: 2", "A: 2"]}) + "\n")
    args = ["--candidates", str(path), "--model", "scripted-teacher", "--rounds", "1", "--out", str(out)]
    assert refinement.main([*args, "--bootstrap", "10"]) == 0
    told = capsys.readouterr()
    assert "verifier 1" in told.out and "programs, not language models" in told.out
    report = Report.model_validate_json((out / "refinement.json").read_text())
    first, one = report.curves["verifier"]
    assert (first.accuracy, one.accuracy, one.accepted) == pytest.approx((2 / 3, 1.0, 2 / 3))
    assert (report.solutions, report.problems, len(models[1].sent)) == (3, 1, 1)
