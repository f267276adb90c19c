"""Metrics of the roles beside the verifiers', worked out by hand, and their section of the report."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.types import Round, StopReason, Trajectory, Turn, Verdict
from eval.judge_metrics import Judged
from eval.report import results_tables, sections, write_report
from eval.results import Results
from eval.role_metrics import Acted, Answered, RoleMetrics, acted_of, answered_of, measures, role_metrics


def turn(tokens: int, text: str = "s") -> Turn:
    return Turn(stage="solve", prompt=(), content=text, completion_tokens=tokens)


def judgement(tokens: int, extra: int = 0) -> Trajectory:
    verdict = Verdict(passed=True, score=0.9, source="judge", extra_tokens=extra)
    return Trajectory(role="judge", stop_reason=StopReason.COMPLETED, turns=(turn(tokens),), verdict=verdict)


def answered(problem: str, first: str, second: str | None, **more: Any) -> Answered:
    """Make an answer of 8 tokens; `second` is the revision of 6 tokens, None where the critic came to no verdict."""
    outcome = "rejected" if second is not None else "no_verdict"
    rounds = [Round(index=0, solution=first, made=(turn(8),), outcome=outcome, reviews=(judgement(20),))]
    if second is not None:
        rounds.append(
            Round(index=1, solution=second, made=(turn(6),), outcome="open" if second != first else "unrevised")
        )
    return answered_of(problem, rounds, True, lambda text: text == "good")


def test_an_answer_is_read_off_its_rounds():
    mended = answered("p", "bad", "good")
    assert mended.course.right == (False, True) and mended.course.revised == (True,)
    assert (mended.first_tokens, mended.critique_tokens, mended.revision_tokens) == (8, 20, 6)
    silent = answered("p", "good", None)  # no critique to go by: the first answer stands
    assert silent.course.right == (True, True) and silent.course.revised == (False,)
    assert (silent.critique_tokens, silent.revision_tokens) == (20, None)
    late = answered_of("p", [Round(index=0, solution="", outcome="unrevised")], True, lambda text: text == "good")
    assert late.course.right == (False, False)  # a limit left no answer: it is a wrong one
    assert late.first_tokens is None and late.critique_tokens is None
    alone = answered_of("p", [Round(index=0, solution="good", made=(turn(3),))], False, lambda text: text == "good")
    assert alone.course.right == (True,) and alone == Answered(alone.course, 3, None, None)


def test_metrics_by_hand():
    """Five problems: two mended, one spoilt, one right and left, one wrong and left.

    First answers: 2 of 5 right; refined: 2 - 1 + 2 = 3 of 5; Δ = 1/5; gained 2/5, lost 1/5. Judge: three judgements,
    the right one ranked above one of the two wrong ones: AUROC 1/2; Brier (0.2² + 0.9² + 0.1²) / 3. Agent: 3 of 4.
    """
    found = role_metrics(
        [
            answered("a", "bad", "good"),
            answered("b", "worse", "good"),
            answered("c", "good", "bad"),
            answered("d", "good", "good"),
            answered("e", "bad", None),
        ],
        [
            Judged(problem="a", outcome=True, score=0.8, tokens=10),
            Judged(problem="a", outcome=False, score=0.9, tokens=20),
            Judged(problem="b", outcome=False, score=0.1, tokens=60),
        ],
        [Acted("a", True, 10), Acted("b", True, 20), Acted("c", False, 30), Acted("d", True, 60)],
        resamples=200,
    )
    assert (found.answers, found.revised, found.uncriticised) == (5, 3, 1)
    assert (found.first, found.refined) == (0.4, 0.6)
    assert found.gain == pytest.approx(0.2)
    assert (found.gained, found.lost) == (0.4, 0.2)
    assert (found.first_tokens, found.critique_tokens, found.revision_tokens) == (8.0, 20.0, 6.0)
    assert found.judge is not None and found.judge.tokens == 30.0
    assert found.judge.verdicts.auroc == 0.5 and found.judge.verdicts.n == 3
    assert found.judge.verdicts.brier == pytest.approx((0.04 + 0.81 + 0.01) / 3)
    assert (found.trajectories, found.agent, found.agent_tokens) == (4, 0.75, 30.0)
    assert set(found.ci) == {"first", "refined", "gain", "gained", "lost", "agent"}
    for name, interval in found.ci.items():
        value = getattr(found, name)
        assert interval is not None and interval[0] < value < interval[1]
    assert (found.ci["gain"] or (0, 0))[0] < 0 < (found.ci["gain"] or (0, 0))[1]
    assert RoleMetrics.model_validate_json(found.model_dump_json()) == found


def test_a_role_that_is_not_learned_has_no_metrics():
    assert role_metrics() == RoleMetrics()
    bare = answered_of("p", [Round(index=0, solution="good", made=(turn(3),))], False, lambda text: text == "good")
    solver = role_metrics([bare], resamples=20)
    assert (solver.answers, solver.first, solver.first_tokens) == (1, 1.0, 3.0)
    assert solver.refined is None and solver.gain is None and solver.revised is None and solver.judge is None
    assert solver.ci == {"first": (1.0, 1.0)}
    assert role_metrics(acted=[Acted("a", False, 1)], resamples=0) == RoleMetrics(
        trajectories=1, agent=0.0, agent_tokens=1.0
    )


def test_an_agents_tokens_are_those_of_all_its_turns():
    made = Trajectory(role="agent", stop_reason=StopReason.MAX_TURNS, turns=(turn(3), turn(4)))
    assert acted_of("p", False, made) == Acted("p", False, 7)


def results(**roles: RoleMetrics) -> Results:
    return Results(name="r", student="s", teacher="scripted-teacher", seed=0, roles=roles)  # type: ignore[arg-type]


def test_the_report_shows_the_other_roles_by_stage(tmp_path: Path):
    base = RoleMetrics(answers=25, first=0.04, ci={"first": (0.0, 0.12)})
    tuned = RoleMetrics(
        answers=25,
        first=0.4,
        refined=0.32,
        gain=-0.08,
        revised=25,
        first_tokens=40.0,
        ci={"first": (0.2, 0.6), "gain": (-0.2, 0.04)},
    )
    run = results(grpo=tuned, base=base)
    text = write_report(run, tmp_path).read_text()
    assert "## Other roles, held out, 95 % intervals over problems\n\n|  | base | SFT+GRPO |" in text
    assert "| answers | 25 | 25 |" in text and "| rewritten | n/a | 25 |" in text
    assert "| first right | 0.040 (0.00-0.12) | 0.400 (0.20-0.60) |" in text
    assert "| refined - first | n/a | -0.080 |\n| its 95 % interval | n/a | -0.20 to 0.04 |" in text
    assert "| tokens/answer | n/a | 40.0 |" in text
    assert "agent" not in text and "judge" not in text  # no stage has any: the roles are not learned
    assert not (tmp_path / "reliability.png").exists() and "Best-of" not in text  # no verifier is learned either
    assert Results.model_validate_json((tmp_path / "results.json").read_text()) == run
    assert [str(table.title) for table in results_tables(run)] == [section.title for section in sections(run)]


def test_the_report_says_who_answers(tmp_path: Path):
    """Of an agent a first answer has the tokens of all its steps; nothing says that there was a solver."""
    steps = Round(index=0, solution="good", made=(turn(3, "call"), turn(4)))
    row = answered_of("p", [steps], False, lambda text: text == "good")
    found = role_metrics([row], answerer="agent", resamples=0)
    assert (found.answerer, found.first_tokens, found.agent) == ("agent", 7.0, None)
    report = write_report(results(base=found), tmp_path).read_text()
    assert "## Other roles, held out, the agent answers, 95 % intervals over problems" in report
    assert "| first right | 1.000 |" in report and "| tokens/answer | 7.000 |" in report
    assert "solver" not in report and "agent right" not in report
    (section,) = (s for s in sections(results(base=role_metrics([row], resamples=0))) if "Other roles" in s.title)
    assert "agent" not in section.title
    assert role_metrics(acted=[Acted("a", True, 1)], resamples=0).answerer is None  # nobody wrote first answers


def test_three_stages_fit_a_terminal_of_80_columns():
    """The widest there are: a loss with an interval on both sides of 0, and a judge's metrics."""
    rows = [Judged(problem="a", outcome=outcome, score=0.7, tokens=3) for outcome in (True, False)]
    judged = role_metrics(judged=rows, resamples=9)
    widest = {"gain": -0.333, "first": 0.5, "agent": 0.5, "agent_tokens": 1234.5, "answers": 1200}
    intervals = {"gain": (-0.67, 0.12), "first": (0.1, 0.9), "agent": (0.1, 0.9)}
    found = judged.model_copy(update={**widest, "ci": intervals})
    console = Console(width=80)
    with console.capture() as captured:
        console.print(*results_tables(results(base=found, sft=found, grpo=found)))
    shown = [line for line in captured.get().splitlines() if "│" in line]
    assert all(line.partition("│")[0].strip() for line in shown)  # no cell goes on in a second line
    assert any(line.count("-0.67 to 0.12") == 3 for line in shown)
    assert any(line.count("0.500 (0.10-0.90)") == 3 for line in shown)


def test_without_other_roles_there_is_no_section():
    assert not any("Other roles" in section.title for section in sections(results()))


def test_every_measure_has_a_row():
    """What `RoleMetrics` holds is shown: a field added to it and to no row is found here."""
    values = {name: 0.5 for name in RoleMetrics.model_fields if name not in ("judge", "ci", "answerer")}
    full = role_metrics(judged=[Judged(problem="a", outcome=o, score=0.7, tokens=3) for o in (True, False)])
    rows = measures(full.model_copy(update=values))
    assert all(value is not None for value, _ in rows.values())
    assert sum(value == 0.5 for name, (value, _) in rows.items() if "judge" not in name) == len(values)
