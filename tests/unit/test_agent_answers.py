"""Where the agent answers: its trajectories are judged whole, revised by the teacher as agent, selected, exported."""

import json
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.plain_roles import agent_tools, render_agent
from agents.store import Row, Store
from agents.types import Candidate, Judgement, Message, StopReason, Task, Trajectory, Turn
from distill.card import Contents, card
from distill.config import load_config, save_config
from distill.export import export, open_run
from distill.inputs import load_parts
from distill.judgements import opening
from distill.mixture import Apart, answer_row, select_mixture
from distill.prompts import prompts_of
from distill.role_harvest import Teachers, harvest_roles
from distill.sampling import candidate_of
from distill.sections import RunConfig
from distill.select import Selected, to_examples
from graphs.judge_state import transcript_for
from tests.unit.fakes import CALL, FakeChat, FakePython
from tools.base import ToolCall, ToolResult
from tools.errors import ModelError, NothingAcceptedError
from tools.progress import Progress
from train.inputs import read_mixed, read_problems, read_solutions
from train.launch import load_settings, parse, read_rows
from train.pools import Problem
from train.recipes import RECIPES, Around, Job
from train.reviews import Prompt
from train.settings import GrpoConfig, StudentConfig

SECRET = "GROUND-TRUTH-7f3a"
CRITIQUE = "The second step was not looked up."
JUDGED = f"<think>THOUGHTS-OF-THE-JUDGE</think><critique>{CRITIQUE}</critique><score>0.1375</score>"
WEIGHTS = "mixture.weights={agent: 1, refiner: 1, judge: 1}"
TASKS = [
    Task(question=f"q{i}: who?", answer=SECRET, aliases=(f"Anna {i}",), kind="qa", source=SECRET) for i in range(2)
]
SHOWN = agent_tools("compact", [FakePython()])


def trajectory(task: Task, said: str, seen: str = "SEEN", stop: StopReason = StopReason.COMPLETED) -> Trajectory:
    """A call with a thought before it, what the tool said, and what the agent said on it."""
    call = ToolCall(name="python", arguments={"code": "print(1+1)"})
    asked = tuple(render_agent("compact", task.question, SHOWN))
    results = (ToolResult(name="python", content=seen),)
    first = Turn(stage="act", prompt=asked, content=CALL, reasoning="THOUGHT", tool_calls=(call,), results=results)
    last = Turn(stage="act", prompt=(Message(role="tool", content=seen),), content=said, completion_tokens=3)
    return Trajectory(role="agent", task_id=task.id, model="fake", turns=(first, last), stop_reason=stop)


def candidates(task: Task, i: int) -> list[Candidate]:
    """A right answer, a wrong one, and none."""
    made = (f"<answer>Anna {i}</answer>", "<answer>Carl</answer>", "I give up.")
    stops = (StopReason.COMPLETED, StopReason.COMPLETED, StopReason.UNPARSED)
    return [
        candidate_of(task, n, trajectory(task, said, f"SEEN-{i}-{n}", stop))
        for n, (said, stop) in enumerate(zip(made, stops, strict=True))
    ]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two problems with three trajectories each."""
    with Store(tmp_path / "s.sqlite") as opened:
        for i, task in enumerate(TASKS):
            opened.add_task(task)
            opened.add_candidates(task.id, candidates(task, i))
        yield opened


# --- the harvest of roles ---------------------------------------------------------------------------------------------


class Agent(FakeChat):
    """The teacher as agent: calls its tool, then answers; it fails where `down` is in what it is shown."""

    model_id: str = "fake-teacher"
    down: str = "nothing of this"

    def reply_to(self, stage: str, session: str, asked: int) -> Any:
        """Look for `down` in the session's prompt."""
        messages = next(m for m, given in reversed(self.sent) if given["session"] == session)
        if any(self.down in str(m.content) for m in messages):
            return ModelError("agent is down")
        return super().reply_to(stage, session, asked)


def teachers(*acts: str, **more: str) -> Teachers:
    judge = FakeChat(model_id="fake-judge", replies={"judge": [JUDGED]})
    agent = Agent(replies={"act": list(acts or (CALL, "<answer>Anna 1</answer>"))}, **more)  # pyright: ignore
    return Teachers(judge, FakeChat(model_id="fake-teacher"), agent)


def calls(who: Teachers) -> tuple[int, ...]:
    return tuple(len(chat.sent) for chat in who)  # pyright: ignore


def texts(chat: Any) -> list[str]:
    """What was sent, a text a call."""
    return ["\n".join(str(m.content) for m in messages) for messages, _ in chat.sent]


async def harvest(store: Store, who: Teachers, *sets: str) -> int:
    cfg = load_config(None, [WEIGHTS, "grpo.steps=0", "teacher.samples=3", *sets])
    tools, progress = {"python": FakePython("LOOKED-UP")}, Progress("harvest", 0, "trajectories", stream=StringIO())
    return await harvest_roles(TASKS, store, cfg, who, tools, progress)


def of(store: Store, role: str) -> list[Row]:
    return [row for row in store if row.trajectory.role == role]


async def test_judgements_and_revisions_once_and_no_other_trajectories(store: Store):
    """6 candidates: as many judgements, and as many revisions of two steps; the refiner in one reply is not asked."""
    who = teachers()
    assert await harvest(store, who) == 0 and calls(who) == (6, 0, 12)
    assert Counter(row.trajectory.role for row in store) == {"judge": 6, "refiner": 6}
    for row in of(store, "refiner"):
        made = row.trajectory
        assert (made.candidate_id, made.stop_reason, made.tool_calls) == (row.candidate.id, StopReason.COMPLETED, 1)
        assert [turn.stage for turn in made.turns] == ["act", "act"] and made.model == "fake-teacher"
        assert made.turns[0].results[0].content == "LOOKED-UP"
    again = teachers()
    assert await harvest(store, again) == 0 and calls(again) == (0, 0, 0)


async def test_the_judge_is_shown_all_that_the_agent_did(store: Store):
    """Every turn with its thought, call and observation, under headings; not the agent's instructions."""
    who = teachers()
    await harvest(store, who)
    shown = texts(who.judge)
    for i in range(2):
        for n, said in enumerate((f"<answer>Anna {i}</answer>", "<answer>Carl</answer>", "I give up.")):
            (text,) = [t for t in shown if f"SEEN-{i}-{n}" in t]
            wanted = f"## Turn 1\n<think>THOUGHT</think>\n{CALL}\n\n## Observation 1\nSEEN-{i}-{n}\n\n## Turn 2\n{said}"
            assert wanted in text and f"q{i}: who?" in text and SHOWN not in text


async def test_the_agent_is_shown_attempt_and_critique_on_its_own_instructions(store: Store):
    who = teachers()
    await harvest(store, who)
    openings = [messages for messages, _ in who.agent.sent if len(messages) == 2]  # pyright: ignore
    assert len(openings) == 6
    for system, asked in openings:
        text = str(asked.content)
        assert str(system.content) == render_agent("compact", "", SHOWN)[0].content
        assert "# Again" in text and CRITIQUE in text and CALL in text and "## Observation 1\nSEEN-" in text
        assert "0.1375" not in text and "THOUGHTS-OF-THE-JUDGE" not in text
    assert len({str(asked.content) for _, asked in openings}) == 6


@pytest.mark.parametrize("style", ["compact", "full"])
async def test_nobody_is_shown_ground_truth(store: Store, style: str):
    who = teachers()
    await harvest(store, who, f"teacher.style={style}")
    for text in (*texts(who.judge), *texts(who.agent)):
        assert SECRET not in text and "7f3a" not in text and "True" not in text
    assert SECRET not in repr([[turn.prompt for turn in row.trajectory.turns] for row in store])


async def test_a_revision_without_an_answer_is_unparsed_and_not_made_again(store: Store):
    """No outage: its own doing, whether it stopped by itself or ran out of steps."""
    who = teachers(CALL, "I do not know.")
    assert await harvest(store, who, "mixture.agent_turns=2") == 0
    rows = of(store, "refiner")
    assert [row.trajectory.stop_reason for row in rows] == [StopReason.UNPARSED] * 6
    assert all(len(row.trajectory.turns) == 2 for row in rows)
    again = teachers()
    assert await harvest(store, again, "mixture.agent_turns=2") == 0 and calls(again) == (0, 0, 0)


async def test_an_outage_of_the_agent_is_a_row_that_is_tried_again(store: Store):
    assert await harvest(store, teachers(down="SEEN-1-0")) == 1
    (lost,) = [row for row in of(store, "refiner") if row.trajectory.stop_reason is StopReason.ERROR]
    assert lost.trajectory.error is not None and "agent is down" in lost.trajectory.error.message
    again = teachers()
    assert await harvest(store, again) == 0 and calls(again) == (0, 0, 2)
    assert {row.trajectory.stop_reason for row in of(store, "refiner")} == {StopReason.COMPLETED}


async def test_other_tools_make_other_revisions(store: Store):
    """The key of a revision holds what the agent is told of its tools."""
    await harvest(store, teachers())
    cfg = load_config(None, [WEIGHTS, "grpo.steps=0"])
    who, progress = teachers(), Progress("harvest", 0, "trajectories", stream=StringIO())
    await harvest_roles(TASKS, store, cfg, who, {}, progress)
    assert calls(who)[0] == 0 and calls(who)[2] >= 6


# --- selection --------------------------------------------------------------------------------------------------------


def revision(task: Task, about: Candidate, said: str, stop: StopReason = StopReason.COMPLETED) -> Row:
    made = trajectory(task, said, "SEEN-ANEW", stop)
    given = {"role": "refiner", "candidate_id": about.id}
    return Row(task, about, made.model_copy(update=given))


def judgement(task: Task, about: Candidate, score: float) -> Row:
    said = f"<think>t</think><critique>{CRITIQUE}</critique><score>{score}</score>"
    made = Trajectory(
        role="judge",
        task_id=task.id,
        candidate_id=about.id,
        turns=(Turn(stage="judge", prompt=(), content=said),),
        stop_reason=StopReason.COMPLETED,
        verdict=Judgement(critique=CRITIQUE, score=score).verdict,
    )
    return Row(task, about, made)


def harvested() -> tuple[list[Row], list[Row]]:
    """Of two problems what the store holds, and the agent's rows.

    The right one stays right, the wrong one is mended, and who gave no answer gives a wrong one. The judge is on the
    right side of the first two.
    """
    rows, answers = [], []
    for i, task in enumerate(TASKS):
        right, wrong, none = candidates(task, i)
        answers += [answer_row(task, c) for c in (right, wrong, none)]
        rows += [revision(task, right, f"Seen. <answer>Anna {i}</answer>")]
        rows += [revision(task, wrong, f"<answer>anna {i}.</answer>"), revision(task, none, "<answer>Carl</answer>")]
        rows += [judgement(task, right, 0.9), judgement(task, wrong, 0.1), judgement(task, none, 0.8)]
    return rows, answers


def chosen(rows: list[Row], answers: list[Row]) -> Selected:
    cfg = load_config(None, [WEIGHTS, "grpo.steps=0"])
    return select_mixture(rows, answers, cfg.mixture, cfg.select, Apart(), 0)


def test_what_is_learned_of_an_agent_that_answers():
    """Of each problem one trajectory, two revisions, two judgements; two of each role make equal shares."""
    rows, answers = harvested()
    found = chosen(rows, answers)
    assert Counter(row.trajectory.role for row in found.rows) == {"agent": 2, "refiner": 2, "judge": 2}
    counts = found.funnel.counts
    assert (counts["agent/right_answer"], counts["refiner/right_answer"], counts["judge/right_side"]) == (2, 4, 4)
    acted = [row for row in found.rows if row.trajectory.role == "agent"]
    assert sorted(row.candidate.answer or "" for row in acted) == ["Anna 0", "Anna 1"]
    for example in to_examples(found.rows):
        said = [m.content for m in example.messages if m.role == "assistant"]
        assert len(said) == (1 if example.role == "judge" else 2)
        assert example.role == "judge" or ("THOUGHT" in said[0] and said[0].endswith(CALL) and "<answer>" in said[1])


def test_a_revision_that_ends_without_an_answer_is_not_learned():
    rows, answers = harvested()
    spoilt = [
        row._replace(trajectory=row.trajectory.model_copy(update={"turns": row.trajectory.turns[:1]}))
        if row.trajectory.role == "refiner"
        else row
        for row in rows
    ]
    with pytest.raises(NothingAcceptedError, match=r"nothing of 6 trajectories of refiner was accepted"):
        chosen(spoilt, answers)


def test_a_trajectory_as_a_row_is_its_own_conversation():
    task = TASKS[0]
    right, _, none = candidates(task, 0)
    rows = [answer_row(task, c).trajectory for c in (right, none)]
    assert [(t.role, t.candidate_id, t.stop_reason) for t in rows] == [
        ("agent", right.id, StopReason.COMPLETED),
        ("agent", none.id, StopReason.UNPARSED),
    ]
    assert rows[0].turns == right.turns and rows[0].tool_calls == 1
    text = Candidate(task_id=task.id, index=0, text="Answer: Carl")  # one that a file brought
    assert answer_row(task, text).trajectory.role == "solver"


# --- export -----------------------------------------------------------------------------------------------------------


def made_run(tmp_path: Path, recipe: str) -> Path:
    """The folder of a run whose harvest is the agent's: two problems to learn from, two of GRPO."""
    source = tmp_path / "problems.jsonl"
    records = [{"question": f"q{i}: who?", "answer": f"{SECRET}-{i}", "task_type": "qa"} for i in range(5)]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    sizes = ("tasks.n_harvest=2", "tasks.n_grpo=2", "tasks.n_eval=1", "solver.k=3", "teacher.style=compact")
    sets = [f"out={tmp_path}", "name=made", f"tasks.source=jsonl:{source}", WEIGHTS, f"grpo.recipe={recipe}"]
    cfg = load_config(None, [*sets, *sizes])
    save_config(cfg, cfg.run_dir)
    parts = load_parts(cfg)
    with Store(cfg.run_dir / "store.sqlite") as opened:
        for task in [*parts["harvest"], *parts["grpo"]]:
            opened.add_task(task)
            found = [c.model_copy(update={"correct": c.index == 0}) for c in candidates(task, 0)]
            opened.add_candidates(task.id, found)
    return cfg.run_dir


def exported(tmp_path: Path, recipe: str) -> tuple[Any, list[dict[str, Any]], list[Any], RunConfig]:
    """Return the command's arguments on the exported prompts, their rows, and what the run itself rolls out on."""
    folder, out = made_run(tmp_path, recipe), tmp_path / "data"
    export(folder, out, ["grpo"])
    with Store(folder / "store.sqlite", readonly=True) as opened:
        run = open_run(folder, opened)
        own = prompts_of(run)
    return parse("grpo", ["--data", str(out), "--out", "o"]), read_rows(str(out), "grpo", ("prompt",)), own, run.cfg


def test_trajectories_to_judge_are_exported_and_read_back(tmp_path: Path):
    """What `train.grpo` shows the judge is what the exported `prompt` holds and what the run itself shows it."""
    args, rows, own, cfg = exported(tmp_path, "rrm")
    read = read_solutions(args)
    assert len(read) == 6 and [p.key for p in read] == [p.key for p in own]
    shown = transcript_for(cfg.student.max_length)
    for row, ours, theirs in zip(rows, own, read, strict=True):
        assert len(theirs.turns) == 2 and theirs.turns[0].results == ours.turns[0].results
        assert (theirs.solution, theirs.label, theirs.role) == (ours.solution, ours.label, "judge")
        told = [{"role": m.role, "content": m.content} for m in opening(theirs, "compact", shown)]
        assert told == row["prompt"]
        assert opening(theirs, "compact", shown) == opening(ours, "compact", shown)
        said = json.dumps(row["prompt"])
        assert "<think>THOUGHT</think>" in said and "## Observation 1" in said and SECRET not in said
    assert Counter(p.label for p in read) == {True: 2, False: 4}


def test_problems_are_put_to_the_agent(tmp_path: Path):
    """The messages are the agent's of the harvest, tools and all; the answer is in a column of its own."""
    args, rows, own, _ = exported(tmp_path, "reagent_u")
    assert load_settings(args).answers == "agent"
    assert [(p.key, p.task.answer) for p in read_problems(args)] == [(p.key, p.task.answer) for p in own]
    assert len(rows) == 2
    for row in rows:
        told = [m["content"] for m in row["prompt"]]
        assert told == [m.content for m in render_agent("compact", row["question"], SHOWN)] and "python(" in told[0]
        assert SECRET in row["answer"] and SECRET not in "".join(told)


def test_both_kinds_in_one_file(tmp_path: Path):
    args, rows, own, _ = exported(tmp_path, "rrm:1,reagent_u:1")
    read = read_mixed(args)
    assert Counter(p.recipe for p in read) == {"rrm": 6, "reagent_u": 2} and len(rows) == 8
    assert [p.key for p in read] == [p.key for p in own]
    judged = [p.prompt for p in read if isinstance(p.prompt, Prompt)]
    assert len(judged) == 6 and all(len(prompt.turns) == 2 for prompt in judged)
    assert sum(isinstance(p.prompt, Problem) for p in read) == 2


def test_an_exported_run_rolls_the_agent_out_within_grpos_limits(tmp_path: Path):
    """`settings.yaml` says who answers; both answers are the agent's, as the run's own rollouts have them."""
    from train.grpo import around

    args, *_ = exported(tmp_path, "reagent_u")
    settings = load_settings(args)
    held = yaml.safe_load((tmp_path / "data" / "settings.yaml").read_text())
    assert (held["answers"], held["agent_turns"]) == ("agent", 4) and around(settings).answers == "agent"
    grpo = GrpoConfig(recipe="reagent_u", max_tokens=77, max_turns=5, max_tool_calls=4, temperature=0.7)
    more = {"grpo": grpo, "student": StudentConfig(max_length=900), "agent_turns": 3}
    made = settings.model_copy(update=more)
    job = Job(tmp_path, made.student, grpo, tmp_path, 0, lambda *_: None)
    policy: Any = type("Policy", (), {"chat": None})()
    agent = RECIPES["reagent_u"].rollouts([], around(made), job)(policy, 2).context.agent  # pyright: ignore
    limits = (agent.max_tokens, agent.max_turns, agent.max_tool_calls, agent.temperature, agent.max_trajectory_tokens)
    assert limits == (77, 3, 4, 0.7, 900)  # steps are those of the mixture
    solver = RECIPES["reagent_u"].rollouts([], Around(around(made).context, around(made).open_tools), job)(policy, 2)
    assert solver.context.agent is None  # pyright: ignore


def test_the_card_says_whose_candidates_they_are():
    acts = load_config(None, [WEIGHTS, "grpo.recipe=reagent_u", "solver.k=3"])
    text = card(acts, Contents({"grpo": 2}))
    assert "- trajectories of the agent: 3 a problem by `scripted-agent` (a program" in text
    assert "scripted-solver" not in text
    assert "- solutions: 8 a problem by `scripted-solver`" in card(load_config(), Contents({"grpo": 2}))
