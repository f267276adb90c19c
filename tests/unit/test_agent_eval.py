"""The evaluation of the agent: metrics worked out by hand, the journal, resuming, outages, the grader, bad input."""

import argparse
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.types import ErrorInfo, StopReason, Task, Trajectory, Turn
from eval import agent, agent_runs, grader
from eval.agent_grades import grade_trajectory, reward
from eval.agent_report import AgentReport, Answered, agreement, doubts, groups, rate, sections, tool_use
from eval.agent_runs import finished, outages, run_all
from eval.agent_settings import Agent, agent_of, identity
from eval.benchmarks import Chosen
from eval.candidates import load_problems
from eval.checkers import Grade
from eval.grader import Compared, Graded, Grader, grade_all
from eval.lines import Lines
from graphs.react_state import ReactContext
from tests.unit.fakes import CALL, FakeChat, FakePython, Reply
from tools.base import ToolCall, ToolResult
from tools.errors import ConfigError, ContextLengthError, DataError, ModelError, SandboxError
from tools.registry import ToolsConfig

TASKS = [Task(question=f"q{i}?", answer="2", level=f"{i % 2}") for i in range(3)]
OUTAGE = ErrorInfo(kind="ModelError", message="down", where="think")


def trajectory(task: Task, index: int = 0, said: str = "<answer>2</answer>", **more: Any) -> Trajectory:
    """Return a trajectory of two turns: a call of python (10 tokens of 100), and what was said (5 of 120)."""
    code = ToolCall(name="python", arguments={"code": "1"})
    turns = (
        Turn(
            stage="act",
            prompt=(),
            content=CALL,
            prompt_tokens=100,
            completion_tokens=10,
            tool_calls=(code,),
            results=(ToolResult(name="python", content="2"),),
        ),
        Turn(stage="act", prompt=(), content=said, prompt_tokens=120, completion_tokens=5),
    )
    given: dict[str, Any] = {"stop_reason": StopReason.COMPLETED, "turns": turns, "seconds": 3.0} | more
    return Trajectory(role="agent", task_id=task.id, sample_index=index, **given)


def failed(task: Task, index: int = 0) -> Trajectory:
    return trajectory(task, index, stop_reason=StopReason.ERROR, error=OUTAGE)


def answered(task: Task, right: list[bool], verdicts: tuple[bool | None, ...] = (), **more: Any) -> Answered:
    made = tuple(trajectory(task, i, f"<answer>{2 if r else 3}</answer>", **more) for i, r in enumerate(right))
    grades = tuple(Grade(correct=r, answer="2" if r else "3") for r in right)
    return Answered(task, made, grades, verdicts)


# --- rule reward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said", "worth"),
    [
        (Task(question="?", answer="1/2"), r"\boxed{\frac{2}{4}}", 1.0),
        (Task(question="?", answer="no", kind="qa"), "<answer>No.</answer>", 1.0),
        (Task(question="?", answer="no", kind="qa"), "<answer>unknown</answer>", 0.0),  # no part of a word counts
        (Task(question="?", answer="1,234", kind="short"), "<answer>1234</answer>", 1.0),
        (Task(question="?", answer="Oulu", aliases=("Uleåborg",), kind="qa"), "<answer>uleåborg</answer>", 1.0),
        (Task(question="?", answer="2"), "<answer>2</answer> is wrong, <answer>3</answer>", 0.0),
        (Task(question="?", answer="2"), "It is 2.", 0.0),
        (Task(question="?"), "<answer>2</answer>", None),
        (Task(question="?", answer="x", kind="program"), "<answer>x</answer>", None),
    ],
)
def test_the_rule_reward(task: Task, said: str, worth: float | None) -> None:
    stop = StopReason.UNPARSED if "<" not in said and "\\" not in said else StopReason.COMPLETED
    assert reward(task, {"trajectory": trajectory(task, said=said, stop_reason=stop), "answer": None}) == worth


def test_an_outage_has_no_reward_and_a_limit_has() -> None:
    lost, cut = failed(TASKS[0]), trajectory(TASKS[0], stop_reason=StopReason.MAX_TURNS)
    assert reward(TASKS[0], {"trajectory": lost, "answer": None}) is None and grade_trajectory(TASKS[0], lost) is None
    assert reward(TASKS[0], {"trajectory": cut, "answer": None}) == 0.0


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_pass_at_k_by_hand() -> None:
    """Of 4 trajectories a problem 4, 1 and 0 are right: pass@1 = (1 + 1/4 + 0) / 3, pass@2 = (1 + 1/2 + 0) / 3."""
    found = rate([("a", 4), ("b", 1), ("c", 0)], 4, 200, 0)
    assert found.problems == 3 and set(found.pass_at) == {1, 2, 4}
    assert found.pass_at[1] == pytest.approx(1.25 / 3) and found.pass_at[2] == pytest.approx(1.5 / 3)
    assert found.pass_at[4] == pytest.approx(2 / 3)
    low, high = found.ci[1] or (1.0, 0.0)
    assert 0.0 <= low < 1.25 / 3 < high <= 1.0
    assert rate([("a", 4), ("b", 1), ("c", 0)], 4, 200, 0) == found
    assert rate([], 2, 10, 0).pass_at == {} and set(rate([("a", 1)], 3, 0, 0).pass_at) == {1, 2, 3}


def test_groups_costs_and_ends() -> None:
    made = [
        answered(TASKS[0], [True, False]),
        answered(TASKS[1], [True, True], seconds=5.0),
        answered(TASKS[2], [False, False], stop_reason=StopReason.MAX_TURNS),
    ]
    found = groups(made, 2, 0, 0)
    assert set(found) == {"all", "level 0", "level 1"}
    whole = found["all"]
    assert whole.rule.pass_at == {1: 0.5, 2: pytest.approx(2 / 3)} and whole.graded is None
    assert whole.costs.model_dump() == {
        "tokens": 15.0,
        "prompt_tokens": 220.0,
        "turns": 2.0,
        "tool_calls": 1.0,
        "seconds": pytest.approx((4 * 3.0 + 2 * 5.0) / 6),
    }
    assert whole.answered == pytest.approx(4 / 6) and whole.ended == {"completed": 4, "max_turns": 2}
    assert found["level 1"].rule.pass_at == {1: 1.0, 2: 1.0} and found["level 0"].rule.problems == 2


def test_a_graders_figures_are_of_the_problems_that_it_graded_whole() -> None:
    """Of four verdicts three are known: rule and grader agree on two of these; problem 1 is graded whole."""
    made = [answered(TASKS[0], [True, False], (True, None)), answered(TASKS[1], [True, False], (True, True))]
    whole = groups(made, 2, 0, 0)["all"]
    assert whole.graded is not None and whole.graded.problems == 1 and whole.graded.pass_at == {1: 1.0, 2: 1.0}
    assert whole.rule.problems == 2 and whole.rule.pass_at[1] == 0.5
    assert agreement(made) == pytest.approx(2 / 3) and agreement([answered(TASKS[0], [True])]) is None
    (doubt,) = doubts(made)
    assert (doubt.problem, doubt.index, doubt.rule, doubt.why) == ("q1?", 1, False, "the grader says right")


def test_tool_use_counts_results_that_were_none() -> None:
    one = trajectory(TASKS[0])
    bad = ToolResult(name="python", content="Error", ok=False)
    two = one.model_copy(update={"turns": (one.turns[0].model_copy(update={"results": (bad,)}),)})
    cut = one.model_copy(update={"turns": (one.turns[0].model_copy(update={"results": ()}),)})  # the last step's
    use = tool_use([Answered(TASKS[0], (one, two, cut), ())])
    assert {name: (u.calls, u.failed) for name, u in use.items()} == {"python": (2, 1)}


def test_the_tables() -> None:
    made = [answered(TASKS[0], [True, False], (True, None)), answered(TASKS[1], [True, True], (True, True))]
    found = AgentReport(
        benchmark="gaia",
        kind="short",
        read_from="x",
        agent={"model": "m"},
        repeats=2,
        asked=3,
        groups=groups(made, 2, 50, 0),
        tools=tool_use(made),
        outages={"ModelError": 2},
        grader="g",
        grader_failures={"unreadable": 1},
        doubts=tuple(doubts(made)),
    )
    first, levels, tools, ends = sections(found)
    cells = {row[0]: row[1] for row in first.rows}
    assert "1 problems missing" in first.title and cells["problems"] == "2" and cells["problems graded"] == "1"
    assert cells["pass@1"].startswith("0.750") and cells["pass@1, graded"].startswith("1.000")
    assert (cells["tokens/trajectory"], cells["turns/trajectory"]) == ("15.0", "2.00")
    assert (cells["tool calls/trajectory"], cells["seconds/trajectory"]) == ("1.00", "3.00")
    assert [row[0] for row in levels.rows] == ["level 0", "level 1"] and levels.rows[0][2].startswith("0.500")
    assert len(levels.columns) == len(levels.rows[0]) == 8
    assert tools.rows == (("python", "4", "0"),)
    assert ends.rows == (("completed", "4"), ("outage: ModelError", "2"), ("grader: unreadable", "1"))
    assert json.loads(found.model_dump_json())["groups"]["all"]["rule"]["pass_at"]["1"] == 0.75


# --- runs ------------------------------------------------------------------------------------------------------------


class ByQuestion(FakeChat):
    """Answers each question with what it says there; a list is one after the other, over all sessions."""

    says: dict[str, Any] = {}  # noqa: RUF012
    asked: list[str] = []  # noqa: RUF012

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        question = str(self.sent[-1][0][1].content).removeprefix("Question:\n")
        self.asked.append(question)
        reply = self.says[question]
        return reply.pop(0) if isinstance(reply, list) else reply


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> ByQuestion:
    """A fake model and a fake tool in place of what the command opens."""
    fake = ByQuestion(says={}, asked=[])

    @contextmanager
    def opened(_: Agent, resumed: int) -> Iterator[FakeChat]:
        yield fake

    @asynccontextmanager
    async def tools(*_: Any) -> AsyncIterator[dict[str, FakePython]]:
        yield {"python": FakePython()}

    monkeypatch.setattr(agent_runs, "opened_agent", opened)
    monkeypatch.setattr(agent_runs, "open_with_sandbox", tools)
    return fake


WHO = Agent(ReactContext(), ToolsConfig(), width=1, max_outages=2)


def test_every_problem_is_answered_so_many_times_and_none_again(chat: ByQuestion, tmp_path: Path) -> None:
    chat.says = {task.question: "<answer>2</answer>" for task in TASKS}
    with Lines(tmp_path / "t.jsonl", Trajectory) as lines:
        assert run_all(TASKS, 2, WHO, lines) is None
    assert len(chat.asked) == 6 and {k["session"] for _, k in chat.sent} == {
        f"{t.id}:{i}" for t in TASKS for i in (0, 1)
    }
    with Lines(tmp_path / "t.jsonl", Trajectory) as lines:
        assert set(finished(lines)) == {(t.id, i) for t in TASKS for i in (0, 1)}
        assert run_all(TASKS, 2, WHO, lines) is None and len(chat.asked) == 6
        assert run_all(TASKS, 3, WHO, lines) is None and len(chat.asked) == 9


def test_an_outage_is_typed_and_tried_again_and_never_an_answer(chat: ByQuestion, tmp_path: Path) -> None:
    chat.says = {"q0?": "<answer>2</answer>", "q1?": [ModelError("down"), "<answer>2</answer>"], "q2?": "hm"}
    places = [(task.id, 0) for task in TASKS]
    with Lines(tmp_path / "t.jsonl", Trajectory) as lines:
        failure = run_all(TASKS, 1, WHO, lines)
        assert isinstance(failure, ModelError) and "1 trajectories failed" in str(failure)
        assert outages(lines, places) == {"ModelError": 1}
        assert set(finished(lines)) == {places[0], places[2]}
        assert lines.rows[1].error == ErrorInfo(kind="ModelError", message="down", where="think")
    with Lines(tmp_path / "t.jsonl", Trajectory) as lines:
        assert run_all(TASKS, 1, WHO, lines) is None
        assert set(finished(lines)) == set(places) and outages(lines, places) == {}
        assert finished(lines)[places[2]].stop_reason is StopReason.UNPARSED


def test_many_outages_in_a_row_stop_the_work(chat: ByQuestion, tmp_path: Path) -> None:
    chat.says = {task.question: SandboxError("gone") for task in TASKS}
    with (
        Lines(tmp_path / "t.jsonl", Trajectory) as lines,
        pytest.raises(SandboxError, match="2 failures in a row; what is done is kept"),
    ):
        run_all(TASKS, 1, WHO, lines)
    assert len(chat.asked) == 2


def test_a_journal_drops_a_line_cut_off_and_names_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    odd = "<answer>\ud83d Bär\u2028\x85</answer>"
    with Lines(path, Trajectory) as lines:
        for i in range(2):
            lines.add(trajectory(TASKS[0], i, odd))
        with pytest.raises(ConfigError, match="another process writes it"), Lines(path, Trajectory):
            pass
    path.write_bytes(path.read_bytes()[:-9])
    with Lines(path, Trajectory) as lines:
        (held,) = lines.rows
        assert held.turns[1].content == odd.replace("\ud83d", "?")
        lines.add(trajectory(TASKS[0], 1))
    with Lines(path, Trajectory) as lines:
        assert len(lines.rows) == 2
    with path.open("a") as file:
        file.write('{"role": 1}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:3: damaged"), Lines(path, Trajectory):
        pass


# --- the grader ------------------------------------------------------------------------------------------------------


class Teacher(FakeChat):
    """Grades by what the prompt shows as the answer."""

    says: dict[str, Any] = {}  # noqa: RUF012

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        return self.says[str(self.sent[-1][0][1].content).rpartition("Answer:\n")[2]]


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Teacher:
    fake = Teacher(says={})

    @contextmanager
    def opened(_: Grader) -> Iterator[FakeChat]:
        yield fake

    monkeypatch.setattr(grader, "_opened", opened)
    return fake


def test_a_graders_failures_are_counted_and_never_guessed(teacher: Teacher, tmp_path: Path) -> None:
    teacher.says = {
        "two": "The same. <verdict>true</verdict>",
        "3": "<verdict>false</verdict>",
        "4": "I cannot say.",
        "5": "<verdict>true</verdict> <verdict>false</verdict>",
        "6": ModelError("down"),
    }
    who, task = Grader("g", width=1), TASKS[0]
    answers = [(task, answer) for answer in ("two", "3", "4", "5", "6", "two")]
    with Lines(tmp_path / "g.jsonl", Compared) as lines:
        found = grade_all(answers, who, lines)
        assert len(teacher.sent) == 5  # the same answer twice is one comparison
    assert found.failures == {"ModelError": 1, "unreadable": 2}
    assert [found.of(who, task, a) for a in ("two", "3", "4", "5", "6", None)] == [True, False, None, None, None, False]
    with Lines(tmp_path / "g.jsonl", Compared) as lines:
        teacher.says |= {"6": "<verdict>false</verdict>", "4": "<verdict>false</verdict>"}
        again = grade_all(answers, who, lines)
    assert len(teacher.sent) == 8 and again.failures == {"unreadable": 1} and again.of(who, task, "6") is False
    prompt = str(teacher.sent[0][0][1].content)
    assert prompt == "Question:\nq0?\n\nReference answer:\n2\n\nAnswer:\ntwo"


def test_a_comparison_over_the_graders_context_is_no_outage(teacher: Teacher, tmp_path: Path) -> None:
    """It is counted, and only outages in a row stop the grader."""
    down, long = ModelError("down"), ContextLengthError("too long")
    said = [long, long, "<verdict>true</verdict>", down, long, down, "<verdict>true</verdict>", down, down, long]
    teacher.says = {str(i): reply for i, reply in enumerate(said)}
    who, task = Grader("g", width=1, max_outages=2), TASKS[0]
    with Lines(tmp_path / "g.jsonl", Compared) as lines:
        found = grade_all([(task, str(i)) for i in range(10)], who, lines)
    assert len(teacher.sent) == 9  # after two outages in a row nothing is asked
    assert found.failures == {"over the context": 3, "ModelError": 5}
    assert [found.of(who, task, str(i)) for i in (0, 2, 6)] == [None, True, True]


def test_a_grader_that_is_down_is_not_asked_for_ever(teacher: Teacher, tmp_path: Path) -> None:
    teacher.says = {str(i): ModelError("down") for i in range(9)}
    with Lines(tmp_path / "g.jsonl", Compared) as lines:
        found = grade_all([(TASKS[0], str(i)) for i in range(9)], Grader("g", width=1, max_outages=3), lines)
    assert len(teacher.sent) == 3 and found == Graded({}, {"ModelError": 9})


# --- the command line ------------------------------------------------------------------------------------------------


def parsed(*words: str) -> argparse.Namespace:
    return agent.options().parse_args(["--benchmark", "gaia", "--model", "m", "--out", "o", *words])


def test_settings_from_the_command_line() -> None:
    words = ["--tools", "python,search", "--corpus", "c.jsonl", "--folder", "f", "--repeats", "3"]
    found = agent_of(parsed(*words, "--set", "max_tokens=64", "search.results=3", "--style", "full"))
    assert (found.context.max_turns, found.context.temperature, found.context.style) == (40, 0.6, "full")
    assert found.context.max_tokens == 64 and found.tools.enabled == ("python", "search")
    assert (found.tools.search.corpus, found.tools.search.results, found.tools.folder) == ("c.jsonl", 3, "f")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "max_token=1"], "unknown setting 'max_token'; did you mean max_tokens?"),
        (["--set", "max_tokens"], "expected KEY=VALUE"),
        (["--set", "max_tokens=none"], "agent setting max_tokens: "),
        (["--set", "model=x"], "unknown setting 'model'"),
        (["--set", "search.result=3"], "agent setting search.result: "),
        (["--tools", "python,serach"], "there is no tool 'serach', the nearest is 'search'"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        agent_of(parsed(*words))
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_what_trajectories_depend_on(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text("{}")
    chosen, words = Chosen("gaia"), ["--tools", "python,search", "--corpus", str(corpus)]
    base = identity(agent_of(parsed(*words)), chosen)
    assert base == json.loads(json.dumps(base)) and base["corpus"] == "c.jsonl 2"
    same = [["--repeats", "9"], ["--base-url", "http://a/v1"], ["--concurrency", "2"], ["--folder", "f"]]
    other = [["--temperature", "0"], ["--set", "search.results=3"], ["--style", "full"], ["--max-turns", "13"]]
    assert all(identity(agent_of(parsed(*words, *more)), chosen) == base for more in same)
    assert all(identity(agent_of(parsed(*words, *more)), chosen) != base for more in other)
    assert identity(agent_of(parsed(*words)), Chosen("hle")) != base


def write_tasks(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"gaia:{path}"


def test_problems_with_files_are_told_of(tmp_path: Path) -> None:
    rows = [{"Question": f"{n}?", "Final answer": "1", "file_name": n} for n in ("a.txt", "b.txt", "")]
    spec, folder = write_tasks(tmp_path / "g.jsonl", *rows), tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("1")

    def told(*words: str) -> tuple[int, list[str]]:
        args = agent.options().parse_args(["--benchmark", spec, "--model", "m", "--out", "o", *words])
        tasks, notes = agent._tasks(agent_choose(spec), agent_of(args), args)
        return len(tasks), notes

    assert told()[1][0].startswith("2 problems come with a file, and no tool reads files")
    assert told("--without-files") == (1, ["2 problems with a file are left out."])
    count, notes = told("--tools", "files", "--folder", str(folder))
    assert count == 3 and notes == [f"1 files are not in {folder}, such as b.txt."]


def agent_choose(spec: str) -> Chosen:
    from eval.benchmarks import choose

    return choose(spec)


def test_programs_are_for_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert agent.main(["--benchmark", "livecodebench", "--model", "scripted-agent", "--out", "o"]) == 2
    assert "programs are written by eval.solve" in capsys.readouterr().err
    assert agent.main(["--benchmark", "gaia", "--model", "m", "--out", "o", "--grader-url", "http://a/v1"]) == 2
    assert "--grader-url needs --grader" in capsys.readouterr().err


def test_the_command_writes_candidates_for_a_judge(chat: ByQuestion, tmp_path: Path) -> None:
    """A problem of which a trajectory is missing is in the file once it is whole, and the file is written anew."""
    chat.says = {"q0?": ["<answer>2</answer>", "<answer>3</answer>"], "q1?": ["<answer>2</answer>", ModelError("down")]}
    spec = write_tasks(tmp_path / "g.jsonl", *({"Question": q, "Final answer": "2"} for q in ("q0?", "q1?")))
    words = ["--benchmark", spec, "--model", "scripted-agent", "--repeats", "2", "--out", str(tmp_path / "o")]
    assert agent.main([*words, "--bootstrap", "5", "--concurrency", "1"]) != 0
    (first,) = load_problems(tmp_path / "o" / "candidates.jsonl").problems
    assert [(c.answer, c.correct, len(c.turns)) for c in first.candidates] == [("2", True, 1), ("3", False, 1)]
    assert (first.task.question, first.task.kind, first.benchmark) == ("q0?", "short", "gaia")
    chat.says = {"q1?": "<answer>2</answer>"}
    assert agent.main([*words, "--bootstrap", "5"]) == 0
    assert [len(p.candidates) for p in load_problems(tmp_path / "o" / "candidates.jsonl").problems] == [2, 2]
