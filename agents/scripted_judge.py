"""The scripted judge: audits arithmetic from the conversation alone. A program, not a language model.

It reads problem and trajectory as a language model would, works the steps out anew, and asks whether the answer fits
the problem. It writes an analysis, a critique that names the first wrong step (never its value), and a score: near 1
where all holds, and where something does not the higher, the later it comes. It sees no label, and at a set rate it
reads its audit the wrong way round.
"""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from agents import arithmetic
from agents.arithmetic import Equation
from agents.judgements import format_judgement
from agents.scripted import ScriptedChat
from agents.scripted_teacher import carry, result_name, stated_answer
from agents.types import Judgement
from tools.errors import ModelError

_EXCERPT = re.compile(r"Problem:\n(.*?)\n\nTrajectory:\n(.*?)\n\n# Judge\n", re.DOTALL)
_HEADING = re.compile(r"^## (Turn|Message|Observation) \d+\n", re.MULTILINE)
HOLDS, UNCHECKED, UNFIT, NOTHING = 0.95, 0.4, 0.3, 0.02  # scores
FIRST, SPREAD = 0.05, 0.2  # score where the first step is wrong, and how much more there is for the last one


class ScriptedJudge(ScriptedChat):
    """Judges worked arithmetic; with probability `error_rate` it takes right for wrong and wrong for right."""

    model_id: str = "scripted-judge"
    error_rate: float = 0.05
    seed: int = 0

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the judgement that the conversation asks for."""
        excerpt = next((m for msg in messages if (m := _EXCERPT.search(str(msg.content)))), None)
        if excerpt is None:
            raise ModelError("scripted-judge: it reads requests for a judgement only; name another model for others")
        problem, trajectory = excerpt.groups()
        judgement = judged(problem, said_by_agent(trajectory))
        if random.Random(f"{self.seed}|judge|{problem}|{trajectory}").random() < self.error_rate:
            judgement = turned_round(judgement)
        return format_judgement(judgement)


def said_by_agent(trajectory: str) -> str:
    """Return the agent's own turns of a transcript, without what it was told."""
    pieces = _HEADING.split(trajectory)
    return "\n".join(text.strip() for kind, text in zip(pieces[1::2], pieces[2::2], strict=True) if kind == "Turn")


class Audit(NamedTuple):
    """Whether each step and, after them, the last line holds."""

    steps: tuple[bool, ...]

    @property
    def first_wrong(self) -> int | None:
        """The number of the first that does not hold, from 1."""
        return next((i for i, holds in enumerate(self.steps, 1) if not holds), None)

    @property
    def told(self) -> str:
        """The audit in words."""
        return ", ".join(f"step {i} {'ok' if holds else 'wrong'}" for i, holds in enumerate(self.steps, 1))


def judged(problem: str, work: str) -> Judgement:
    """Return the judgement of an agent's work from its text alone."""
    answer = stated_answer(work)
    if answer is None:
        return Judgement(thought="no answer", critique="No final answer is stated.", score=NOTHING)
    steps = arithmetic.equations(work)
    if not steps:
        return Judgement(thought="no steps", critique="No step leads to the answer.", score=UNCHECKED)
    audit = audited(problem, steps, answer)
    if wrong := audit.first_wrong:
        score = FIRST + SPREAD * (wrong - 1) / len(steps)
        return Judgement(thought=audit.told, critique=f"Step {wrong}: wrong.", score=round(score, 2))
    if not fits(problem, steps, answer):
        return Judgement(thought=f"{audit.told}, unfit", critique="A condition of the problem is not met.", score=UNFIT)
    return Judgement(thought=audit.told, critique="All steps hold.", score=HOLDS)


def audited(problem: str, steps: Sequence[Equation], answer: str) -> Audit:
    """Work the steps out anew, each from the results before it, and compare with what is claimed."""
    results: dict[str, Fraction] = {}
    holds = []
    for i, (expression, step) in enumerate(zip(carry(steps, arithmetic.numbers(problem)), steps, strict=True)):
        try:
            value = arithmetic.evaluate(expression, **results)
        except ValueError:  # it stands on a step that divides by zero, say
            value = Fraction(step.rhs)
            holds.append(False)
        else:
            holds.append(_is(value, step.rhs))
        results[result_name(i)] = value
    return Audit((*holds, _is(value, answer)))


def _is(value: Fraction, claimed: str) -> bool:
    try:
        wanted = Fraction(claimed)
    except ValueError:
        return False
    return value == wanted or ("." in claimed and Fraction(arithmetic.render(value)) == wanted)


def fits(problem: str, steps: Sequence[Equation], answer: str) -> bool:
    """Return whether the answer solves the problem where that can be tried; else whether every number of it is used."""
    try:
        if unknown := arithmetic.equation_in_one_unknown(problem):
            at = {unknown.name: Fraction(answer)}
            return arithmetic.evaluate(unknown.lhs, **at) == arithmetic.evaluate(unknown.rhs, **at)
        if expression := arithmetic.bare_expression(problem):
            return _is(arithmetic.evaluate(expression), answer)
    except ValueError:
        return False
    used = {number for step in steps for number in arithmetic.numbers(step.lhs)}
    return set(arithmetic.numbers(problem)) <= used


def turned_round(judgement: Judgement) -> Judgement:
    """Return what one would say who has misread the audit."""
    right = judgement.score > 0.5
    critique = "Step 1: wrong." if right else "All steps hold."
    thought = "step 1 wrong" if right else "all ok"
    return Judgement(thought=thought, critique=critique, score=FIRST if right else HOLDS)
