"""Results, tables, report.md and its pictures."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from eval.best_of_n import Scored, best_of_n
from eval.plots import lines_of, read_metrics
from eval.report import results_tables, write_report
from eval.results import Machine, Results, VerdictRow, held_out, package_versions, this_machine
from tools.errors import DataError

ROWS = [
    VerdictRow(
        task_id="a", label=True, passed=True, confidence=0.9, family="chain", tool_calls=1, tokens=100, seconds=2.0
    ),
    VerdictRow(
        task_id="a", label=False, passed=False, confidence=0.2, family="chain", tool_calls=2, tokens=50, seconds=1.0
    ),
    VerdictRow(task_id="b", label=False, passed=None, family="gsm|x", tool_calls=0, tokens=30),
]
POOL = [Scored(answer="1", correct=True, confidence=0.9), Scored(answer="2", correct=False, confidence=0.1)]


def results(teacher: str = "scripted-teacher") -> Results:
    """A small run."""
    return Results(
        name="demo",
        student="SmolLM2-135M-Instruct",
        teacher=teacher,
        seed=7,
        held_out={"base": held_out(ROWS[2:], resamples=50), "grpo": held_out(ROWS, resamples=50)},
        best_of_n=best_of_n([POOL, POOL], resamples=50),
        funnel={"harvested": 1200, "rejected": {"wrong verdict": 30, "cut": 2}, "kept share": 0.5},
        wall_s={"harvest": 12.34, "total": 60.0},
        peak_memory_mb=2048.4,
        measured_on=Machine(cpu="Test CPU", cores=2, date="2026-01-02", python="3.11.4"),
        versions={"trl": "1.16.0"},
    )


def test_held_out_costs_and_families() -> None:
    found = held_out(ROWS, resamples=0)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.tool_calls == 1.0
    assert found.tokens == 60.0
    assert found.seconds == 1.0
    assert found.by_family["chain"].n == 2
    assert found.by_family["chain"].balanced_accuracy == 1.0
    assert found.by_family["gsm|x"].tpr is None
    empty = held_out([])
    assert empty.tokens is None
    assert empty.accuracy is None


def test_results_json_has_the_promised_keys(tmp_path: Path) -> None:
    write_report(results(), tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())
    keys = {"accuracy", "balanced_accuracy", "tpr", "tnr", "auroc", "ece", "format_rate", "n", "ci", "by_family"}
    assert keys <= set(saved["held_out"]["grpo"])
    selectors = {"pass_at_1", "majority", "verifier", "weighted", "oracle", "n", "problems", "ci"}
    assert selectors <= set(saved["best_of_n"])
    assert saved["best_of_n"]["pass_at_1"] == 0.5
    assert saved["held_out"]["grpo"]["tnr"] == 0.5
    assert saved["wall_s"]["total"] == 60.0
    assert saved["peak_memory_mb"] == 2048.4
    assert saved["funnel"]["rejected"]["cut"] == 2
    assert Results.model_validate(saved) == results()
    assert not (tmp_path / "results.json.part").exists()


def test_report_names_the_teacher_as_what_it_is(tmp_path: Path) -> None:
    text = write_report(results(), tmp_path).read_text()
    assert "scripted-teacher (scripted auditor, not a language model)" in text
    text = write_report(results("Qwen3-8B"), tmp_path).read_text()
    assert "Qwen3-8B (language model)" in text
    assert "scripted" not in text


def test_report_tables(tmp_path: Path) -> None:
    text = write_report(results(), tmp_path).read_text()
    assert "Measured on: Test CPU, 2 cores, 2026-01-02" in text
    assert "## Held out, 95 % intervals over problems" in text
    assert "| verdicts | 1 | 3 |" in text
    assert "| problems | 1 | 2 |" in text
    assert "|  | base | SFT+GRPO |" in text
    assert "| TPR right accepted | n/a | 1.000 (1.00-1.00) |" in text
    assert "| gsm\\|x | 1 | n/a | n/a |" in text
    assert "| pass@1 | 0.500 (0.50-0.50) |" in text
    assert "| harvested | 1,200 |" in text
    assert "| rejected: cut | 2 |" in text
    assert "| harvest | 12.3 s |" in text
    assert "![Reliability of the confidence, held out](reliability.png)" in text
    assert "reward_curve.png" not in text
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_tables_for_the_terminal_say_the_same() -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(*results_tables(results()))
    text = captured.get()
    assert "balanced accuracy" in text
    assert "0.667 (0.50-1.00)" in text or "0.667 (0.00-1.00)" in text  # not wrapped
    assert "verifier-weighted majority" in text
    assert "peak memory" in text
    bare = Results(name="r", student="s", teacher="t", seed=0)
    assert results_tables(bare) == []


def test_the_funnel_of_a_mixture_has_a_column_a_role(tmp_path: Path) -> None:
    """Filters stand in an order that is every role's own."""
    funnel: dict[str, int] = {
        **{
            "verifiers/generated": 1200,
            "verifiers/labelled": 26,
            "verifiers/parsed": 25,
            "verifiers/not_in/math500": 9,
        },
        **{"judge/generated": 17, "judge/parsed": 14, "judge/silent": 12, "judge/not_in/math500": 8, "mixture": 24},
    }
    text = write_report(results().model_copy(update={"funnel": funnel}), tmp_path).read_text()
    assert "## Selection funnel: 24 examples in the mixture\n\n| step | verifiers | judge |" in text
    table = text.partition("Selection funnel")[2]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.splitlines() if line[:1] == "|"]
    assert rows[2:7] == [
        ("generated", "1,200", "17"),
        ("labelled", "26", ""),
        ("parsed", "25", "14"),
        ("silent", "", "12"),
        ("not_in/math500", "9", "8"),
    ]


def test_a_curve_a_recipe_where_several_are_mixed() -> None:
    steps = [
        {"step": 1, "reward/mean": 0.3, "agentv/reward/mean": -1.0, "rrm/reward/mean": 0.5, "agentv/verdict/tpr": None},
        {"step": 2, "reward/mean": 0.4, "agentv/reward/mean": -0.5, "agentv/verdict/tpr": 0.2},
    ]
    assert lines_of({"reward/mean": "reward"}, steps) == {
        "reward, agentv": [(1, -1.0), (2, -0.5)],
        "reward, rrm": [(1, 0.5)],
    }
    assert lines_of({"verdict/tpr": "TPR", "verdict/tnr": "TNR"}, steps) == {"TPR, agentv": [(2, 0.2)]}
    assert lines_of({"reward/mean": "reward"}, [{"step": 3, "reward/mean": 1.0}]) == {"reward": [(3, 1.0)]}


def test_reward_curve(tmp_path: Path) -> None:
    metrics = tmp_path / "grpo.jsonl"
    rows = [
        {"step": 1, "reward/mean": -0.5, "verdict/tpr": 0.2, "verdict/tnr": None, "groups/zero_variance": 0.5},
        {"step": 2, "reward/mean": 0.5, "verdict/tpr": 0.9, "verdict/tnr": 0.8, "groups/zero_variance": 0.25},
    ]
    metrics.write_text("".join(json.dumps(r) + "\n" for r in rows))
    text = write_report(results(), tmp_path, metrics).read_text()
    assert "![GRPO by step](reward_curve.png)" in text
    assert (tmp_path / "reward_curve.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_of_a_resumed_run_count_once_and_a_torn_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "x": 1}\n{"step": 2, "x": 2}\n\n{"step": 2, "x": 5}\n{"step": 3, "x"')
    assert read_metrics(path) == [{"step": 1, "x": 1}, {"step": 2, "x": 5}]


@pytest.mark.parametrize("bad", ["{", "[1]"])
def test_malformed_metrics_name_file_and_line(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n' + bad + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl:2: not"):
        read_metrics(path)


def test_machine_and_versions() -> None:
    machine = this_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert set(package_versions(["pydantic", "no-such-package"])) == {"pydantic"}
