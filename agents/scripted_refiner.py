"""The scripted refiner: revises a solution from the conversation alone. A program, not a language model.

It reads problem, solution and review as a language model would, and does again the step that the review names: its
numbers are looked up anew (in the problem, in the results before it), its arithmetic is worked out anew, and so is all
that stands on it. It sees no label and no worked solution. What it cannot do: find a step that is missing, or a plan
that is wrong. Where no step is named it looks at the numbers and the last line; without a review it picks a step by
chance. At a set rate it slips in what it does.
"""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from langchain_core.messages import BaseMessage

from agents import arithmetic
from agents.arithmetic import Equation
from agents.protocol import parse_findings
from agents.scripted import ScriptedChat
from agents.scripted_teacher import carry
from tools.errors import ModelError

_EXCERPT = re.compile(r"Problem:\n(.*?)\n\nSolution:\n(.*?)(?:\n\nReview:\n(.*?))?\n\n# Revise\n", re.DOTALL)
_DIGITS = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")
_NAME = re.compile(r"\b([a-z])\b|\br(\d+)\b")
_LAST_LINE = re.compile(r"^(\s*(?:A|Answer|####)\s*:?\s*\$?)(-?[\d,]+(?:\.\d+)?)", re.IGNORECASE | re.MULTILINE)


class ScriptedRefiner(ScriptedChat):
    """Does again what a review names; with probability `error_rate` a revision has a slip in it."""

    model_id: str = "scripted-refiner"
    error_rate: float = 0.1
    seed: int = 0

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the revised solution that the conversation asks for."""
        excerpt = next((m for msg in messages if (m := _EXCERPT.search(str(msg.content)))), None)
        if excerpt is None:
            raise ModelError("scripted-refiner: it reads requests for a revision only; name another model for others")
        problem, solution, review = excerpt.groups()
        rng = random.Random(f"{self.seed}|{problem}|{solution}|{review}")
        return revise(problem, solution, review, rng, slips=rng.random() < self.error_rate)


def revise(problem: str, solution: str, review: str | None, rng: random.Random, slips: bool = False) -> str:
    """Return a solution with one step done again, and all that stands on it.

    Args:
        problem: Where the numbers come from.
        solution: With equations, or it is returned as it is.
        review: Names the first wrong step ("Step 2: wrong"); None: a step is picked by chance.
        rng: Of that choice and of the slip.
        slips: Whether a slip is made.
    """
    steps, givens = arithmetic.equations(solution), arithmetic.numbers(problem)
    if not steps:
        return solution
    wrong = [finding.step for finding in parse_findings(review or "") if not finding.ok]
    picked = _misread(steps, givens) if review is not None else rng.randrange(len(steps))
    at = min(wrong) - 1 if wrong else picked
    done = _again(steps, givens, at, Fraction(rng.choice([-10, -1, 1, 10])) if slips else Fraction(0))
    return _written(solution, steps, done)


def _misread(steps: Sequence[Equation], givens: Sequence[str]) -> int:
    """Return the first step with a number from nowhere; beyond the last step where there is none."""
    expressions = carry(steps, givens)
    found = (i for i, text in enumerate(expressions) if any(n not in givens for n in _DIGITS.findall(text)))
    return next(found, len(steps))


def _again(steps: Sequence[Equation], givens: Sequence[str], at: int, slip: Fraction) -> list[Equation]:
    """Work out step `at` and those that stand on it; `slip` is added to the first result worked out."""
    expressions = carry(steps, givens)
    spare = [n for n in givens if not any(n in _DIGITS.findall(text) for text in expressions)]
    done: list[Equation] = []
    for i, (step, expression) in enumerate(zip(steps, expressions, strict=True)):
        if i == at:
            expression = _DIGITS.sub(
                lambda m: spare.pop(0) if m.group() not in givens and spare else m.group(), expression
            )
        if i < at:
            done.append(step)
            continue
        lhs = _NAME.sub(lambda m: _bracketed(done[_index(m)].rhs, m.start()), expression)
        value = arithmetic.evaluate(lhs) + (slip if i == at else 0)
        # A step as before keeps its spelling ("16-3", "$5 + 2").
        same = value == Fraction(step.rhs) and arithmetic.numbers(lhs) == arithmetic.numbers(step.lhs)
        done.append(step if same else Equation(lhs, arithmetic.render(value)))
    if at >= len(steps) and slip:
        done[-1] = Equation(done[-1].lhs, arithmetic.render(Fraction(done[-1].rhs) + slip))
    return done


def _index(match: re.Match[str]) -> int:
    return ord(match[1]) - ord("a") if match[1] else int(match[2])


def _bracketed(number: str, at: int) -> str:
    return f"({number})" if number.startswith("-") and at > 0 else number


def _written(solution: str, steps: Sequence[Equation], done: Sequence[Equation]) -> str:
    """Put the new equations in the places of the old ones, and the last result into the last line."""
    lines, at = solution.split("\n"), 0
    for i, line in enumerate(lines):
        for _ in arithmetic.equations(line):
            if done[at] != steps[at]:
                lines[i] = f"{_label(line)}{done[at].lhs} = {done[at].rhs}"
            at += 1
    text = "\n".join(lines)
    ends = list(_LAST_LINE.finditer(text))
    if not ends:
        return text
    end = ends[-1]
    return f"{text[: end.start(2)]}{done[-1].rhs}{text[end.end(2) :]}"


def _label(line: str) -> str:
    """Return what a step's line begins with: "Step 2: ", "Then "."""
    found = re.match(r"\s*(?:Step \d+:|First,|Then)\s*", line)
    return found.group() if found else ""
