"""Rounds of an agent's evaluation: who is asked what, the journal, outages, resuming, figures worked out by hand."""

import argparse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.judgements import format_judgement
from agents.types import Judgement, Round, StopReason, Task, Trajectory, Turn
from eval import agent, agent_rounds
from eval.agent_report import AgentReport, Answered, groups
from eval.agent_report import sections as all_sections
from eval.agent_round_report import Rated, RoundsReport, notes, rounds_report, sections
from eval.agent_rounds import First, Firsts, identity, opened_journal, refine_all, refiners_of
from eval.agent_runs import Place
from eval.agent_settings import Agent, agent_of
from eval.refining import Refiners
from graphs.react_state import ReactContext
from tests.unit.fakes import CALL, FakeChat, FakePython, Reply
from tools.errors import ConfigError, DataError, ModelError, RolloutError
from tools.registry import ToolsConfig

SECRET = "7777"  # the reference answer of q2, at which nobody arrives
TASKS = [Task(question="q0?", answer="2"), Task(question="q1?", answer="2"), Task(question="q2?", answer=SECRET)]
IDS = {task.id: task.question for task in TASKS}
WHO = Agent(ReactContext(), ToolsConfig(), width=1, max_outages=2)


def said(answer: str) -> str:
    return f"<answer>{answer}</answer>"


def judgement(score: float, critique: str = "Look again.") -> str:
    return format_judgement(Judgement(thought="hm", critique=critique, score=score))


class Play(FakeChat):
    """Judge and agent: says what stands under stage and question; a tuple is one after the other. Keeps who asked."""

    says: dict[tuple[str, str], Any] = {}  # noqa: RUF012
    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        place = stage, IDS[session.split(":")[0]]
        self.asked.append(place)
        reply = self.says[place]
        return reply[self.asked.count(place) - 1] if isinstance(reply, tuple) else reply


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """A fake model, as agent and as judge, and a fake tool in place of what the command opens."""
    fake = Play(says={}, asked=[])

    @contextmanager
    def opened(*_: Any) -> Iterator[FakeChat]:
        yield fake

    @asynccontextmanager
    async def tools(*_: Any) -> AsyncIterator[dict[str, FakePython]]:
        yield {"python": FakePython()}

    monkeypatch.setattr(agent_rounds, "opened_agent", opened)
    monkeypatch.setattr(agent_rounds, "_opened_judge", opened)
    monkeypatch.setattr(agent_rounds, "open_with_sandbox", tools)
    return fake


def parsed(*words: str) -> argparse.Namespace:
    return agent.options().parse_args(["--benchmark", "gaia", "--model", "scripted-agent", "--out", "o", *words])


def refiners(*words: str, rounds: int = 1) -> Refiners:
    args = parsed("--rounds", str(rounds), "--judge", "scripted-judge", "--concurrency", "1", *words)
    who = refiners_of(args, agent_of(args))
    assert who is not None
    return who._replace(max_outages=2)


def turn(content: str) -> Turn:
    return Turn(stage="act", prompt=(), content=content, prompt_tokens=100, completion_tokens=5)


def first(task: Task, *contents: str, **more: Any) -> First:
    turns = tuple(map(turn, contents))
    given: dict[str, Any] = {"stop_reason": StopReason.COMPLETED, "turns": turns} | more
    return First(task.question, Trajectory(role="agent", task_id=task.id, **given))


FIRSTS: Firsts = {
    (task.id, 0): first(task, "Hm: no call.", said("2" if i == 0 else "3")) for i, task in enumerate(TASKS)
}
Courses = dict[Place, list[Round]]


def run(folder: Path, who: Refiners, firsts: Firsts = FIRSTS) -> tuple[Courses, RolloutError | None]:
    with opened_journal(folder, who) as journal:
        assert journal is not None
        return refine_all(firsts, WHO, who, journal)


def outcomes(courses: Courses) -> list[list[str]]:
    return [[r.outcome for r in courses[task.id, 0]] for task in TASKS]


GOOD: dict[tuple[str, str], Any] = {
    ("judge", "q0?"): judgement(0.9),
    ("judge", "q1?"): judgement(0.5),  # not above it
    ("judge", "q2?"): judgement(0.1),
    ("act", "q1?"): (CALL, said("2")),
    ("act", "q2?"): said("4"),
}


# --- who is asked what -----------------------------------------------------------------------------------------------


def test_what_is_not_accepted_is_answered_anew_with_the_critique(play: Play, tmp_path: Path) -> None:
    play.says = GOOD
    courses, told = run(tmp_path, refiners())
    assert told is None and outcomes(courses) == [["accepted"], ["rejected", "open"], ["rejected", "open"]]
    assert [courses[task.id, 0][-1].solution for task in TASKS] == [said("2"), said("2"), said("4")]
    assert len(courses[TASKS[1].id, 0][1].made) == 2 and courses[TASKS[1].id, 0][1].made[0].tool_calls
    assert sorted(play.asked) == [("act", "q1?")] * 2 + [("act", "q2?")] + [("judge", f"q{i}?") for i in range(3)]
    sent = {kwargs["session"]: repr(messages) for messages, kwargs in play.sent}
    again = next(text for name, text in sent.items() if ":refine:" in name)
    judged = next(text for name, text in sent.items() if name.endswith(":judge"))
    assert "Look again." in again and "Hm: no call." in again and "Hm: no call." in judged  # the whole trajectory
    assert SECRET not in repr(play.sent)


def test_a_trajectory_without_a_step_stands_and_one_cut_by_a_limit_is_judged(play: Play, tmp_path: Path) -> None:
    empty = first(TASKS[0], stop_reason=StopReason.MAX_TOKENS)
    cut = first(TASKS[1], CALL, stop_reason=StopReason.MAX_TURNS)
    play.says = GOOD | {("act", "q1?"): said("2")}
    courses, _ = run(tmp_path, refiners(), {(TASKS[0].id, 0): empty, (TASKS[1].id, 0): cut})
    assert play.asked == [("judge", "q1?"), ("act", "q1?")]
    assert [(r.solution, r.outcome) for r in courses[TASKS[0].id, 0]] == [("", "unrevised")]
    assert [r.solution for r in courses[TASKS[1].id, 0]] == ["", said("2")]


def test_a_judge_without_a_judgement_leaves_the_answer(play: Play, tmp_path: Path) -> None:
    play.says = {("judge", f"q{i}?"): "I like it." for i in range(3)} | {("repair", f"q{i}?"): "Yes." for i in range(3)}
    courses, told = run(tmp_path, refiners())
    assert told is None and outcomes(courses) == [["no_verdict"]] * 3


# --- the journal -----------------------------------------------------------------------------------------------------


def test_nothing_is_asked_twice_and_more_rounds_go_on(play: Play, tmp_path: Path) -> None:
    play.says = GOOD
    once, _ = run(tmp_path, refiners())
    play.says, play.asked[:] = {}, []
    assert run(tmp_path, refiners()) == (once, None) and play.asked == []
    play.says = {("judge", "q1?"): judgement(0.8), ("judge", "q2?"): judgement(0.2), ("act", "q2?"): said("4")}
    more, _ = run(tmp_path, refiners(rounds=2))
    assert sorted(play.asked) == [("act", "q2?"), ("judge", "q1?"), ("judge", "q2?")]
    assert outcomes(more) == [["accepted"], ["rejected", "accepted"], ["rejected", "rejected", "unrevised"]]
    assert run(tmp_path, refiners())[0] == once  # fewer rounds are read off the same folder


def test_an_outage_in_a_longer_run_is_none_of_a_shorter_one(play: Play, tmp_path: Path) -> None:
    play.says = GOOD | {("judge", "q1?"): (judgement(0.1), ModelError("down")), ("judge", "q2?"): judgement(0.1)}
    longer, told = run(tmp_path, refiners(rounds=2))
    assert told is not None and longer[TASKS[1].id, 0][-1].error is not None
    play.says, play.asked[:] = {}, []
    shorter, told = run(tmp_path, refiners())
    assert told is None and play.asked == [] and [r.error for r in shorter[TASKS[1].id, 0]] == [None, None]


@pytest.mark.parametrize("place", [("judge", "q1?"), ("act", "q1?")])
def test_an_outage_is_typed_and_tried_again_and_never_an_answer(
    play: Play, tmp_path: Path, place: tuple[str, str]
) -> None:
    play.says = GOOD | {place: ModelError("down"), ("act", "q2?"): said("4")}
    courses, told = run(tmp_path, refiners())
    assert isinstance(told, ModelError) and "1 trajectories' rounds failed" in str(told)
    (lost,) = courses[TASKS[1].id, 0]
    assert lost.error is not None and lost.error.kind == "ModelError" and lost.solution == said("3")
    found = rounds_report(TASKS, courses, {"model": "j"}, Rated(1, 0, 0))
    assert found is not None and (found.problems, found.missing, found.outages) == (2, 1, {"ModelError": 1})
    play.asked.clear()
    play.says = GOOD | {("act", "q1?"): said("2")}
    courses, told = run(tmp_path, refiners())
    assert told is None and play.asked == [("judge", "q1?"), ("act", "q1?")][place[0] == "act" :]
    assert [r.error for r in courses[TASKS[1].id, 0]] == [None, None]


def test_many_outages_in_a_row_stop_the_work(play: Play, tmp_path: Path) -> None:
    play.says = {("judge", f"q{i}?"): ModelError("down") for i in range(3)}
    with pytest.raises(ModelError, match="2 failures in a row; what is done is kept"):
        run(tmp_path, refiners())
    assert len(play.asked) == 2


def test_half_a_character_is_no_obstacle(play: Play, tmp_path: Path) -> None:
    play.says = GOOD | {("act", "q1?"): said("\ud83d"), ("act", "q2?"): said("4")}
    run(tmp_path, refiners())
    assert run(tmp_path, refiners())[0][TASKS[1].id, 0][1].solution == said("?")


def test_a_folder_is_one_judges_once_it_has_judged(play: Play, tmp_path: Path) -> None:
    play.says = {("judge", f"q{i}?"): ModelError("no such model") for i in range(3)}
    with pytest.raises(ModelError):
        run(tmp_path, refiners("--judge", "typo"))
    play.says = GOOD | {("act", "q1?"): said("2")}
    courses, _ = run(tmp_path, refiners())
    assert outcomes(courses)[0] == ["accepted"]
    for words in (["--judge", "other"], ["--judge-accepts", "0.6"], ["--set", "judge_max_tokens=9"]):
        with pytest.raises(ConfigError, match="holds rounds with another judge"):
            run(tmp_path, refiners(*words))
    assert identity(refiners("--judge-url", "http://a/v1", rounds=3).context) == identity(refiners().context)


def test_rounds_of_other_trajectories_are_refused(play: Play, tmp_path: Path) -> None:
    play.says = GOOD
    run(tmp_path, refiners())
    with pytest.raises(DataError, match="began with another trajectory"):
        run(tmp_path, refiners(), {(TASKS[0].id, 0): first(TASKS[0], said("2"))})


# --- figures ---------------------------------------------------------------------------------------------------------


def review(tokens: int) -> Trajectory:
    asked = Turn(stage="judge", prompt=(), content="", prompt_tokens=300, completion_tokens=tokens)
    return Trajectory(role="judge", stop_reason=StopReason.COMPLETED, turns=(asked,))


def given_courses() -> Courses:
    """Two problems, two trajectories each: accepted; wrong, then right; wrong and left so; right, then wrong."""

    def course(*answers: str, accepted: bool = False) -> list[Round]:
        last = len(answers) - 1
        return [
            Round(
                index=i,
                solution=said(answer),
                made=(turn(said(answer)),) * (i + 1),
                outcome="accepted" if accepted else "rejected" if i < last else "open",
                reviews=(review(8),) if accepted or i < last else (),
            )
            for i, answer in enumerate(answers)
        ]

    kept = course("3")[0].model_copy(update={"outcome": "rejected", "reviews": (review(8),)})
    stood = Round(index=1, solution=said("3"), made=(turn(said("3")),) * 2, outcome="unrevised")
    a, b = TASKS[0].id, TASKS[1].id
    return {
        (a, 0): course("2", accepted=True),
        (a, 1): course("3", "2"),
        (b, 0): [kept, stood],
        (b, 1): course("2", "3"),
    }


def test_figures_by_hand() -> None:
    found = rounds_report(TASKS[:2], given_courses(), {"model": "j"}, Rated(1, 100, 0))
    assert found is not None and (found.problems, found.trajectories, found.missing) == (2, 4, 0)
    start, after = found.after
    assert start.point.accuracy == after.point.accuracy == 0.5
    assert (after.point.up, after.point.down, after.point.gain) == (0.25, 0.25, 0.0)
    assert (after.point.accepted, after.point.undecided, after.point.revised) == (0.25, 0.0, 0.5)
    assert start.answer.model_dump() == {"tokens": 5.0, "prompt_tokens": 100.0, "turns": 1.0, "tool_calls": 0.0}
    assert after.answer.model_dump() == {"tokens": 7.5, "prompt_tokens": 150.0, "turns": 1.5, "tool_calls": 0.0}
    assert after.critique.model_dump() == {"tokens": 8.0, "prompt_tokens": 300.0, "turns": 1.0, "tool_calls": 0.0}
    assert start.critique.tokens == 0.0
    assert after.point.accuracy_ci is not None and RoundsReport.model_validate_json(found.model_dump_json()) == found


def test_a_problem_of_which_a_course_has_not_ended_is_left_out() -> None:
    courses = given_courses()
    courses[TASKS[1].id, 1] = courses[TASKS[1].id, 1][:1]
    found = rounds_report(TASKS[:2], courses, {"model": "j"}, Rated(1, 0, 0))
    assert found is not None and (found.problems, found.missing, found.after[1].point.accuracy) == (1, 1, 1.0)
    del courses[TASKS[0].id, 0], courses[TASKS[0].id, 1]
    assert rounds_report(TASKS[:2], courses, {"model": "j"}, Rated(1, 0, 0)) is None


def test_the_tables() -> None:
    found = rounds_report(TASKS[:2], given_courses(), {"model": "j"}, Rated(1, 0, 0))
    assert found is not None
    quality, costs = sections(found.model_copy(update={"missing": 3}))
    assert "critiques by j: 4 trajectories of 2 problems" in quality.title and "3 problems missing" in quality.title
    assert quality.rows[0] == ("first", "0.500", "", "", "", "", "")
    assert quality.rows[1] == ("after round 1", "0.500", "0.250", "0.250", "0.250", "0.000", "0.500")
    assert costs.rows[0] == ("first", "5.0", "100.0", "1.00", "0.00", "", "", "")
    assert costs.rows[1] == ("after round 1", "7.5", "150.0", "1.50", "0.00", "8.0", "300.0", "1.00")
    assert notes(found.model_copy(update={"outages": {"ModelError": 2}})) == [
        "pass@1 after round 1 less that of the first answers: +0.000.",
        "Rounds that an outage stopped: ModelError 2.",
    ]
    answered = [Answered(TASKS[0], (FIRSTS[TASKS[0].id, 0].made,), ())]
    whole = AgentReport(
        benchmark="gaia",
        kind="short",
        read_from="x",
        agent={"model": "m"},
        repeats=1,
        asked=1,
        groups=groups(answered, 1, 0, 0),
        rounds=found,
    )
    assert [s.title.split(" ")[0] for s in all_sections(whole)] == ["gaia,", "Rounds", "Cost", "How"]


# --- the command line ------------------------------------------------------------------------------------------------


def test_settings_of_the_judge() -> None:
    who = refiners("--judge-url", "http://j/v1", "--style", "full", "--set", "judge_max_tokens=9", "max_critique=77")
    judging = who.context.judging
    assert (judging.model, judging.base_url, judging.style) == ("scripted-judge", "http://j/v1", "full")
    assert (judging.max_tokens, who.context.max_critique, who.context.judge_accepts) == (9, 77, 0.5)
    assert who.context.agent is not None and who.context.agent.max_turns == 40 and who.critics == ("judge",)
    assert refiners_of(parsed(), WHO) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rounds", "1"], "--rounds 1 needs --judge"),
        (["--judge", "m"], "--judge needs --rounds"),
        (["--rounds", "1", "--judge-url", "http://a/v1"], "--judge-url needs --judge"),
        (["--set", "judge_max_tokens=9"], "--set judge_max_tokens=9: it needs --rounds"),
        (["--rounds", "1", "--judge", "m", "--set", "judge_max_tokens=no"], "judge setting judge_max_tokens: "),
        (["--rounds", "-1", "--judge", "m"], "argument --rounds: expected a whole number from 0 on, got '-1'"),
    ],
)
def test_wrong_options_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--benchmark", "gaia", "--model", "scripted-agent", "--out", "o", *words]
    try:
        code = agent.main(given)
    except SystemExit as stopped:
        code = stopped.code
    *usage, last = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and told in last and (not usage or usage[0].startswith("usage: "))
