"""Ground truth never reaches a verifier: nothing that a task holds beside its question is ever sent (pitfall 6)."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.types import Candidate, Task, Turn
from eval.agent_runs import Job, run_one
from graphs.bidirectional import build_bidirectional
from graphs.judge import build_judge
from graphs.judge_state import JudgeContext
from graphs.react import build_react
from graphs.react_state import ReactContext
from graphs.refine import build_refine
from graphs.refine_state import RefineContext
from graphs.state import BidirectionalContext, TeacherContext
from graphs.teacher import build_teacher
from tests.unit.fakes import CALL, FALSE, TRUE, FakeChat, FakePython, FakeSolver, script

SENTINEL = "GROUND-TRUTH-7f3a"
TEXT = st.text(max_size=30)
SECRET = st.tuples(TEXT, TEXT).map(SENTINEL.join)
METADATA = st.dictionaries(TEXT, SECRET | st.lists(SECRET, max_size=2) | st.dictionaries(TEXT, SECRET, max_size=2))
STYLES = st.sampled_from(["compact", "full"])
JUDGED = "<think>t</think><critique>Look again.</critique><score>0.1</score>"


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Draw a task that holds the sentinel everywhere but in its question and in the candidates' texts."""
    question = draw(TEXT)
    candidates = tuple(
        Candidate(
            task_id=draw(SECRET), index=i, text=draw(TEXT), answer=draw(SECRET), correct=i % 2 == 0, model=draw(SECRET)
        )
        for i in range(2)
    )
    return Task(
        question=question,
        answer=draw(SECRET),
        aliases=(draw(SECRET),),
        source=draw(SECRET),
        level=draw(SECRET),
        metadata={**draw(METADATA), SENTINEL: draw(SECRET)},
        candidates=candidates,
    )


def everything_sent(chat: FakeChat) -> str:
    """Return all messages and settings that a chat model was sent, as one text."""
    return repr([([m.model_dump() for m in messages], kwargs) for messages, kwargs in chat.sent])


def run(graph: Any, given_input: dict[str, Any], context: Any) -> FakeChat:
    """Run a graph and return its chat model."""
    asyncio.run(graph.ainvoke(given_input, context=context))
    assert isinstance(context.chat, FakeChat)
    assert context.chat.sent
    return context.chat


@given(task=tasks(), style=STYLES)
@settings(max_examples=25, deadline=None)
def test_teacher(task: Task, style: Any) -> None:
    context = TeacherContext(chat=FakeChat(replies=script()), tools={"python": FakePython()}, style=style)
    assert SENTINEL not in everything_sent(run(build_teacher(), {"task": task}, context))


@given(task=tasks(), style=STYLES)
@settings(max_examples=10, deadline=None)
def test_teacher_with_a_solver(task: Task, style: Any) -> None:
    """A solver is sent the question alone; labels are computed, not sent."""
    solver = FakeSolver(replies={"solve": ["a solution"]})
    context = TeacherContext(
        chat=FakeChat(replies=script()),
        solver=solver,
        tools={"python": FakePython()},
        style=style,
        k=1,
        label=lambda task, text: task.answer == text,
    )
    task = task.model_copy(update={"candidates": ()})
    assert SENTINEL not in everything_sent(run(build_teacher(), {"task": task}, context))
    assert SENTINEL not in everything_sent(solver)


SWITCHES: list[dict[str, Any]] = [
    {},
    {"reconcile": True, "early_stop": True},
    {"use_plan": False},
    {"single_pass": True, "confidence": "sampled"},
    {"use_tools": False, "samples": 2, "temperature": 0.5},
]


class Torn(FakeChat):
    """Finds for the solution forward and against it backward, so that there is something to reconcile."""

    def reply_to(self, stage: str, session: str, asked: int) -> Any:
        if stage == "verdict":
            return TRUE if session is None or "forward" in session else FALSE
        return super().reply_to(stage, session, asked)


@given(task=tasks(), style=STYLES, switches=st.sampled_from(SWITCHES))
@settings(max_examples=25, deadline=None)
def test_bidirectional(task: Task, style: Any, switches: dict[str, Any]) -> None:
    chat = Torn(replies=script() | {"reconcile": [TRUE]})
    context = BidirectionalContext(chat=chat, tools={"python": FakePython()}, style=style, **switches)
    given_input = {"problem": task.question, "solution": task.candidates[0].text}
    assert SENTINEL not in everything_sent(run(build_bidirectional(), given_input, context))
    assert ("reconcile" in {kwargs["stage"] for _, kwargs in chat.sent}) == bool(switches.get("reconcile"))


@given(task=tasks(), style=STYLES, as_turns=st.booleans(), well_formed=st.booleans())
@settings(max_examples=25, deadline=None)
def test_judge(task: Task, style: Any, as_turns: bool, well_formed: bool) -> None:
    """A judge is sent the question and the trajectory, in its repair too."""
    first = JUDGED if well_formed else "no form"
    chat = FakeChat(replies={"judge": [first], "repair": [JUDGED]})
    text = task.candidates[0].text
    what = {"turns": [Turn(stage="t", prompt=(), content=text)]} if as_turns else {"solution": text}
    run(build_judge(), {"problem": task.question, **what}, JudgeContext(chat=chat, style=style))
    assert len(chat.sent) == (1 if well_formed else 2) and SENTINEL not in everything_sent(chat)


@given(task=tasks(), style=STYLES, critic=st.sampled_from(["verifier", "judge", "none"]), given_first=st.booleans())
@settings(max_examples=25, deadline=None)
def test_refinement(task: Task, style: Any, critic: Any, given_first: bool) -> None:
    """Critics, solver and refiner are sent the question and solutions; nothing else of the task is in the state."""
    judge = FakeChat(replies={"judge": [JUDGED]})
    chat, refiner = FakeChat(replies=script(verdict=FALSE)), FakeChat(replies={"refine": ["a revision"]})
    solver = FakeSolver(replies={"solve": ["a solution"]})
    context = RefineContext(
        chat=chat,
        refiner=refiner,
        solver=solver,
        judge=judge,
        tools={"python": FakePython()},
        style=style,
        critic=critic,
        rounds=2,
    )
    given_input: Any = {"problem": task.question, "trajectory_id": f"{task.id}:0"}
    if given_first:
        given_input["solution"] = task.candidates[0].text
    out = asyncio.run(build_refine().ainvoke(given_input, context=context))
    assert refiner.sent and bool(solver.sent) != given_first and bool(chat.sent) == (critic == "verifier")
    assert bool(judge.sent) == (critic == "judge")
    for model in (chat, refiner, solver, judge):
        assert SENTINEL not in everything_sent(model)
    assert SENTINEL not in repr(out)


@given(task=tasks(), style=STYLES)
@settings(max_examples=25, deadline=None)
def test_agent(task: Task, style: Any) -> None:
    """The agent is sent the question alone, and its trajectory holds nothing else of the task but its id."""
    chat = FakeChat(replies={"act": [CALL, "hm", "<answer>2</answer>"]})
    context = ReactContext(chat=chat, tools={"python": FakePython()}, style=style)
    made = asyncio.run(run_one(Job(task, 0), context))
    assert len(chat.sent) == 3 and SENTINEL not in everything_sent(chat)
    assert SENTINEL not in made.model_dump_json() and made.task_id == task.id
    given_input: Any = {"problem": task.question, "trajectory_id": f"{task.id}:0"}
    assert SENTINEL not in repr(asyncio.run(build_react().ainvoke(given_input, context=context)))


def test_the_recording_would_show_a_leak() -> None:
    held = tuple(Candidate(task_id="", index=i, text=t, correct=i == 0) for i, t in enumerate([SENTINEL, "x"]))
    task = Task(question="q", candidates=held)
    context = TeacherContext(chat=FakeChat(replies=script()), tools={"python": FakePython()})
    assert SENTINEL in everything_sent(run(build_teacher(), {"task": task}, context))
