"""The scripted teacher: audits arithmetic as a verifier behind the chat interface. It is no language model.

It reads problem and solution out of the conversation, as a language model would, writes a plan, calls python, reads the
result, and gives a verdict. It sees no label and no metadata, and it is wrong at a set rate.
"""

import random
import re
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from agents import arithmetic
from agents.arithmetic import Equation
from agents.protocol import CALL_OPEN, format_tool_call
from agents.scripted import ScriptedChat
from tools.base import ToolCall
from tools.errors import ModelError

_HEADING = re.compile(r"^# (Plan|Validate|Verdict|Reconcile) \((forward|backward)\)", re.MULTILINE)
_EXCERPT = re.compile(r"Problem:\n(.*?)\n\nSolution:\n(.*?)\n\n# (?:Plan|Validate|Verdict) \(", re.DOTALL)
_OPERAND = re.compile(r"(?:(?<![\w.)])-)?\d+(?:\.\d+)?")
DECIMALS = 2  # to which solutions round
_ANSWER = re.compile(r"(?:\bA:|Answer:|answer is|####|\\boxed\{)\s*\$?\s*(-?[\d,]+(?:\.\d+)?)", re.IGNORECASE)


class ScriptedTeacher(ScriptedChat):
    """Audits the arithmetic of a solution, forward or backward.

    Forward works the steps out anew, each from the results before it, and compares; backward puts the answer back into
    the problem where that can be done (an expression, an equation), and else asks whether every quantity of the problem
    is used. With probability `error_rate` a review reads its check the wrong way round. Without tools (none in the
    system prompt, or a single pass) it can check nothing, and rejects.
    """

    model_id: str = "scripted-teacher"
    error_rate: float = 0.05
    seed: int = 0

    def reply(self, messages: Sequence[BaseMessage], **kwargs: Any) -> str:
        """Return the plan, the tool call, the findings or the verdict that the conversation asks for."""
        headings = [(i, m) for i, msg in enumerate(messages) if (m := _last_heading(str(msg.content)))]
        excerpt = next((m for msg in messages if (m := _EXCERPT.search(str(msg.content)))), None)
        if not headings or excerpt is None:
            raise ModelError("scripted-teacher: it reads verifier conversations only; set teacher.model for others")
        at, (stage, direction) = headings[-1]
        problem, solution = excerpt.groups()
        review = audit(problem, solution, direction)
        wrong = random.Random(f"{self.seed}|{direction}|{problem}|{solution}").random() < self.error_rate
        if stage == "Plan":
            return f"<plan>{review.plan}</plan>"
        observed = [str(m.content) for m in messages[at:] if _is_observation(m)]
        may_call = not any(m.type == "system" and CALL_OPEN not in str(m.content) for m in messages)
        if stage == "Validate" and review.code and not observed and may_call:
            return format_tool_call(ToolCall(name="python", arguments={"code": review.code}))
        if stage == "Validate":
            return review.findings(observed[-1] if observed else "", wrong)
        findings = next((str(m.content) for m in reversed(messages) if isinstance(m, AIMessage)), "")
        if stage == "Reconcile":
            return findings  # its own verdict: arithmetic does not change by being asked twice
        return f"<verdict>{'true' if findings.startswith('All checks hold') else 'false'}</verdict>"


class Review(NamedTuple):
    """What an audit will do: the plan's text and the code that checks (empty when there is nothing to run)."""

    plan: str
    code: str

    def findings(self, observation: str, wrong: bool) -> str:
        """Return the sentence that reads the code's output; `wrong` turns the reading round."""
        outcomes = re.findall(r"\b(True|False)\b", observation)
        if not self.code or not outcomes:
            return "Nothing could be checked."
        failed = [i for i, outcome in enumerate(outcomes, 1) if outcome == "False"]
        if wrong:
            failed = [] if failed else [1]
        return f"Check {failed[0]} fails." if failed else "All checks hold."


def audit(problem: str, solution: str, direction: str) -> Review:
    """Return the review of a solution from its text alone."""
    answers = _ANSWER.findall(solution)
    if not answers:
        return Review("look for a final answer", "")
    answer = answers[-1].replace(",", "").rstrip(".")
    steps = arithmetic.equations(solution)
    if direction == "forward":
        return _audit_forward(problem, steps, answer)
    if unknown := arithmetic.equation_in_one_unknown(problem):
        value = f"({answer})" if answer.startswith("-") else answer
        sides = [re.sub(rf"\b{unknown.name}\b", value, side) for side in (unknown.lhs, unknown.rhs)]
        return Review("put the answer into the equation", f"print({sides[0]} == {sides[1]})")
    if expression := arithmetic.bare_expression(problem):
        return Review("compute the expression, compare with the answer", f"print({expression} == {answer})")
    return _audit_use(problem, steps)


def _audit_forward(problem: str, steps: list[Equation], answer: str) -> Review:
    """Work the steps out anew, each from the results before it, and compare with what the solution claims."""
    if not steps:
        return Review("look for steps that lead to the answer", "")
    carried = carry(steps, arithmetic.numbers(problem))
    lines = [
        f"{_name(i)} = {expression}; print({_check(_name(i), step.rhs)})"
        for i, (expression, step) in enumerate(zip(carried, steps, strict=True))
    ]
    lines.append(f"print({_check(_name(len(steps) - 1), answer)})")
    return Review("check every step and the answer", "; ".join(lines))


def carry(steps: Sequence[Equation], givens: Sequence[str]) -> list[str]:
    """Return the steps' expressions with results of earlier steps by name (`a` is the first), givens as they are.

    A number that comes from nowhere (neither given nor a result) while an earlier result is used by no step stands for
    that result: the latest such one is put in its place.
    """
    used = {n for step in steps for m in _OPERAND.findall(_spaced(step.lhs)) for n in (m, m.lstrip("-"))}
    idle = [i for i, step in enumerate(steps[:-1]) if step.rhs not in used]

    def source(number: str, before: int) -> str | None:
        results = [i for i in range(before) if steps[i].rhs == number]
        return _name(results[-1]) if results else None

    def replaced(match: re.Match[str], before: int) -> str:
        number, size = match.group(), match.group().lstrip("-")
        if size in givens:
            return number
        if name := source(number, before):
            return name
        if name := source(size, before):
            return number.removesuffix(size) + name
        orphans = [i for i in idle if i < before]
        if not orphans:
            return number
        idle.remove(orphans[-1])
        return _name(orphans[-1])

    return [_OPERAND.sub(lambda m, i=i: replaced(m, i), _spaced(step.lhs)) for i, step in enumerate(steps)]


def _name(i: int) -> str:
    return string.ascii_lowercase[i] if i < len(string.ascii_lowercase) else f"r{i}"


def _spaced(expression: str) -> str:
    return " ".join(expression.split())


def _check(value: str, claimed: str) -> str:
    return f"round({value}, {DECIMALS}) == {claimed}" if "." in claimed else f"{value} == {claimed}"


def _audit_use(problem: str, steps: list[Equation]) -> Review:
    if not steps:
        return Review("look for steps behind the answer", "")
    given = ", ".join(dict.fromkeys(arithmetic.numbers(problem)))
    used = [", ".join(dict.fromkeys(arithmetic.numbers(step.lhs))) for step in steps]
    sets = " | ".join(f"{{{numbers}}}" for numbers in used if numbers)
    return Review("check that every quantity is used", f"print({{{given}}} <= {sets or 'set()'})")


def _last_heading(text: str) -> tuple[str, str] | None:
    found = _HEADING.findall(text)
    return found[-1] if found else None


def _is_observation(message: BaseMessage) -> bool:
    return isinstance(message, ToolMessage) or str(message.content).startswith("<tool_response>")
