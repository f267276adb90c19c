"""The scripted solver: writes step-by-step solutions with the mistakes that people make. It is no language model.

It may use a generator's worked solution, since it stands in for a model that can solve.
"""

import random
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from pydantic import PrivateAttr

from agents import arithmetic
from agents.arithmetic import Equation
from agents.scripted import ScriptedChat
from agents.types import Task, task_id
from tools.errors import ModelError


class Step(NamedTuple):
    """A step of a worked solution. Earlier results stand in the expression as `r0`, `r1` and so on."""

    expression: str


def worked_steps(question: str, worked: str = "") -> list[Step] | None:
    """Return a chain of steps that solves the problem, or None.

    Sums and linear equations are worked out from the question. For a word problem `worked` is the generator's own
    solution; it is used when it reads as a chain of true equations that uses every quantity and every result.
    """
    if unknown := arithmetic.equation_in_one_unknown(question):
        return _steps_of_equation(unknown)
    if expression := arithmetic.bare_expression(question):
        return _steps_of_sum(expression)
    return _steps_of_worked(question, arithmetic.equations(worked.split("####")[0]))


def _steps_of_equation(unknown: arithmetic.Unknown) -> list[Step] | None:
    at = [
        arithmetic.evaluate(unknown.lhs, **{unknown.name: Fraction(x)})
        - arithmetic.evaluate(unknown.rhs, **{unknown.name: Fraction(x)})
        for x in (0, 1, 2)
    ]
    slope, constant = at[1] - at[0], arithmetic.evaluate(unknown.lhs, **{unknown.name: Fraction(0)})
    if slope == 0 or at[2] - at[1] != slope:
        return None
    total, a = constant - at[0], arithmetic.render(slope)
    if constant == 0:
        return [Step(f"{arithmetic.render(total)} / {a}")]
    sign = "-" if constant > 0 else "+"
    return [Step(f"{arithmetic.render(total)} {sign} {arithmetic.render(abs(constant))}"), Step(f"r0 / {a}")]


def _steps_of_sum(expression: str) -> list[Step] | None:
    terms = re.fullmatch(r"\s*(-?\d+)((?:\s*[+-]\s*\d+)+)\s*", expression)
    if not terms:
        return None
    rest = re.findall(r"([+-])\s*(\d+)", terms.group(2))
    first = terms.group(1)
    return [Step(f"{first if i == 0 else f'r{i - 1}'} {sign} {n}") for i, (sign, n) in enumerate(rest)]


def _steps_of_worked(question: str, steps: list[Equation]) -> list[Step] | None:
    givens, results, out = [Fraction(n) for n in arithmetic.numbers(question)], [], []
    used: set[Fraction] = set()
    for lhs, rhs in steps:
        if arithmetic.evaluate(lhs) != Fraction(rhs):
            return None
        operands = [Fraction(n) for n in arithmetic.numbers(lhs)]
        if any(n not in givens and n not in results for n in operands):
            return None
        used.update(operands)
        out.append(Step(re.sub(r"\d+(?:\.\d+)?", lambda m, known=tuple(results): _reference(m.group(), known), lhs)))
        results.append(Fraction(rhs))
    complete = bool(out) and used.issuperset([*givens, *results[:-1]])
    return out if complete and len(set(results)) == len(results) else None


def _reference(number: str, results: tuple[Fraction, ...]) -> str:
    value = Fraction(number)
    return f"r{results.index(value)}" if value in results else number


def follow(steps: Sequence[Step], slip: tuple[int, Fraction] | None = None) -> list[Equation]:
    """Return the equations that following the steps gives; `slip` = (step, amount) adds an error to one result."""
    results: list[Fraction] = []
    out = []
    for i, step in enumerate(steps):
        lhs = re.sub(
            r"r(\d+)", lambda m: _bracket(arithmetic.render(results[int(m.group(1))]), m.start()), step.expression
        )
        value = arithmetic.evaluate(lhs)
        if slip and slip[0] == i:
            value += slip[1]
        out.append(Equation(lhs, arithmetic.render(value)))
        results.append(Fraction(out[-1].rhs))
    return out


def _bracket(number: str, at: int) -> str:
    return f"({number})" if number.startswith("-") and at > 0 else number


def wrong_step(steps: Sequence[Step], rng: random.Random) -> tuple[list[Equation], str]:
    """A slip in the arithmetic of one step; what follows is worked out from the wrong result."""
    amount = Fraction(rng.choice([-100, -10, -9, -2, -1, 1, 2, 9, 10, 100]))
    equations = follow(steps, slip=(rng.randrange(len(steps)), amount))
    return equations, equations[-1].rhs


def misread(steps: Sequence[Step], rng: random.Random) -> tuple[list[Equation], str]:
    """A slip in carrying: one number is copied wrong into a step, which is then right in itself."""
    i = rng.randrange(len(steps))
    spots = list(re.finditer(r"r\d+|\d+", steps[i].expression))
    spot = rng.choice(spots)
    token = spot.group()
    value = follow(steps)[int(token[1:])].rhs if token.startswith("r") else token
    wrong = _bracket(_miscopy(value, rng), spot.start())
    expression = steps[i].expression[: spot.start()] + wrong + steps[i].expression[spot.end() :]
    equations = follow([*steps[:i], Step(expression), *steps[i + 1 :]])
    return equations, equations[-1].rhs


def dropped_term(steps: Sequence[Step], rng: random.Random) -> tuple[list[Equation], str]:
    """One step is left out, and what stood on it goes on from its first number."""
    if len(steps) < 2:
        return misread(steps, rng)
    i = rng.randrange(len(steps) - 1)
    first = re.findall(r"r\d+|\d+(?:\.\d+)?", steps[i].expression)[0]
    kept = []
    for j, step in enumerate(steps):
        if j != i:
            renumber = lambda m: first if int(m.group(1)) == i else f"r{int(m.group(1)) - (int(m.group(1)) > i)}"  # noqa: E731
            kept.append(Step(re.sub(r"r(\d+)", renumber, step.expression)))
    equations = follow(kept)
    return equations, equations[-1].rhs


def wrong_last_line(steps: Sequence[Step], rng: random.Random) -> tuple[list[Equation], str]:
    """Right steps, and then another number is given as the answer."""
    equations = follow(steps)
    others = [e.rhs for e in equations[:-1] if e.rhs != equations[-1].rhs]
    return equations, rng.choice([*others, _miscopy(equations[-1].rhs, rng)])


def _miscopy(number: str, rng: random.Random) -> str:
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    whole, _, decimals = digits.partition(".")
    swaps = [whole[:i] + whole[i + 1] + whole[i] + whole[i + 2 :] for i in range(len(whole) - 1)]
    swaps = [s for s in swaps if s != whole and not s.startswith("0")]
    changed = str(int(whole) + rng.choice([1, 2, 3, 10]))
    return sign + rng.choice([*swaps, changed]) + ("." + decimals if decimals else "")


MISTAKES = {
    "wrong_step": (wrong_step, 0.35),
    "misread": (misread, 0.25),
    "dropped_term": (dropped_term, 0.2),
    "wrong_last_line": (wrong_last_line, 0.2),
}
STYLES = (("", ""), ("Step {i}: ", ""), ("First, ", "Then "))


class ScriptedSolver(ScriptedChat):
    """Writes step-by-step solutions, wrong at a set rate, as a sampled language model is: unevenly.

    Each problem has its own error rate (Beta-distributed around `error_rate`) and its own favourite mistake, made in
    `correlation` of the wrong attempts, so that majority votes can be wrong. A session's name ends
    with the sample's number (`…:3`); without one, the n-th call for a problem is sample n.
    """

    model_id: str = "scripted-solver"
    error_rate: float = 0.5
    correlation: float = 0.6
    seed: int = 0
    _worked: dict[str, str] = PrivateAttr(default_factory=dict)
    _calls: dict[str, int] = PrivateAttr(default_factory=dict)

    def learn(self, tasks: Iterable[Task]) -> None:
        """Take in the generator's worked solutions (`metadata["worked"]`)."""
        self._worked.update({t.id: t.metadata.get("worked", "") for t in tasks})

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the next sampled solution of the problem in the last message."""
        question = str(messages[-1].content).strip()
        known, (_, _, index) = task_id(question), str(kwargs.get("session", "")).rpartition(":")
        sample = int(index) if index.isdecimal() else self._calls.get(known, 0)
        self._calls[known] = sample + 1
        return self.solve(question, self._worked.get(known, ""), sample)

    def solve(self, question: str, worked: str, sample: int) -> str:
        """Return sample `sample` of a problem.

        Raises:
            ModelError: the problem is none that the script can work out.
        """
        steps = worked_steps(question, worked)
        if steps is None:
            raise ModelError(f"scripted-solver cannot solve {question[:60]!r}; name a model and its base URL")
        problem = random.Random(f"{self.seed}|{task_id(question)}")
        rate = problem.betavariate(2.5 * self.error_rate, 2.5 * (1 - self.error_rate)) if self.error_rate else 0.0
        style, favourite = problem.choice(STYLES), problem.getrandbits(32)
        draw = random.Random(f"{self.seed}|{task_id(question)}|{sample}")
        if draw.random() >= rate:
            equations = follow(steps)
            return _write(equations, equations[-1].rhs, style)
        rng = random.Random(favourite) if draw.random() < self.correlation else draw
        make, weights = zip(*MISTAKES.values(), strict=True)
        equations, answer = rng.choices(make, weights)[0](steps, rng)
        return _write(equations, answer, style)


def _write(equations: Sequence[Equation], answer: str, style: tuple[str, str]) -> str:
    first, later = style
    lines = [
        f"{(first if i == 1 or not later else later).format(i=i)}{e.lhs} = {e.rhs}" for i, e in enumerate(equations, 1)
    ]
    return "\n".join([*lines, f"A: {answer}"])
