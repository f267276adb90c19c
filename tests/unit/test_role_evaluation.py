"""The evaluation of a run in the other roles: what is asked, what is kept, resuming, outages, the outside judge."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from agents.store import Store
from agents.types import Candidate, Task
from distill import evaluation, role_evaluation
from distill.config import load_config
from distill.pipeline import Run
from distill.role_evaluation import RoleEvaluation
from distill.run import measured
from eval.best_of_n import Scored
from eval.results import Results
from eval.role_metrics import RoleMetrics
from eval.role_records import RoleLines, RoleRecord
from tests.unit.fakes import CALL, FakeChat, FakePython, Reply, answer
from tools.errors import ModelError, SandboxError

EVERY = "{solver: 1, refiner: 1, judge: 1, agent: 1}"
SECRET = "GROUND-TRUTH-7f3a"
TASKS = [
    Task(question=f"q{i}: {i} + 1000?", answer=f"{i + 1000}", source="x", metadata={"key": SECRET}) for i in range(3)
]
FIRST = {"q0": "Answer: 1000", "q1": "Answer: 5", "q2": "Answer: 6"}  # right, wrong, wrong
REVISED: dict[str, Reply] = {
    "q0": answer("Answer: 7", (10, 7)),
    "q1": answer("Answer: 1001", (10, 7)),
    "q2": answer("Answer: 1002", (10, 7), finish_reason="length"),  # cut: the first answer stands
}
ACTED = {"q0": "<answer>1000</answer>", "q1": "<answer>5</answer>", "q2": "I do not know."}
TEXTS = ("Answer: 1000", "Answer: 9", "Answer: 9 ", "Answer: 8")  # of q0: right, wrong, wrong again, without a label
LABELS = (True, False, False, None)
CANDIDATES = [
    Candidate(task_id=TASKS[0].id, index=i, text=text, answer=SECRET, correct=label)
    for i, (text, label) in enumerate(zip(TEXTS, LABELS, strict=True))
]


class Student(FakeChat):
    """Does every role of the student; `broken` maps (stage, part of a question) to what fails it."""

    model_id: str = "tiny:sft"
    broken: dict[tuple[str, str], Exception] = {}  # noqa: RUF012
    lives: int = 10_000

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Choose by stage and question."""
        if len(self.sent) > self.lives:
            return RuntimeError("killed")  # nobody's outage: it takes the process down
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        text = "\n".join(str(m.content) for m in messages)
        question = next(q for q in FIRST if f"{q}:" in text)
        fault = next((error for (of, part), error in self.broken.items() if of == stage and part in text), None)
        if fault is not None:
            return fault
        score = 0.8 if "Answer: 1000" in text else 0.3
        said = f"<think>t</think><critique>Look at {question}.</critique><score>{score}</score>"
        replies = {"solve": FIRST, "refine": REVISED, "judge": {question: answer(said, (10, 20))}, "act": ACTED}
        return replies[stage][question]

    @property
    def asked(self) -> list[str]:
        """The stages that were asked, in order."""
        return [kwargs["stage"] for _, kwargs in self.sent]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The held-out problems; the first has candidates."""
    with Store(tmp_path / "store.sqlite") as found:
        found.add_tasks(TASKS)
        for task in TASKS:
            found.add_candidates(task.id, CANDIDATES if task is TASKS[0] else [])
        yield found


class Opened:
    """A run over the store, with a fake student in place of the model that it opens."""

    def __init__(self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Take the place of the model and of the tools."""
        self.folder, self.store, self.opens = folder, store, 0
        self.student = Student()

        @contextmanager
        def opened_student(cfg: Any, model: str, name: str) -> Iterator[Student]:
            assert (model, name) == ("folder", f"{cfg.student.model}:sft")
            self.opens += 1
            yield self.student

        @asynccontextmanager
        async def open_tools(cfg: Any) -> AsyncIterator[dict[str, FakePython]]:
            yield {"python": FakePython()}

        monkeypatch.setattr(role_evaluation, "opened_student", opened_student)
        monkeypatch.setattr(role_evaluation, "open_tools", open_tools)

    def run(self, weights: str = EVERY, name: str = "r", **more: Any) -> Run:
        """Return the run as a new process finds it."""
        sets = [
            f"mixture.weights={weights}",
            "grpo.steps=0",
            "eval.bootstrap=20",
            *(f"{k.replace('__', '.')}={v}" for k, v in more.items()),
        ]
        cfg = load_config(None, [f"name={name}", f"out={self.folder}", *sets])
        cfg.run_dir.mkdir(exist_ok=True)
        return Run(cfg, {"eval": TASKS}, self.store)

    def evaluate(self, weights: str = EVERY, student: Student | None = None, **more: Any) -> RoleMetrics:
        """Measure in a new process."""
        self.student = student or Student()
        return RoleEvaluation(self.run(weights, **more)).evaluate("sft", "folder")


@pytest.fixture
def opened(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(tmp_path, store, monkeypatch)


def test_a_model_is_measured_in_every_role_that_it_learned(opened: Opened):
    """One of three first answers is right; one is spoilt, one mended, one revision cut; the agent has one right.

    The judge gives the right candidate 0.8 and the wrong one, which counts twice, 0.3; it is asked once for each text.
    """
    found = opened.evaluate()
    assert (found.answers, found.revised, found.trajectories) == (3, 2, 3)
    assert (found.first, found.refined, found.agent) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (found.gained, found.lost, found.gain) == pytest.approx((1 / 3, 1 / 3, 0))
    assert found.judge is not None and found.judge.verdicts.n == 3 and found.judge.verdicts.auroc == 1.0
    assert found.judge.verdicts.brier == pytest.approx((0.04 + 2 * 0.09) / 3)
    tokens = (found.first_tokens, found.critique_tokens, found.revision_tokens, found.judge.tokens)
    assert tokens == (5.0, 20.0, pytest.approx((7 + 7 + 7) / 3), 20.0) and found.agent_tokens is not None
    asked = opened.student.asked
    assert {stage: asked.count(stage) for stage in ("solve", "judge", "refine")} == {
        "solve": 3,
        "judge": 5,
        "refine": 3,
    }
    conversations = {(kwargs["session"], len(messages)) for messages, kwargs in opened.student.sent}
    assert len(conversations) == len(opened.student.sent)  # no two roles share a conversation
    assert {kwargs["temperature"] for _, kwargs in opened.student.sent} == {0.0}
    assert all(kwargs["max_tokens"] <= 96 for _, kwargs in opened.student.sent)  # eval.max_tokens
    revision = next(m for m, kwargs in opened.student.sent if kwargs["stage"] == "refine")
    assert "Look at q0." in str(revision[-1].content)


def test_a_finished_evaluation_opens_no_model(opened: Opened):
    found = opened.evaluate()
    assert opened.evaluate() == found and opened.opens == 1
    stages = json.loads((opened.folder / "r" / "stages.json").read_text())
    assert stages["eval/sft_roles"]["done"] and opened.run().wall_s["eval"] > 0


@pytest.mark.parametrize(("lives", "again"), [(0, 0), (1, 0), (2, 0), (4, 0), (8, 0), (10, 0), (13, 0), (14, 1)])
def test_a_kill_loses_nothing_and_nothing_is_done_twice(opened: Opened, lives: int, again: int):
    """Fifteen calls in all; the last two are one trajectory, which begins anew where it was killed between them."""
    whole = opened.evaluate(name="whole")
    assert len(opened.student.sent) == 15
    with pytest.raises(ExceptionGroup):
        opened.evaluate(student=Student(lives=lives), eval__batch=1)
    assert len(opened.student.sent) == lives + 1  # the last one was not answered
    assert opened.evaluate(eval__batch=1) == whole
    assert len(opened.student.sent) == 15 - lives + again


def test_an_outage_is_no_score_and_is_tried_again(opened: Opened):
    whole = opened.evaluate(name="whole")
    broken: dict[tuple[str, str], Exception] = {
        ("refine", "q1:"): ModelError("down"),
        ("judge", "Answer: 9"): ModelError("down"),
        ("act", "q0:"): SandboxError("the sandbox is gone"),
    }
    with pytest.raises(SandboxError, match=r"3 rollouts of other roles failed; the others are kept.*sandbox is gone"):
        opened.evaluate(student=Student(broken=broken))
    assert not opened.run().done("eval/sft_roles")
    text = (opened.folder / "r" / "roles_sft.jsonl").read_text()
    records = [RoleRecord.model_validate_json(line) for line in text.splitlines()]
    failures = [(r.kind, [*(made.error for made in r.rounds), r.trajectory and r.trajectory.error]) for r in records]
    errors = [(kind, error.kind) for kind, found in failures for error in found if error]
    assert sorted(errors) == [("agent", "SandboxError"), ("course", "ModelError"), ("judgement", "ModelError")]
    assert opened.evaluate() == whole
    assert sorted(opened.student.asked) == ["act", "judge", "refine"]  # what failed, and nothing else


def test_many_outages_in_a_row_stop_the_work(opened: Opened):
    broken: dict[tuple[str, str], Exception] = {("solve", ""): ModelError("down")}
    with pytest.raises(ModelError, match="2 failures in a row; what is done is kept"):
        opened.evaluate(student=Student(broken=broken), eval__batch=1, teacher__max_outages=2)
    assert opened.student.asked == ["solve", "solve"]


def test_no_prompt_holds_ground_truth(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    """Not the references of q1 and q2, to which the model does not come by itself, nor what else a task holds."""
    monkeypatch.setattr("tests.unit.test_role_evaluation.REVISED", dict.fromkeys(FIRST, "Answer: 3"))
    found = opened.evaluate()
    assert found.first == pytest.approx(1 / 3)
    sent = repr([([m.model_dump() for m in messages], kwargs) for messages, kwargs in opened.student.sent])
    assert SECRET not in sent and "1001" not in sent and "1002" not in sent and "Answer: 1000" in sent
    assert "Answer: 8" not in sent  # a candidate without a label is not judged


def test_the_outside_judge_criticises_where_the_student_learns_no_judge(opened: Opened):
    weights = "{solver: 1, refiner: 1}"
    found = opened.evaluate(weights)
    assert sorted(opened.student.asked) == ["refine"] * 3 + ["solve"] * 3
    assert found.refined == pytest.approx(1 / 3) and found.critique_tokens is not None
    assert found.judge is None and found.agent is None and found.trajectories is None
    with RoleLines(opened.folder / "r" / "roles_sft.jsonl") as lines:
        (review,) = lines.courses[TASKS[0].id][0].reviews
        assert review.model == "scripted-judge" and set(lines.courses) == {t.id for t in TASKS}


def test_a_solver_alone_is_not_refined(opened: Opened):
    found = opened.evaluate("{solver: 1}")
    assert opened.student.asked == ["solve"] * 3 and found.first == pytest.approx(1 / 3)
    assert found.refined is None and found.gain is None and found.critique_tokens is None


BY_AGENT = "{agent: 1, refiner: 1, judge: 1}"
ANEW = {"q0": "<answer>7</answer>", "q1": "<answer>1001</answer>", "q2": "Again I do not know."}


class Agent(Student):
    """Calls a tool before it answers, and answers otherwise when it is shown an earlier attempt."""

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Call first; then answer."""
        reply = super().reply_to(stage, session, asked)
        if stage != "act" or isinstance(reply, Exception):
            return reply
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        again = "# Again" in "\n".join(str(m.content) for m in messages)
        question = next(q for q in FIRST if any(f"{q}:" in str(m.content) for m in messages))
        return answer(CALL if asked == 0 else (ANEW if again else ACTED)[question], (10, 4 if again else 3))


@pytest.mark.parametrize(("critic", "judged"), [("student", 3 + 2), ("judge", 2)])
def test_the_agent_answers_and_answers_anew(opened: Opened, critic: str, judged: int):
    """Two calls a trajectory, three first and three second ones; no pass of the agent besides, no solver, no refiner.

    One of three is right at first; that is spoilt, one is mended, and who has no answer twice stays wrong. Two distinct
    candidates of the first problem are judged by the student in both cases, first answers by whoever the critic is.
    """
    found = opened.evaluate(BY_AGENT, Agent(), mixture__agent_turns=2, mixture__critic=critic)
    assert (found.answerer, found.answers, found.agent, found.trajectories) == ("agent", 3, None, None)
    assert (found.first, found.refined) == pytest.approx((1 / 3, 1 / 3))
    assert (found.gained, found.lost, found.revised) == (pytest.approx(1 / 3), pytest.approx(1 / 3), 2)
    assert (found.first_tokens, found.revision_tokens, found.agent_tokens) == (6.0, 8.0, None)
    assert found.judge is not None and found.judge.verdicts.n == 3
    assert {stage: opened.student.asked.count(stage) for stage in set(opened.student.asked)} == {
        "act": 12,
        "judge": judged,
    }
    with RoleLines(opened.folder / "r" / "roles_sft.jsonl") as lines:
        assert set(lines.courses) == {t.id for t in TASKS} and not lines.agents
        reviews = [lines.courses[t.id][0].reviews[0].model for t in TASKS]
        assert reviews == ["tiny:sft" if critic == "student" else "scripted-judge"] * 3
        first, second = lines.courses[TASKS[1].id]
        assert (first.solution, second.solution) == ("<answer>5</answer>", "<answer>1001</answer>")
        assert all(turn.stage == "act" for made in (first, second) for turn in made.made)


def test_the_agents_second_prompt_holds_attempt_and_critique(opened: Opened):
    """And neither the references of q1 and q2, to which it does not come by itself, nor what else a task holds."""
    opened.evaluate("{agent: 1, refiner: 1, judge: 1}", Unmended(), mixture__agent_turns=2)
    sent = opened.student.sent
    again = [m for m, given in sent if given["stage"] == "act" and any("# Again" in str(x.content) for x in m)]
    opening = {str(m[1].content) for m in again}
    assert len(opening) == 3
    for text in opening:
        question = next(q for q in FIRST if f"{q}:" in text)
        for part in (CALL, "## Observation 1\n2", ACTED[question], f"Look at {question}."):
            assert part in text
    assert {str(m[0].content) for m in again} == {str(m[0].content) for m, given in sent if given["stage"] == "act"}
    critiques = [str(m[-1].content) for m, given in sent if given["stage"] == "judge"]
    assert sum(CALL in text and "## Observation 1\n2" in text for text in critiques) == 3  # all that it did
    said = repr([([x.model_dump() for x in m], given) for m, given in sent])
    assert SECRET not in said and "1001" not in said and "1002" not in said and "0.3" not in "".join(opening)


class Unmended(Agent):
    """Comes to no reference answer, first or again."""

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Say 3 where another would mend its answer."""
        reply = super().reply_to(stage, session, asked)
        return answer("<answer>3</answer>") if isinstance(reply, AIMessage) and "1001" in str(reply.content) else reply


def test_an_agents_outage_is_tried_again_alone(opened: Opened):
    whole = opened.evaluate(BY_AGENT, Agent(), name="whole", mixture__agent_turns=2)
    broken: dict[tuple[str, str], Exception] = {("act", "Look at q1."): ModelError("down")}
    with pytest.raises(ModelError, match=r"1 rollouts? of other roles failed.*down"):
        opened.evaluate(BY_AGENT, Agent(broken=broken), mixture__agent_turns=2)
    assert opened.evaluate(BY_AGENT, Agent(), mixture__agent_turns=2) == whole
    assert opened.student.asked == ["act", "act"]  # the second trajectory of q1, and nothing else


def test_when_the_outside_judge_is_asked(opened: Opened):
    mixtures = (EVERY, "{solver: 1}", "{solver: 1, refiner: 1}", "{refiner: 1}")
    asked = [opened.run(weights, name=f"c{i}").cfg.mixture.needs_critic for i, weights in enumerate(mixtures)]
    assert asked == [False, False, True, False]


@pytest.mark.parametrize(
    ("weights", "verifies", "others"),
    [
        ("{forward_verifier: 1, backward_verifier: 1}", True, False),
        ("{forward_verifier: 1, judge: 1}", True, True),
        ("{judge: 1, agent: 0}", False, True),
    ],
)
def test_what_a_run_measures(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, weights: str, verifies: bool, others: bool
):
    monkeypatch.setattr(evaluation.Evaluation, "evaluate", lambda self, stage, model: (evaluation.held_out([]), []))
    monkeypatch.setattr(
        evaluation.Evaluation, "best_of_n_pools", lambda self, rows: [[Scored(answer="1", correct=True)]]
    )
    monkeypatch.setattr(RoleEvaluation, "evaluate", lambda self, stage, model: RoleMetrics(answers=1))
    found = Results(
        name="n", student="s", teacher="t", seed=0, **measured(opened.run(weights), {"base": "b", "sft": "s"})
    )
    assert set(found.held_out) == ({"base", "sft"} if verifies else set())
    assert (found.best_of_n is not None) == verifies
    assert set(found.roles) == ({"base", "sft"} if others else set())
