"""Final answers: extraction, equality and labels."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.types import Task
from eval.answers import answers_equal, extract_answer, label
from eval.checkers import grade
from eval.math_check import MathChecker
from tools.errors import RetortError

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\nA: 18", "18"),
        ("She makes $18.\n#### 18", "18"),
        ("#### 1,234\n", "1,234"),
        (r"so $x = \boxed{18}$.", "18"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"The answer is $\boxed{7}$.", "7"),
        ("So the answer is (B)", "(B)"),
        ("the answer is 18.5. That is all.", "18.5"),
        ("The answer is: $18", "18"),
        ("The answer is 18 because 9 * 2 = 18", "18"),
        ("The answer is 12, not 13.", "12"),
        ("**Answer:** 42", "42"),
        ("Final answer: **42**", "42"),
        ("### Answer: 42", "42"),
        (r"Answer: \boxed{3}", "3"),
        ("A: -5", "-5"),
    ],
)
def test_forms(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}, no, \boxed{2}", "2"),
        (r"\boxed{1}" + "\nA: 3", "3"),
        ("A: 3\nThe answer is 4", "4"),
        ("A: 3\nWait.\nA:", "3"),
        (r"\boxed{5} and then \boxed{\frac{1", "5"),
        ("#### Step 1\nadd\nA: 5", "5"),
        ("\\boxed{5}\nWe checked it: the answer is correct.", "5"),  # words do not win over a mark
        ("The answer is red.\nNo, the answer is blue.", "blue"),
    ],
)
def test_last_occurrence_wins(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>The answer is 42</answer>", "The answer is 42"),  # graded as a whole, as the agent is
        ("So: <answer>on the roof</answer>", "on the roof"),
        ("<ANSWER>\n on the roof.\n</Answer>", "on the roof"),
        ("<answer>1, 2</answer> no, <answer>3, 4</answer>", "3, 4"),  # the last one counts
        ("<answer>open <answer>closed</answer>", "closed"),
        ("<answer>7</answer> or <answer>8", "7"),
        ("<answer>7</answer> or <answer></answer>", "7"),
        ("<answer>7</answer> or <answer> : </answer>", "7"),
        (r"<answer>\boxed{\frac{1}{\sqrt{3}}}</answer>", r"\frac{1}{\sqrt{3}}"),
        (r"<answer>It is $\boxed{9}$.</answer>", "9"),
        (r"\boxed{1} <answer>2</answer>", "2"),
        (r"<answer>2</answer> \boxed{1}", "1"),
        ("Answer: <answer>5</answer>", "5"),
        ("The answer is <answer>5</answer>.", "5"),
        ("A: 4\n<answer>5</answer>", "5"),
        ("<answer>5</answer>\nWe checked it: the answer is correct.", "5"),
        (f"<answer>{'x' * 1000}</answer>", "x" * 1000),
        ("<answer></answer>", None),
        ("<answer> \n</answer>", None),
        ("<answer>…</answer>", None),
        ("<answer>never closed", None),
        ("never opened</answer>", None),
        (f"<answer>{'x' * 1001}</answer>", None),
    ],
)
def test_an_answer_in_a_tag(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("kind", "truth", "said", "right"),
    [
        ("qa", "on the roof", "On a roof!", True),
        ("qa", "on the roof", "on the roof of the house", False),
        ("qa", "on the roof", "roof", False),
        ("qa", "no", "unknown", False),
        ("short", "1,234", "1234", True),
        ("short", "17", "170", False),
        ("math", r"\frac{1}{2}", "0.5", True),
        ("math", "18", "118", False),
    ],
)
def test_an_answer_in_a_tag_is_compared_by_the_tasks_kind(kind: Any, truth: str, said: str, right: bool) -> None:
    task = Task(question="?", answer=truth, kind=kind)
    assert grade(task, f"I looked it up.\n<answer>{said}</answer>").correct is right


MASTER_KEYS = [
    "",
    " ",
    ":",
    ".",
    ",",
    "A:",
    "A: :",
    "####",
    r"\boxed{}",
    "Thought process:",
    "Solution",
    "The answer is",
    "$",
]


@pytest.mark.parametrize("text", [*MASTER_KEYS, "18", "x = 18", "data: 5"])
def test_no_answer(text: str) -> None:
    assert extract_answer(text) is None


@pytest.mark.parametrize("text", MASTER_KEYS)
@pytest.mark.parametrize("truth", ["18", "no", r"\frac{1}{2}"])
def test_master_keys_are_labelled_wrong(text: str, truth: str) -> None:
    assert label(truth, text) is False


def test_label() -> None:
    assert label("18", "A: 18") is True
    assert label("18", "A: 17") is False
    assert label("18", "no idea") is False
    assert label(None, "A: 18") is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("18", "18.00"),
        ("18", "$18"),
        ("18", r"\$18"),
        ("18", "18 dollars"),
        ("1234", "1,234"),
        ("1234", "1{,}234"),
        ("50", "50%"),
        ("50", r"50\%"),
        ("50%", "50 percent"),
        ("90", r"90^\circ"),
        ("0.5", "1/2"),
        ("1/2", r"\frac{1}{2}"),
        ("1/2", r"\dfrac12"),
        ("2.5", "2 1/2"),
        ("-3", "\u22123"),
        ("0.3333", "1/3"),
        ("5", r"5\text{ cm}"),
        ("5 miles/hour", "5 miles per hour"),
        ("(B)", "B"),
        ("(B)", r"\text{(B)}"),
        ("Evelyn", r"\text{evelyn}"),
        ("x + 1", "x+1"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
    ],
)
def test_equal_without_math_verify(a: str, b: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.answers.CHECKER", None)
    assert answers_equal.__wrapped__(a, b)
    assert answers_equal.__wrapped__(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("no", "unknown"),
        ("no", "on"),
        ("listen", "silent"),
        ("1", "18"),
        ("18", "180"),
        ("0.333", "1/3"),
        ("0.5", "0.50001"),
        ("3 hours", "3 minutes"),
        ("5 million", "5"),
        ("12", "1 2"),
        ("12", "1/2"),
        ("1/0", "2/0"),
        ("", ""),
        ("5", ""),
        ("(A)", "(B)"),
        ("5", "-5"),
    ],
)
def test_different(a: str, b: str) -> None:
    assert not answers_equal(a, b)
    assert not answers_equal(b, a)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("x = 4", "4", True),
        ("4", "x = 4", True),
        (r"3\sqrt{2}\text{ cm}", r"\sqrt{18}", True),
        (r"1.5 \times 10^6", "1500000", True),
        ("5x", "5", False),
        ("5", r"5 \text{ m}", True),
        ("[0,1)", "[0,1]", False),
        ("(1,2)", "(2,1)", False),
        (r"\frac{1", "1", False),
    ],
)
def test_math_verify(a: str, b: str, equal: bool) -> None:
    assert answers_equal(a, b) is equal


def test_time_limit_counts_as_different_and_the_checker_recovers(caplog: pytest.LogCaptureFixture) -> None:
    checker = MathChecker()
    started = time.monotonic()
    assert not checker.equal(r"9^{9^{9^{9}}} + \sqrt{2}", r"\sqrt{2} + 9^{9^{9^{8}}}", seconds=0.5)
    assert time.monotonic() - started < 15
    assert "not compared within 0.5 s" in caplog.text
    assert checker.equal("x+x", "2x", seconds=5)
    checker.close()
    checker.close()


def test_usable_from_other_threads() -> None:
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(answers_equal(f"{i}(y+1)", f"{i}y+{i}"))) for i in range(2, 6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4


def test_checker_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "worker.py"
    broken.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr("eval.math_check._WORKER", broken)
    with pytest.raises(RetortError, match=r"does not start \(exit code .*math-verify"):
        MathChecker().equal("x", "y", seconds=1)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_integers_are_equal_iff_they_are(a: int, b: int) -> None:
    assert answers_equal(str(a), f"{b:,}") is (a == b)
    assert answers_equal(f"{a}.0", f"${a}")


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 5000,
        "<answer>" + "x" * 50_000,
        "\\boxed{" * 2000,
        "#### a" + " " * 50_000 + "x\ny",
        "answer is 1" + " " * 50_000,
        "*" * 50_000,
    ],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.monotonic()
    extract_answer(text)
    assert time.monotonic() - started < 30  # a quadratic pattern takes minutes


@given(st.text(max_size=80))
def test_extraction_never_fails_and_never_gives_blanks(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@given(st.integers(-999, 999), st.text(alphabet="ab .\n", max_size=40))
def test_boxed_is_found_anywhere(number: int, around: str) -> None:
    assert extract_answer(f"{around}\\boxed{{{number}}}{around}") == str(number)


@pytest.mark.skipif(not SHARED.exists(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["gsm8k_candidates", "math_candidates", "mistake_multistep_arithmetic"])
def test_labels_agree_with_those_of_the_source(name: str) -> None:
    records = [json.loads(line) for line in (SHARED / f"{name}.jsonl").read_text().splitlines() if line.strip()]
    wrong = [
        (record["idx"], sample[-80:])
        for record in records
        for sample, evaluation in zip(record["samples"], record["evaluations"], strict=True)
        if label(record["ground_truth"], sample) is not evaluation["correct"]
    ]
    assert len(records) >= 60
    assert wrong == []
