"""Reviews of a file: kept in a folder, resumed, never mixed; an outage is a row and an error, never a verdict."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.store import Store
from agents.types import Candidate, StopReason, Task
from eval import reviews
from eval.candidates import Problem
from eval.methods import Recorded
from eval.online import online_curve, select_problems
from eval.reviews import default_folder, review_problems
from eval.rows import load_rows, rows_of, save_rows
from eval.selective import Rule
from eval.verifier import Verifier, context_of, open_model
from tests.unit.fakes import EvenJudge, script
from tools.errors import ConfigError, DataError, ModelError

VERIFIER = Verifier(context_of("scripted-teacher", None, []), width=4, max_outages=16)


def problem(question: str, *answers: str) -> Problem:
    task = Task(question=question, answer="2")
    candidates = tuple(
        Candidate(task_id=task.id, index=i, text=f"A: {a}", answer=a, correct=a == "2") for i, a in enumerate(answers)
    )
    return Problem(task=task, candidates=candidates, benchmark="b", scores=tuple({} for _ in answers))


PROBLEMS = [problem("q", "2", "3", "2"), problem("r", "5", "2")]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> EvenJudge:
    """Let a judge be the model of every review."""
    chat = EvenJudge(replies=script())

    @contextmanager
    def opened(_verifier: Any) -> Iterator[EvenJudge]:
        yield chat

    monkeypatch.setattr(reviews, "open_model", opened)
    return chat


def test_reviews_are_made_once(judge: EvenJudge, tmp_path: Path):
    found = review_problems(PROBLEMS, VERIFIER, tmp_path)
    assert len(found) == 4  # the third candidate of q repeats the first
    calls = len(judge.sent)
    assert calls == 4 * 2 * 3  # two directions, three turns
    again = review_problems(PROBLEMS, VERIFIER, tmp_path)
    assert len(judge.sent) == calls
    rows = rows_of(PROBLEMS, again, VERIFIER.context)
    assert [[row.passed for row in of_problem] for of_problem in rows] == [[True, False, True], [False, True]]
    assert [row.cluster for row in rows[0]] == [0, 1, 0] and rows[0][0].text == rows[0][2].text
    assert (rows[0][0].turns, rows[0][0].tokens, rows[0][0].label) == (6, 30, True)
    save_rows(rows, tmp_path / "rows.jsonl")
    assert load_rows(tmp_path / "rows.jsonl") == rows


def test_an_outage_is_a_typed_row_and_is_tried_again(judge: EvenJudge, tmp_path: Path):
    judge.down = "A: 5"
    with pytest.raises(ModelError, match=r"1 reviews failed; .* run the same command again.* gone"):
        review_problems(PROBLEMS, VERIFIER, tmp_path)
    with Store(tmp_path / "store.sqlite", readonly=True) as store:
        failed = [row.trajectory for row in store if row.trajectory.stop_reason is StopReason.ERROR]
        assert len(list(store)) == 8
    assert {(t.error.kind, t.verdict) for t in failed if t.error} == {("ModelError", None)} and len(failed) == 2
    judge.down, calls = "none", len(judge.sent)
    found = review_problems(PROBLEMS, VERIFIER, tmp_path)
    assert len(judge.sent) - calls == 2 * 3 and len(found) == 4
    with Store(tmp_path / "store.sqlite", readonly=True) as store:
        assert all(row.trajectory.stop_reason is StopReason.COMPLETED for row in store)


def test_outages_in_a_row_stop_the_work(judge: EvenJudge, tmp_path: Path):
    judge.down = "A: "
    with pytest.raises(ModelError, match="2 failures in a row"):
        review_problems(PROBLEMS, VERIFIER._replace(width=1, max_outages=2), tmp_path)
    with Store(tmp_path / "store.sqlite", readonly=True) as store:
        assert len(list(store)) == 4


def test_half_a_review_is_completed_and_what_is_stored_counts(judge: EvenJudge, tmp_path: Path):
    review_problems(PROBLEMS, VERIFIER, tmp_path)
    with Store(tmp_path / "store.sqlite") as store:
        key = next(row.trajectory.key for row in store)
        store._db.execute("DELETE FROM trajectories WHERE key = ?", (key,))
    calls = len(judge.sent)
    review_problems(PROBLEMS, VERIFIER, tmp_path)
    assert len(judge.sent) - calls == 2 * 3  # the graph runs both directions; the one that is held stays
    with Store(tmp_path / "store.sqlite", readonly=True) as store:
        assert len(list(store)) == 8


def test_a_folder_is_one_verifiers(judge: EvenJudge, tmp_path: Path):
    review_problems(PROBLEMS, VERIFIER, tmp_path)
    other = Verifier(context_of("scripted-teacher", None, ["max_tokens=64"]))
    with pytest.raises(ConfigError, match=r"max_tokens: 512 there, 64 here.*--out"):
        review_problems(PROBLEMS, other, tmp_path)
    moved = Verifier(context_of("scripted-teacher", "http://elsewhere/v1", []))
    assert len(review_problems(PROBLEMS, moved, tmp_path)) == 4  # where it is served does not matter


def test_a_folder_holds_one_version_of_a_file(judge: EvenJudge, tmp_path: Path):
    review_problems(PROBLEMS, VERIFIER, tmp_path)
    with pytest.raises(DataError, match="other candidates of the problem 'q'"):
        review_problems([problem("q", "2", "4")], VERIFIER, tmp_path)


def test_settings():
    context = context_of("m", "http://x/v1", ["max_tokens=64", "aggregation=min", "top_logprobs=null", "style=full"])
    assert (context.max_tokens, context.aggregation, context.top_logprobs, context.style) == (64, "min", None, "full")
    with pytest.raises(ConfigError, match="did you mean max_tokens"):
        context_of("m", None, ["max_token=64"])
    with pytest.raises(ConfigError, match=r"max_tokens: .*'many'"):
        context_of("m", None, ["max_tokens=many"])
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        context_of("m", None, ["max_tokens"])
    for hidden in ("chat", "tools"):
        with pytest.raises(ConfigError, match="unknown verifier setting"):
            context_of("m", None, [f"{hidden}=x"])


def test_a_model_that_cannot_be(tmp_path: Path):
    with (
        pytest.raises(ConfigError, match=r"no folder with a config\.json, and no --base-url"),
        open_model(Verifier(context_of(str(tmp_path), None, []))),
    ):
        pass


def test_default_folder():
    assert default_folder(Path("x/gsm.jsonl"), "/a/runs/demo/model") == Path("runs/eval/gsm-demo-model")
    assert default_folder(Path("gsm.jsonl"), "Qwen/Qwen3-4B") == Path("runs/eval/gsm-Qwen-Qwen3-4B")


def test_selective_drives_the_graph_and_resumes(judge: EvenJudge, tmp_path: Path):
    """Problem q: 2 of 3 say 2, accepted at the first look; r: 5 is rejected or 2 accepted first, then the other."""
    rule = Rule(0.1, 0.1)
    outcomes, made = select_problems(PROBLEMS, VERIFIER, tmp_path, rule, seed=0)
    q, r = (outcomes[p.task.id] for p in PROBLEMS)
    assert len(q.texts) == 1 and q.winners == (0,) and r.winners == (1,)
    assert set(made) == {*q.texts, *r.texts}
    calls = len(judge.sent)
    assert calls == len(made) * 2 * 3
    assert select_problems(PROBLEMS, VERIFIER, tmp_path, rule, seed=0)[0] == outcomes
    assert len(judge.sent) == calls
    rows = rows_of(PROBLEMS, made, VERIFIER.context)
    (point,) = online_curve([Recorded(tuple(of)) for of in rows], outcomes, 2, 10, 0).points
    assert (point.accuracy, point.tokens) == (1.0, len(made) * 30 / 2)


def test_selective_with_an_outage_gives_no_answer(judge: EvenJudge, tmp_path: Path):
    judge.down = "A: 2"
    with pytest.raises(ModelError, match="reviews failed"):
        select_problems(PROBLEMS, VERIFIER, tmp_path, Rule(), seed=0)


def test_selection_clusters_answers_by_the_kind_of_the_task(judge: EvenJudge, tmp_path: Path):
    words = problem("w", "the cat 2", "Cat 2!")
    short = words.model_copy(update={"task": words.task.model_copy(update={"kind": "qa"})})
    asked = [
        len(select_problems([p], VERIFIER, tmp_path / p.task.kind, Rule(0.1, 0.1), seed=0)[0][p.task.id].texts)
        for p in (words, short)
    ]
    assert asked[0] > 0 == asked[1]  # as short texts they are one answer, and such a pool is not reviewed
