"""Trajectories as candidates: what eval.agent writes, records read, and every judge is shown alike."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agents.records import read_jsonl, task_of
from agents.types import Candidate, Message, StopReason, Task, Trajectory, Turn
from distill import rrm
from eval import judge
from eval.agent_candidates import candidate_lines
from eval.agent_grades import grade_trajectory
from eval.agent_report import Answered
from eval.best_of_n_command import main as best_of_n
from eval.candidates import load_candidates, load_problems
from eval.checkers import grade
from graphs.state import VerifierContext
from graphs.teacher import labelled
from tests.unit.fakes import FakeChat, Reply
from tools.base import ToolCall, ToolResult
from tools.errors import DataError
from train.inputs import _solution
from train.launch import read_rows
from train.rollout import roll_out

FOUND = f"Oulu lies by the sea.\nAnswer: 7\n{'x' * 3000} END"  # holds what looks like an answer; must be cut
TASK = Task(question="Where?", answer="Oulu", aliases=("Uleåborg",), kind="qa", level="easy")
SEARCH = ToolCall(name="search", arguments={"query": "sea", "page": 2})


def trajectory(said: str, stop: StopReason = StopReason.COMPLETED, found: str = FOUND, model: str = "m") -> Trajectory:
    asked = (Message(role="system", content="Answer."), Message(role="user", content="Question:\nWhere?"))
    first = Turn(
        stage="act",
        prompt=asked,
        content="I look.",
        reasoning="THOUGHT",
        prompt_ids=(1, 2),
        completion_ids=(3,),
        logprobs=(-0.5,),
        completion_tokens=1,
        tool_calls=(SEARCH,),
        results=(ToolResult(name="search", content=found),),
        seconds=2.0,
    )
    last = Turn(stage="act", prompt=(Message(role="tool", content=found),), content=said, finish_reason="stop")
    return Trajectory(role="agent", task_id=TASK.id, model=model, turns=(first, last), stop_reason=stop)


def answered(*made: Trajectory, task: Task = TASK) -> Answered:
    grades = [grade_trajectory(task, one) for one in made]
    return Answered(task, made, tuple(g for g in grades if g is not None))


def write(path: Path, *found: Answered, drop: tuple[str, ...] = (), **change: Any) -> Path:
    """Write a file as eval.agent does, with fields left out or put in place of others."""
    path.parent.mkdir(exist_ok=True)
    records = [json.loads(line) | change for line in candidate_lines(found, "hotpotqa").splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in r.items() if k not in drop}) + "\n" for r in records))
    return path


RIGHT, WRONG = trajectory("<answer>uleåborg</answer>"), trajectory("<answer>Kemi</answer>", model="n")
CALLS = '<answer>Oulu</answer><tool_call>{"name": "search", "arguments": {"query": "x"}}</tool_call>'


def test_what_is_written_is_read(tmp_path: Path):
    cut = trajectory(CALLS, StopReason.MAX_TURNS)
    none = Trajectory(role="agent", task_id=TASK.id, stop_reason=StopReason.MAX_SECONDS)
    other = Answered(Task(question="?"), (none,), answered(none).grades)
    (problem,) = load_problems(write(tmp_path / "f.jsonl", answered(RIGHT, none, WRONG, cut), other)).problems
    assert problem.task == TASK.model_copy(update={"source": "jsonl:f.jsonl"}) and problem.benchmark == "hotpotqa"
    right, wrong, late = problem.candidates
    assert [(c.answer, c.correct, c.model) for c in (right, wrong, late)] == [
        ("uleåborg", True, "m"),
        ("Kemi", False, "n"),
        (None, False, "m"),  # an answer beside a call is none
    ]
    first, last = right.turns
    made = RIGHT.turns[0]
    assert (first.stage, first.prompt, first.content) == ("act", made.prompt, "I look.")
    assert (first.reasoning, first.tool_calls, first.results) == ("THOUGHT", made.tool_calls, made.results)
    assert (first.prompt_ids, first.completion_ids, first.logprobs, first.seconds) == (None, None, None, 0.0)
    assert last.prompt == (Message(role="tool", content=FOUND),)
    assert right.text.startswith("## Turn 1\n<think>THOUGHT</think>\nI look.\n<tool_call>")
    assert right.text.endswith("END\n\n## Turn 2\n<answer>uleåborg</answer>")


def test_half_a_character_is_in_no_file():
    line = candidate_lines([answered(trajectory("<answer>\ud83d\u2028</answer>"))], "b")
    assert line.encode() and line.count("\n") == 1 and "<answer>?\u2028</answer>" in line


def test_without_labels_the_agents_answer_is_graded(tmp_path: Path):
    """The text holds "Answer: 7" in an observation; of the wrong one that is the last marked answer but its own."""
    unsaid = trajectory("It was not found.", StopReason.UNPARSED)
    path = write(tmp_path / "f.jsonl", answered(RIGHT, WRONG, unsaid), drop=("evaluations",), ground_truth="7")
    (problem,) = load_candidates(path).problems
    assert [(c.answer, c.correct) for c in problem.candidates] == [
        ("uleåborg", True),
        ("Kemi", False),
        (None, False),  # not 7
    ]
    task = Task(question="?", answer="7", kind="qa")
    given = [Candidate(task_id=task.id, index=0, text=FOUND, turns=unsaid.turns)]
    assert [c.correct for c in labelled(task, given, lambda t, text: grade(t, text).correct)] == [False]


def test_a_file_without_turns_is_as_before(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", answered(WRONG), drop=("turns",))
    assert load_candidates(path).problems[0].candidates[0].turns == ()
    (spot, record), *_ = read_jsonl(write(tmp_path / "g.jsonl", answered(WRONG), samples=None, turns=["a talk"]))
    assert task_of(record | {"evaluations": None}, spot, "s").candidates == ()  # another file's field of this name


TURN = {"stage": "act", "prompt": [], "content": "x"}


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ("x", "`turns` must hold a list of turns for each of 1 samples"),
        ([], "`turns` must hold a list of turns for each of 1 samples"),
        ([[TURN], [TURN]], "for each of 1 samples"),
        ([TURN], "for each of 1 samples"),
        ([[TURN, {"stage": "act", "prompt": []}]], "`turns`[0][1]: content: Field required"),
        ([[TURN | {"tool_calls": [{"name": 1, "arguments": {}}]}]], "`turns`[0][0]: tool_calls.0.name: "),
        ([[TURN | {"correct": True}]], "`turns`[0][0]: correct: Extra inputs"),
        ([["x"]], "`turns`[0][0]: Input should be"),
    ],
)
def test_bad_turns_are_named(tmp_path: Path, turns: object, said: str):
    path = write(tmp_path / "f.jsonl", answered(RIGHT), turns=turns)
    with pytest.raises(DataError) as raised:
        load_problems(path)
    assert str(raised.value).startswith(f"{path}:1: ") and said in str(raised.value) and "\n" not in str(raised.value)


# --- what a judge is shown -------------------------------------------------------------------------------------------


class Judge(FakeChat):
    """Scores by the answer; keeps what it was shown."""

    model_id: str = "scripted-judge"

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        shown = str(next(m for m, given in self.sent if given["session"] == session)[-1].content)
        score = 0.9 if "<answer>uleåborg" in shown else 0.1
        return f"<think>t</think>\n<critique>c</critique>\n<score>{score}</score>"

    @property
    def shown(self) -> list[str]:
        """The user messages, sorted."""
        return sorted(str(messages[-1].content) for messages, _ in self.sent)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr("agents.models.open_chat", lambda model, base_url=None, **_: made)
    return made


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two agents' files of one name; the second problem's observations are others."""
    second = TASK.model_copy(update={"question": "And where else?"})
    good, weak = (trajectory(f"<answer>{answer}</answer>", found=f"2nd {FOUND}") for answer in ("uleåborg", "Kemi"))
    made = {"a": (answered(RIGHT), answered(good, task=second)), "b": (answered(WRONG), answered(weak, task=second))}
    return [str(write(tmp_path / name / "candidates.jsonl", *found)) for name, found in made.items()]


def make(files: list[str], out: Path, share: str) -> int:
    words = ["--model", "scripted-judge", "--out", str(out), "--sft-share", share]
    return rrm.main(["--candidates", *files, *words])


def user(messages: Any) -> str:
    return next(m["content"] for m in messages if m["role"] == "user")


def test_every_judge_is_shown_the_same(chat: Judge, files: list[str], tmp_path: Path):
    """One trajectory as an SFT row, a GRPO row, its rollout, and in eval.judge: cut to 2,048 characters for 1,024."""
    pytest.importorskip("datasets")
    assert judge_file(files[0], tmp_path / "j") == 0 and judge_file(files[1], tmp_path / "k") == 0
    by_command = chat.shown
    chat.sent.clear()
    assert make(files, tmp_path / "all", "1") == 0
    sft = read_rows(str(tmp_path / "all"), "sft", ())
    assert chat.shown == by_command == sorted(user(row["messages"]) for row in sft) and len(by_command) == 4

    assert make(files, tmp_path / "half", "0.5") == 0
    grpo = read_rows(str(tmp_path / "half"), "grpo", ())
    prompts = [user(row["prompt"]) for row in grpo]
    assert len(prompts) == 2 and set(prompts) < set(by_command) and {row["label"] for row in grpo} == {True, False}
    chat.sent.clear()
    policy = VerifierContext(chat=chat, max_trajectory_tokens=1024)
    for row in grpo:
        asyncio.run(roll_out(_solution(row), row["key"], policy))
    assert chat.shown == sorted(prompts)
    for text in by_command:
        assert "<think>THOUGHT</think>\nI look.\n<tool_call>" in text and '"page": 2' in text
        assert "Oulu lies by the sea." in text and "characters left out" in text and "END\n\n## Turn 2\n" in text
        assert "Uleåborg" not in text and len(text) < 2300


def judge_file(file: str, out: Path) -> int:
    words = ["--model", "scripted-judge", "--out", str(out), "--bootstrap", "20", "--set", "max_transcript=2048"]
    return judge.main(["--candidates", file, *words])


def test_files_of_one_name_are_told_apart(chat: Judge, files: list[str], tmp_path: Path):
    pytest.importorskip("datasets")
    assert make(files, tmp_path / "all", "1") == 0
    assert "`a/candidates.jsonl`, `b/candidates.jsonl`" in (tmp_path / "all" / "README.md").read_text()


def test_best_of_n_reads_such_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path / "f.jsonl", answered(RIGHT, WRONG))
    words = ["--model", "scripted-teacher", "--out", str(tmp_path / "o"), "--bootstrap", "5", "--draws", "5"]
    assert best_of_n(["--candidates", str(path), *words]) == 0
    assert "oracle" in capsys.readouterr().out
