"""Short answers of mixed form: numbers by value, lists item by item, words; never by containment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.types import Task
from eval.checkers import grade, grade_answer
from eval.short_answers import equal, items

SAME = [
    ("17", "17.0"),
    ("1,234", "1234"),
    ("$1,234.50", "1234.5"),
    ("40%", "40"),
    ("17", "17 hours"),
    ("Saint Petersburg", "saint petersburg."),
    ("the Louvre", "Louvre"),
    ("a, b, c", "A,B,C"),
    ("3, 4", "3.0; 4"),
    ("broccoli, celery", "broccoli,celery"),
    ("北京，上海", "北京,上海"),
    ("1987-05-01", "1987-05-01"),
]
OTHER = [
    ("no", "unknown"),
    ("17", "170"),
    ("3.5", "35"),
    ("version 3.5", "version 35"),
    ("Paris", "Paris, France"),
    ("a, b", "b, a"),
    ("a, b", "a, b, c"),
    ("17", "seventeen people"),
    ("cat", "cats"),
    ("17 hours", "17 days"),
    ("Karla Lindt", "Karla Lindt and Anton Berg"),
    ("", ""),
    (" , ", ""),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same(a: str, b: str) -> None:
    assert equal(a, b) and equal(b, a)


@pytest.mark.parametrize(("a", "b"), OTHER)
def test_not_the_same(a: str, b: str) -> None:
    assert not equal(a, b) and not equal(b, a)


@given(a=st.text(max_size=12), b=st.text(max_size=12))
def test_it_is_symmetric(a: str, b: str) -> None:
    assert equal(a, b) == equal(b, a)


@given(a=st.text("abcx ,.;", max_size=12))
def test_a_part_is_not_the_whole(a: str) -> None:
    assert not equal(a, f"{a}, zebra") and not equal(a, f"{a} zebra")


def test_items() -> None:
    assert items("1,234") == ["1,234"] and items("1, 234") == ["1", "234"]
    assert items("1, 2; 3,") == ["1", "2", "3"] and items(" ") == []


def test_grades_of_final_answers() -> None:
    task = Task(question="?", answer="1,234", aliases=("about a thousand",), kind="short")
    assert grade_answer(task, "1234").correct is True and grade_answer(task, "About a thousand").correct is True
    assert grade_answer(task, "1235").correct is False and grade_answer(task, None).correct is False
    assert grade_answer(Task(question="?", kind="short"), "1").correct is None
    assert grade(task, "So.\nAnswer: 1234").correct is True
    assert grade_answer(Task(question="?", answer=r"\frac{1}{2}"), "0.5").correct is True
    near = grade_answer(Task(question="?", answer="Jonathan Craig of Canada", kind="qa"), "Jonathan Craig Canada")
    assert near.correct is False and near.doubt
