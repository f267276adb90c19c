"""Arithmetic as people write it: numbers, expressions and equations found in text.

Inputs are texts; outputs are plain strings and exact `Fraction`s. Used by the scripted solver and teacher only.
"""

import ast
import operator
import re
from fractions import Fraction
from typing import NamedTuple

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")  # GSM8K's calculator marks
_EQUATION = re.compile(
    r"(?<![\w*/+\-.(])([-(\s$]*\d[\d.,\s+\-*/×÷()$%]*[\d)%])\s*=\s*(-?)\$?(-?\d[\d,]*(?:\.\d+)?)(?![\d]*[a-zA-Z*(])"
)
_UNKNOWN = re.compile(r"([-\d\sa-zA-Z*+/().]+)=\s*([-\d\sa-zA-Z*+/().]+?)\s*$")
_BARE = re.compile(r"(?<![\w.])(-?\(?\s*\d[\d\s+\-*/().]*[\d)])\s*(?:=\s*)?[.?]?\s*$")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class Equation(NamedTuple):
    """One step as written: an expression and the value claimed for it."""

    lhs: str
    rhs: str


def numbers(text: str) -> list[str]:
    """Return the unsigned numerals of a text in order, thousands separators removed."""
    return [n.replace(",", "") for n in _NUMBER.findall(text)]


def evaluate(expression: str, **values: Fraction) -> Fraction:
    """Return the exact value of an expression of numbers, named values, `+ - * /` and brackets.

    Raises:
        ValueError: anything else stands in the expression, or it divides by zero.
    """

    def walk(node: ast.AST) -> Fraction:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.Constant(value=int() | float()):
                return Fraction(ast.get_source_segment(expression, node) or "")
            case ast.Name(id=name) if name in values:
                return values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](walk(left), walk(right))
        raise ValueError(f"not arithmetic: {expression!r}")

    expression = expression.strip()
    try:
        return walk(ast.parse(expression, mode="eval"))
    except (SyntaxError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(f"not arithmetic: {expression!r}") from error


def _plain(text: str) -> str:
    return text.replace(",", "").replace("$", "").replace("×", "*").replace("÷", "/").replace("%", "/100").strip()


def equations(text: str) -> list[Equation]:
    """Return the equations of a solution in order: GSM8K's `<<a=b>>` marks where a line has them, else `a op b = c`."""
    found = []
    for line in text.splitlines():
        marked = _MARKED.findall(line)
        pairs = marked or [(lhs, sign + rhs) for lhs, sign, rhs in _EQUATION.findall(line)]
        for lhs, rhs in pairs:
            equation = Equation(_plain(lhs), _plain(rhs))
            if re.search(r"\d\s*\)?\s*[-+*/]", equation.lhs) and _is_number(equation.rhs) and _evaluates(equation.lhs):
                found.append(equation)
    return found


def bare_expression(question: str) -> str | None:
    """Return the expression that a question ends with ("… problem: 42 - 25 =", "Calculate 2 * 3."), or None."""
    match = _BARE.search(question.strip())
    expression = match.group(1).strip() if match else ""
    return expression if re.search(r"\d\s*\)?\s*[-+*/]", expression) and _evaluates(expression) else None


class Unknown(NamedTuple):
    """An equation in one unknown, as a question states it."""

    name: str
    lhs: str
    rhs: str


def equation_in_one_unknown(question: str) -> Unknown | None:
    """Return the equation that a question ends with ("Solve for e: 56 - 98*e = -1218"), or None."""
    match = _UNKNOWN.search(question.strip().rsplit(":", 1)[-1])
    if not match:
        return None
    lhs, rhs = match[1].strip(), match[2].strip()
    names = set(re.findall(r"[a-zA-Z]+", lhs + " " + rhs))
    if len(names) != 1 or len(name := names.pop()) != 1:
        return None
    try:
        for side in (lhs, rhs):
            evaluate(side, **{name: Fraction(1)})
    except ValueError:
        return None
    return Unknown(name, lhs, rhs)


def render(value: Fraction) -> str:
    """Return a number as a person writes it: an integer, or rounded to two decimals."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.2f}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(?:\.\d+)?", text) is not None


def _evaluates(expression: str) -> bool:
    try:
        evaluate(expression)
    except ValueError:
        return False
    return True
