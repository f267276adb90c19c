"""The journal, pass@k and the file of candidates of `eval.solve`, by hand."""

import json
from pathlib import Path

import pytest

from agents.scripted_solver import ScriptedSolver
from agents.types import Task
from eval.benchmarks import Chosen
from eval.candidates import load_candidates
from eval.checkers import Grade
from eval.solve import options
from eval.solve_journal import Graded, Journal, Sample
from eval.solve_report import Solved, complete, pass_at, record, report, report_path, sections, write
from eval.solving import Solver, Work, identity, reference_of, solve_all
from tools.errors import ConfigError, ContextLengthError, DataError, ModelError

SOLVER = Solver("scripted-solver", max_tokens=64, width=2)
SUMS = [Task(question=f"Calculate {i} + 58 - 19.", answer=str(i + 39), level=f"{i % 2}") for i in (37, 48, 59)]


def sample(i: int, text: str = "A: 1", problem: str = "p") -> Sample:
    return Sample(problem=problem, index=i, text=text, tokens=5, seconds=0.5)


def graded(i: int, reference: str = "r", correct: bool = True) -> Graded:
    return Graded(problem="p", index=i, reference=reference, grade=Grade(correct=correct, answer="1"))


def test_a_journal_keeps_what_was_written_and_drops_a_line_cut_off(tmp_path: Path):
    out = tmp_path / "x.jsonl"
    with Journal(out, {"model": "m"}) as journal:
        journal.add_sample(sample(0, "Bär\u2028\x85 A: 1"))  # line separators inside a text are no ends of lines
        journal.add_grade(graded(0))
        journal.add_sample(sample(1))
        with pytest.raises(ValueError, match="there already"):
            journal.add_sample(sample(1))
    path = tmp_path / "x.samples.jsonl"
    held = path.read_bytes()
    assert held.isascii()  # cut anywhere it can be read
    path.write_bytes(held[:-9])
    with Journal(out, {"model": "m"}) as journal:
        assert journal.samples == {("p", 0): sample(0, "Bär\u2028\x85 A: 1")}
        assert journal.grade_of(("p", 0), "r") == Grade(correct=True, answer="1")
        assert journal.grade_of(("p", 0), "another reference") is None
        journal.add_sample(sample(1, "anew"))
        journal.add_grade(graded(0, "another reference", correct=False))
    with Journal(out, {"model": "m"}) as journal:
        assert [s.text for s in journal.samples.values()][1] == "anew"
        assert journal.grade_of(("p", 0), "another reference") == Grade(correct=False, answer="1")
    assert len(path.read_text().split("\n")) == 6  # solver, two samples, two grades


def test_a_journal_of_another_solver_is_refused(tmp_path: Path):
    with Journal(tmp_path / "x.jsonl", {"model": "m", "temperature": 1.0}):
        pass
    with (
        pytest.raises(ConfigError, match=r"another solver \(model: 'm' there, 'n' here\); choose another --out"),
        Journal(tmp_path / "x.jsonl", {"model": "n", "temperature": 1.0}),
    ):
        pass
    (tmp_path / "y.jsonl").write_text("precious")
    with pytest.raises(ConfigError, match=r"has no y\.samples\.jsonl"), Journal(tmp_path / "y.jsonl", {}):
        pass
    assert (tmp_path / "y.jsonl").read_text() == "precious"


def test_two_processes_do_not_write_one_journal(tmp_path: Path):
    with (
        Journal(tmp_path / "x.jsonl", {}),
        pytest.raises(ConfigError, match="another process writes it"),
        Journal(tmp_path / "x.jsonl", {}),
    ):
        pass


def test_a_damaged_journal_names_its_line(tmp_path: Path):
    with Journal(tmp_path / "x.jsonl", {}) as journal:
        journal.add_sample(sample(0))
    with (tmp_path / "x.samples.jsonl").open("a") as file:
        file.write('{"sample": {"problem": 1}}\n')
    with (
        pytest.raises(DataError, match=r"x\.samples\.jsonl:3: no line of a journal"),
        Journal(tmp_path / "x.jsonl", {}),
    ):
        pass


@pytest.mark.parametrize(
    ("right", "n", "k", "value"), [(0, 4, 2, 0.0), (4, 4, 1, 1.0), (1, 4, 1, 0.25), (1, 4, 2, 0.5), (2, 4, 2, 5 / 6)]
)
def test_pass_at_k(right: int, n: int, k: int, value: float):
    assert pass_at(right, n, k) == pytest.approx(value)


def solved(correct: list[bool], kind: str = "math", **more) -> Solved:
    task = Task(question=f"{correct} {kind}", answer="1", kind=kind, **more)  # pyright: ignore[reportArgumentType]
    grades = tuple(
        Grade(correct=c, answer="1", f1=0.9 if kind == "qa" else None, doubt="" if c else "near") for c in correct
    )
    return Solved(task, tuple(sample(i, problem=task.id) for i in range(len(correct))), grades)


def test_the_table():
    found = report(Chosen("hotpotqa"), SOLVER, [solved([True, False], "qa"), solved([False, False], "qa")], 2, 3, 50, 0)
    whole = found.groups["all"]
    assert whole.pass_at == {1: 0.25, 2: 0.5} and whole.f1 == pytest.approx(0.9)
    assert whole.ci[1] is not None and 0.0 <= whole.ci[1][0] <= 0.25 <= whole.ci[1][1] <= 0.5
    assert (whole.tokens, whole.doubts, whole.answered) == (5.0, 3, 1.0)
    assert [d.why for d in found.doubts] == ["near"] * 3 and found.doubts[0].index == 1
    (table,) = sections(found)
    cells = {row[0]: row[1] for row in table.rows}
    assert "1 problems missing" in table.title and cells["labels to look at"] == "3"
    assert cells["pass@1"].startswith("0.250 (") and cells["F1"].startswith("0.900")


def test_levels_and_why_programs_failed():
    failed = Grade(correct=False, answer="x", reason="test 2 of 3: time limit")
    one = solved([True], "program", level="easy")
    two = solved([False], "program", level="hard")._replace(grades=(failed,))
    found = report(Chosen("livecodebench"), SOLVER, [one, two], 1, 2, 0, 0)
    assert {name: g.pass_at[1] for name, g in found.groups.items()} == {
        "all": 0.5,
        "level easy": 1.0,
        "level hard": 0.0,
    }
    assert found.failures == {"time limit": 1} and sections(found)[2].rows == (("time limit", "1"),)
    assert sections(found)[1].rows == (("level easy", "1", "1.000", "5.0"), ("level hard", "1", "0.000", "5.0"))


def test_the_file_is_read_by_the_other_commands(tmp_path: Path):
    task = Task(question="Who?", answer="Paris Hilton", aliases=("P. Hilton",), kind="qa", level="hard")
    texts = ["Answer: the p hilton", "Answer: Paris", "Paris Hilton"]
    grades = (
        Grade(correct=True, answer="the p hilton", f1=1.0),
        *[Grade(correct=False, answer=a, f1=0.0) for a in ("Paris", None)],
    )
    done = Solved(task, tuple(sample(i, text, task.id) for i, text in enumerate(texts)), grades)
    out = tmp_path / "x.jsonl"
    write(report(Chosen("hotpotqa"), SOLVER, [done], 3, 1, 0, 0), [done], Chosen("hotpotqa"), out)
    (line,) = out.read_text().splitlines()
    assert json.loads(line) == record(0, done, "hotpotqa")
    assert json.loads(report_path(out).read_text())["groups"]["all"]["problems"] == 1
    (problem,) = load_candidates(out).problems
    assert problem.benchmark == "hotpotqa" and (problem.task.kind, problem.task.aliases) == ("qa", ("P. Hilton",))
    assert [(c.answer, c.correct) for c in problem.candidates] == [
        ("the p hilton", True),
        ("Paris", False),
        (None, False),
    ]


def test_solving_is_done_once_and_goes_on_from_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen, out = Chosen("gsm8k"), tmp_path / "x.jsonl"
    with Journal(out, identity(SOLVER, chosen)) as journal:
        assert solve_all(SUMS[:2], 2, SOLVER, journal) is None
        first = dict(journal.samples)
        assert len(first) == 4 and complete(SUMS, 2, journal, 6.0)[1].task == SUMS[1]
    monkeypatch.setattr("eval.solving.opened_chat", lambda *_, **__: pytest.fail("the model was opened"))
    with Journal(out, identity(SOLVER, chosen)) as journal:
        assert solve_all(SUMS[:2], 2, SOLVER, journal) is None  # nothing is left
        other = [SUMS[0].model_copy(update={"answer": "-1"}), SUMS[1]]
        assert solve_all(other, 2, SOLVER, journal) is None  # another reference: graded anew, not sampled anew
        assert [bool(g.correct) for g in complete(other, 2, journal, 6.0)[0].grades] == [False, False]
        assert journal.samples == first
    monkeypatch.undo()
    with Journal(out, identity(SOLVER, chosen)) as journal:
        assert solve_all(SUMS, 3, SOLVER, journal) is None
        assert first.items() <= journal.samples.items() and len(journal.samples) == 9


def test_failures_are_told_and_leave_no_label(tmp_path: Path):
    tasks = [SUMS[0], Task(question="Why?", answer="1")]  # the script cannot solve it
    with Journal(tmp_path / "x.jsonl", {}) as journal:
        failure = solve_all(tasks, 2, SOLVER, journal)
        assert isinstance(failure, ModelError)
        assert str(failure).startswith(
            "2 solutions failed; the others are kept: run the same command again. The last: "
        )
        assert len(journal.samples) == len(journal.grades) == 2
        assert [s.task for s in complete(tasks, 2, journal, 6.0)] == [SUMS[0]]
        with pytest.raises(ModelError, match="1 failures in a row"):
            solve_all(tasks[1:], 2, SOLVER._replace(max_outages=1), journal)


@pytest.mark.parametrize("kind", ["math", "qa", "short", "program"])
def test_a_problem_over_the_context_is_wrong_not_an_outage(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is asked once, counts as cut, and does not keep the command from finishing; others are solved beside it."""
    written, asked = ScriptedSolver.reply, []

    def reply(self, messages, **kwargs):
        asked.append(kwargs["session"])
        if "long" in str(messages[-1].content):
            raise ContextLengthError("prompt of 1115 tokens: 1024 fit the context")
        return written(self, messages, **kwargs)

    monkeypatch.setattr(ScriptedSolver, "reply", reply)
    long, solver = Task(question="long", answer="1", kind=kind), SOLVER._replace(width=1, max_outages=1)
    tasks = [long, SUMS[0]]
    for _ in range(2):
        with Journal(tmp_path / "x.jsonl", {}) as journal:
            assert solve_all(tasks, 2, solver, journal) is None
            done = complete(tasks, 2, journal, solver.test_seconds)
    assert len(asked) == 4 and [s.task for s in done] == tasks
    assert [(s.text, s.finish, s.tokens, s.too_long) for s in done[0].samples] == [("", "length", 0, True)] * 2
    assert [(g.correct, g.answer) for g in done[0].grades] == [(False, None)] * 2
    assert not any(s.too_long for s in done[1].samples)


def test_what_is_over_the_context_is_a_part_of_what_is_cut():
    long, cut = (solved([False, False])._replace(task=task) for task in SUMS[:2])
    over = tuple(s.model_copy(update={"text": "", "tokens": 0, "finish": "length"}) for s in long.samples)
    by_its_own_limit = cut.samples[0].model_copy(update={"finish": "length"})
    cases = [
        long._replace(samples=over, grades=(Grade(correct=False),) * 2),
        cut._replace(samples=(by_its_own_limit, cut.samples[1])),
    ]
    found = report(Chosen("gsm8k"), SOLVER, cases, 2, 2, 0, 0)
    assert (found.groups["all"].cut, found.groups["all"].too_long, found.groups["all"].answered) == (0.75, 0.5, 0.5)
    cells = {row[0]: row[1] for row in sections(found)[0].rows}
    assert (cells["cut at the limit"], cells["over the context"]) == ("0.750", "0.500")


def test_half_a_character_of_a_reply_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agents.scripted_solver.ScriptedSolver.reply", lambda *_, **__: "\ud800\nA: 76")
    with Journal(tmp_path / "x.jsonl", {}) as journal:
        assert solve_all(SUMS[:1], 1, SOLVER, journal) is None
        (done,) = complete(SUMS[:1], 1, journal, 6.0)
    assert done.samples[0].text == "?\nA: 76" and done.grades[0].correct is True


def test_another_seed_after_a_resumption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The engine draws by seed and by how often a prompt was asked: with the same seed old samples would come again."""
    from contextlib import contextmanager

    from agents.models import open_chat

    seeds = []

    @contextmanager
    def opened(model, base_url, slots, max_context, seed):
        seeds.append(seed)
        yield open_chat(model)

    monkeypatch.setattr("eval.solving.opened_chat", opened)
    with Journal(tmp_path / "x.jsonl", {}) as journal:
        for k in (1, 2, 3):
            solve_all(SUMS[:1], k, SOLVER, journal)
    assert seeds[0] == 0 and len(set(seeds)) == 3


def test_what_a_grade_is_by():
    one = Task(question="?", answer="1")
    program = one.model_copy(update={"kind": "program", "metadata": {"public_test_cases": "[]"}})
    hashes = [
        reference_of(one, 6.0),
        reference_of(one.model_copy(update={"answer": "2"}), 6.0),
        reference_of(one.model_copy(update={"kind": "qa"}), 6.0),
        reference_of(one.model_copy(update={"aliases": ("2",)}), 6.0),
        reference_of(program, 6.0),
        reference_of(program, 5.0),
        reference_of(program.model_copy(update={"metadata": {"public_test_cases": "[1]"}}), 6.0),
    ]
    assert len(set(hashes)) == len(hashes) and reference_of(one, 5.0) == hashes[0]
    assert not Work(SOLVER, Journal(Path("x.jsonl"), {}), {"p": "r"}).done(("p", 0))


def test_options():
    base = ["--benchmark", "math500", "--model", "m", "--out", "x.jsonl"]
    args = options().parse_args(base)
    assert (args.k, args.max_tokens, args.temperature, args.limit) == (8, 2048, 1.0, None)
    for bad in (["--k", "0"], ["--temperature", "-1"], ["--temperature", "inf"], ["--max-tokens", "x"]):
        with pytest.raises(SystemExit):
            options().parse_args([*base, *bad])
