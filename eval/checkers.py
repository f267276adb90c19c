"""How answers are compared, by the kind of a task: an extractor, an equality, and what is worth a second look.

Input: a task and the text of a solution. Output: `Grade`. Mathematics goes by `eval.answers`, short texts by exact
match after normalisation (`eval.qa`), short answers of mixed form by `eval.short_answers`. Programs are graded by
running them (`eval.programs`); here they are only taken out of the text and compared as texts, since what a program
does cannot be read off it.
"""

from collections.abc import Callable
from typing import NamedTuple

from agents.types import Frozen, Kind, Task
from eval import answers, qa, short_answers

FENCE = "```"


class Grade(Frozen):
    """What grading found: the answer taken out, whether it is right (None: cannot be told), and how near it is.

    `f1` is for short texts only. `doubt` says why someone should look: two ways of comparing disagree. `reason` says
    why a program failed.
    """

    correct: bool | None
    answer: str | None = None
    f1: float | None = None
    doubt: str = ""
    reason: str = ""


class Checker(NamedTuple):
    """How the answers of a kind of task are taken out of a solution and compared with each other."""

    extract: Callable[[str], str | None]
    equal: Callable[[str, str], bool]


def last_program(text: str) -> str | None:
    """Return the content of the last fenced block that is closed; None where there is none."""
    found, opened, lines = None, "", []
    for line in text.splitlines():
        mark = line.strip()
        ticks = mark[: len(mark) - len(mark.lstrip("`"))]
        if not opened and ticks.startswith(FENCE) and "`" not in mark[len(ticks) :]:
            opened, lines = ticks, []
        elif opened and mark == ticks and len(ticks) >= len(opened):
            found, opened = "\n".join(lines), ""
        elif opened:
            lines.append(line)
    return found if found and found.strip() else None


def same_program(a: str, b: str) -> bool:
    """Return whether two programs are one text, white space at line ends and empty lines aside."""
    left, right = ([line.rstrip() for line in text.splitlines() if line.strip()] for text in (a, b))
    return bool(left) and left == right


CHECKERS: dict[Kind, Checker] = {
    "math": Checker(answers.extract_answer, answers.answers_equal),
    "qa": Checker(answers.extract_answer, qa.equal),
    "short": Checker(answers.extract_answer, short_answers.equal),
    "program": Checker(last_program, same_program),
}


def grade(task: Task, text: str) -> Grade:
    """Grade a solution by the reference answers of its task; may take seconds (see `eval.answers.label`).

    Args:
        task: with its reference answer (ground truth).
        text: the solution.

    Returns:
        The grade; `correct` is None for a program and without a reference, False where the solution gives no answer.

    Raises:
        RetortError: math-verify's process does not start.
    """
    return grade_answer(task, CHECKERS[task.kind].extract(text))


def grade_answer(task: Task, given: str | None) -> Grade:
    """Grade a final answer as it was taken out of a text; None: none was given. Otherwise as `grade`."""
    if task.kind == "program" or task.answer is None:
        return Grade(correct=None, answer=given)
    references, same = (task.answer, *task.aliases), CHECKERS[task.kind].equal
    correct = given is not None and any(same(reference, given) for reference in references)
    if task.kind in ("qa", "short"):
        near = qa.best_f1(references, given)
        doubt = f"no exact match, F1 {near:.2f}" if not correct and near >= qa.NEAR else ""
        return Grade(correct=correct, answer=given, f1=near, doubt=doubt)
    spelled = given is not None and any(answers.normalise(r) == answers.normalise(given) for r in references)
    return Grade(
        correct=correct, answer=given, doubt="equal by value, not as strings" if correct and not spelled else ""
    )
