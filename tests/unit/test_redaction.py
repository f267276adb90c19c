"""What of a review reaches a refiner: findings do, answers of the reviewer's own do not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.redaction import own_answer, withhold_answers

PROBLEM = "Janet's ducks lay 16 eggs per day. She eats three and bakes with four. She sells the rest for $2 each."
SOLUTION = "16 - 3 = 13\n13 * 2 = 26\nA: 26"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("The answer is 18.", "The answer is [withheld]."),
        ("The correct answer should be $18, since 9 * 2 = 18.", "The correct answer should be [withheld]."),
        ("Right is \\boxed{18}", "Right is [withheld]"),
        ("A: 18", "A: [withheld]"),
        ("**Answer:** 18 dollars", "**Answer:** [withheld]"),
        ("#### 18", "#### [withheld]"),
        ("The final result comes to 18.50", "The final result comes to [withheld]"),
        ("The answer is Paris.", "The answer is [withheld]."),
        ("The answer is \\frac{3}{4}, not 26.", "The answer is [withheld]."),
        ("The answer 26 is wrong, the answer is 16.", "The answer 26 is wrong, the answer is [withheld]."),
        ("The answer is -26.", "The answer is [withheld]."),
        ("It is 18, not 26.", "It is [withheld], not 26."),
        ("Step 2: wrong. 9 * 2 is 18.", "Step 2: wrong. [withheld] * 2 is [withheld]."),
        (
            "The answer is 18.\nStep 1: wrong. 18 / 2 is 9.",
            "The answer is [withheld].\nStep 1: wrong. [withheld] / 2 is 9.",
        ),
        ("18 dollars. So the answer is 18.", "[withheld] dollars. So the answer is [withheld]."),
    ],
)
def test_answers_are_withheld(said: str, told: str):
    assert withhold_answers(said, PROBLEM, SOLUTION) == told


@pytest.mark.parametrize(
    "said",
    [
        "Step 1: wrong. 16 - 3 - 4 is 9.",  # a finding on an earlier step is what a critique is for
        "Check 2 fails.",
        "First error: Step 2.",
        "The answer is wrong because step 1 ignores the 4 eggs.",
        "The answer is not established.",
        "The final answer 26 is too large.",
        "Answer: 26",
        "The answer is 26, which uses 13 eggs.",
        "c1: met and used. 16 eggs a day.",
        "c2: fails. The eggs of step 3 are not sold.",
        "",
    ],
)
def test_findings_are_passed_on_as_they_are(said: str):
    assert withhold_answers(said, PROBLEM, SOLUTION) == said


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (SOLUTION, "26"),
        ("so the answer is 3. Checked.", "3"),
        ("first \\boxed{2}, then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("Answer: $\\boxed{7}$", "7"),
        ("#### 1,234", "1,234"),
        ("nothing", ""),
    ],
)
def test_the_solutions_own_answer(solution: str, answer: str):
    assert own_answer(solution) == answer


CAPITAL = "Which city is the capital of France?"
LONDON = "I searched for it.\nAnswer: London"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("It is Paris, not London.", "It is [withheld], not London."),
        ("Paris, not London, is the capital.", "[withheld], not London, is the capital."),
        ("Write Paris. It is Paris instead of London.", "Write [withheld]. It is [withheld] instead of London."),
        ("The capital is New York City rather than London.", "The capital is [withheld] rather than London."),
        ("The city is not London but Paris.", "The city is not London but [withheld]."),
        ("The answer London should be Paris.", "The answer London should be [withheld]."),
        ("The answer should have been “the old town”.", "The answer should have been [withheld]."),
        ("The answer is Paris.", "The answer is [withheld]."),
        ("First it was Paris and not London. PARIS!", "First it was [withheld] and not London. [withheld]!"),
    ],
)
def test_what_is_set_against_an_answer_in_words_is_withheld(said: str, told: str):
    assert withhold_answers(said, CAPITAL, LONDON) == told


@pytest.mark.parametrize(
    "said",
    [
        "The answer London is not supported by the page.",
        "London is the capital of England, so the answer is wrong.",
        "The search of turn 1 asks for England, and the answer London comes from there.",
        "London is not established.",
        "The answer should be checked against the page.",
    ],
)
def test_findings_on_an_answer_in_words_are_passed_on(said: str):
    assert withhold_answers(said, CAPITAL, LONDON) == said


AGAINST = st.sampled_from(
    [
        "It is {}, not London.",
        "{} rather than London.",
        "The city is not London but {}.",
        "The answer should be {}.",
        "The answer is {}.",
        "The right answer: {}",
        "London is wrong, it should have been {}.",
    ]
)
NAMES = st.sampled_from(["Paris", "New York City", "Ada Lovelace", "Île-de-France", "ZEIT"])


@given(AGAINST, NAMES, st.sampled_from(["", "Step 1: wrong.\n", "Look at {} again. "]), st.sampled_from(["", "\n{}!"]))
def test_no_name_that_is_set_against_the_answer_gets_through(form: str, name: str, before: str, after: str):
    said = (before + form + after).format(*[name] * 3)
    told = withhold_answers(said, CAPITAL, LONDON)
    assert name not in told and "[withheld]" in told


def test_yes_and_no():
    assert withhold_answers("The answer should be no.", "Is it?", "Answer: Yes") == "The answer should be [withheld]."
    assert withhold_answers("So the answer is no.", "Is it?", "Answer: Yes") == "So the answer is [withheld]."
    assert withhold_answers("The answer is yes.", "Is it?", "Answer: Yes") == "The answer is yes."
    said = "There is no source, and the answer Yes is not what turn 1 found."
    assert withhold_answers(said, "Is it?", "Answer: Yes") == said


def test_what_the_refiner_has_seen_is_no_secret():
    """A tool returned 13: the critique may point to it, but may not announce it as the answer."""
    said = "Turn 1 returned 13, the answer uses 14. The answer is 13."
    assert withhold_answers(said, "q", "Answer: 26", shown="13\n14") == (
        "Turn 1 returned 13, the answer uses 14. The answer is [withheld]."
    )
    assert "14" not in withhold_answers(said, "q", "Answer: 26")


@pytest.mark.parametrize("solution", ["<answer>London</answer>", "so\n<answer> London </answer>\n"])
def test_an_answer_in_a_tag_is_the_solutions_own(solution: str):
    assert own_answer(solution) == "London"


FORMS = st.sampled_from(
    ["The answer is {}.", "Answer: {}", "the correct result would be {} then", "#### {}", "\\boxed{{{}}}", "A: ${}"]
)
NUMBERS = st.integers(100, 99_999).map(str)


@given(form=FORMS, secret=NUMBERS, before=st.sampled_from(["", "I get {}. ", "Step 1: ok. {} follows.\n"]))
def test_an_announced_number_is_nowhere_in_what_is_told(form: str, secret: str, before: str):
    told = withhold_answers(before.format(secret) + form.format(secret), PROBLEM, SOLUTION)
    assert secret not in told and "[withheld]" in told


@given(form=FORMS, secret=NUMBERS)
def test_thousands_separators_do_not_hide_it(form: str, secret: str):
    written = f"{int(secret):,}"
    assert written not in withhold_answers(f"{form.format(secret)}\nThat is {written}.", PROBLEM, SOLUTION)


@pytest.mark.parametrize("long", ["1" * 9000, "\\boxed{" * 900, "the answer is " * 300, "1," * 4000])
def test_long_texts_are_taken_in_time(long: str):
    began = time.process_time()
    withhold_answers(long, PROBLEM, SOLUTION)
    withhold_answers("The answer is 18.", long, long)
    assert time.process_time() - began < 1.0


def test_numbers_of_the_problem_are_withheld_only_where_they_are_announced():
    told = withhold_answers("The answer is 16.\nStep 1: wrong. All 16 eggs count.", PROBLEM, SOLUTION)
    assert told == "The answer is [withheld].\nStep 1: wrong. All 16 eggs count."


@given(st.text(max_size=200), st.text(max_size=50), st.text(max_size=80))
def test_any_text_is_taken(review: str, problem: str, solution: str):
    assert isinstance(withhold_answers(review, problem, solution), str)
