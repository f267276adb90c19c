"""The scripted judge: audits arithmetic and look-ups from the conversation alone. A program, not a language model.

It reads problem and trajectory as a language model would, works the steps out anew, and asks whether the answer fits
the problem. It writes an analysis, a critique that names the first wrong step (never its value), and a score: near 1
where all holds, and where something does not the higher, the later it comes. A sum that was given to a tool has no
steps: its answer is tried in the problem. Look-ups are judged by `scripted_lookup_judge.py`. It sees no label, and at a
set rate it reads its audit the wrong way round.
"""

import random
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from agents import arithmetic
from agents.arithmetic import Equation
from agents.cloze import sentence_of
from agents.final_answer import parse_final
from agents.judgements import format_judgement
from agents.protocol import CALL_OPEN
from agents.scripted import ScriptedChat
from agents.scripted_lookup_judge import (
    HOLDS,
    MISREAD,
    NO_ANSWER,
    NOTHING,
    READ_OFF,
    STANDS,
    STANDS_NOT,
    final_of,
    judged_blank,
    judged_lookup,
    looks_up,
)
from agents.scripted_teacher import carry, result_name, stated_answer
from agents.transcript import parts_read
from agents.types import Judgement
from tools.errors import ModelError

_EXCERPT = re.compile(r"Problem:\n(.*?)\n\nTrajectory:\n(.*?)\n\n# Judge\n", re.DOTALL)
UNCHECKED, UNFIT = 0.4, 0.3  # scores
FIRST, SPREAD = 0.05, 0.2  # score where the first step is wrong, and how much more there is for the last one
FLOAT = Fraction(1, 10**12)  # by which a float that a program prints may differ
FITS = Judgement(thought="fits", critique="The answer fits the problem.", score=HOLDS)
FITS_NOT = Judgement(thought="does not fit", critique="The answer does not fit the problem.", score=UNFIT)


class ScriptedJudge(ScriptedChat):
    """Judges arithmetic and look-ups; with probability `error_rate` it takes right for wrong and wrong for right."""

    model_id: str = "scripted-judge"
    error_rate: float = 0.05
    seed: int = 0

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the judgement that the conversation asks for."""
        excerpt = next((m for msg in messages if (m := _EXCERPT.search(str(msg.content)))), None)
        if excerpt is None:
            raise ModelError("scripted-judge: it reads requests for a judgement only; name another model for others")
        problem, trajectory = excerpt.groups()
        way = way_of(problem, trajectory)
        judgement = way.judge(problem, trajectory)
        if random.Random(f"{self.seed}|judge|{problem}|{trajectory}").random() < self.error_rate:
            judgement = turned_round(judgement, way)
        return format_judgement(judgement)


def said_by_agent(trajectory: str) -> str:
    """Return the agent's own turns of a transcript, without what it was told."""
    return "\n".join(text for kind, text in parts_read(trajectory) if kind == "Turn")


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
    answer = stated_answer(work) or _number(parse_final(work))
    if answer is None:
        return Judgement(thought="no answer", critique=NO_ANSWER, score=NOTHING)
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
    rounded = Fraction(arithmetic.render(value)) == wanted or abs(value - wanted) <= FLOAT * abs(value)
    return value == wanted or ("." in claimed and rounded)


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


def judged_sum(problem: str, trajectory: str) -> Judgement:
    """Return the judgement of a sum or an equation that was given to a tool: the answer is tried in the problem."""
    answer = final_of(trajectory)
    if answer is None:
        return Judgement(thought="no answer", critique=NO_ANSWER, score=NOTHING)
    number = _number(answer)
    return FITS if number is not None and fits(problem, (), number) else FITS_NOT


class Way(NamedTuple):
    """A way to judge a trajectory, and what one would say of a right and of a wrong one who has misread the audit."""

    judge: Callable[[str, str], Judgement]
    of_right: Judgement
    of_wrong: Judgement


WORKED = Way(
    lambda problem, trajectory: judged(problem, said_by_agent(trajectory)),
    of_right=Judgement(thought="step 1 wrong", critique="Step 1: wrong.", score=FIRST),
    of_wrong=Judgement(thought="all ok", critique="All steps hold.", score=HOLDS),
)
COMPUTED = Way(judged_sum, of_right=FITS_NOT, of_wrong=FITS)
FILLED = Way(judged_blank, of_right=MISREAD, of_wrong=READ_OFF)
FOUND = Way(judged_lookup, of_right=STANDS_NOT, of_wrong=STANDS)


def way_of(problem: str, trajectory: str) -> Way:
    """Return how a trajectory is judged: by its steps, else by what the problem asks and which tools were called."""
    if sentence_of(problem) is not None:
        return FILLED
    work = said_by_agent(trajectory)
    if CALL_OPEN not in work or arithmetic.equations(work):
        return WORKED
    if arithmetic.equation_in_one_unknown(problem) or arithmetic.bare_expression(problem):
        return COMPUTED
    return FOUND if looks_up(trajectory) else WORKED


def turned_round(judgement: Judgement, way: Way) -> Judgement:
    """Return what one would say who has misread the audit."""
    return way.of_right if judgement.score > 0.5 else way.of_wrong


def _number(answer: str | None) -> str | None:
    """Return a final answer that is a number or a fraction as `Fraction` reads it, None for another."""
    plain = (answer or "").replace(",", "").strip(" $.")
    return plain if re.fullmatch(r"-?\d+(?:\.\d+|/0*[1-9]\d*)?", plain) else None
