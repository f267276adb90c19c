"""The offline stand-ins: what the solver writes, and what the teacher reads off a text."""

from collections import Counter

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from agents import arithmetic
from agents.arithmetic import Equation
from agents.roles import render
from agents.scripted_solver import ScriptedSolver, worked_steps
from agents.scripted_teacher import ScriptedTeacher, audit, carry
from agents.types import Task
from tools.errors import ModelError

EQUATION = "Solve for e: 56 - 98*e = -1218"
SUM = "State the final answer to the following arithmetic problem: 42 - 25 - 73 ="
STORY = "A child has 14 books. His cousin has 8 fewer books than he has. How many books do they have together?"
WORKED = "The cousin has 14 - 8 = 6 books. Together 14 + 6 = 20 books. #### 20"


def outcomes(code: str) -> list[bool]:
    """Run a review's code as the sandbox would, and return what it prints."""
    printed: list[bool] = []
    exec(code, {"print": lambda *values: printed.extend(values)})
    return printed


def test_equations_of_a_line():
    assert arithmetic.equations("Step 1: -1218 - 56 = -1274") == [("-1218 - 56", "-1274")]
    assert arithmetic.equations("he has $16 - 3 = $<<16-3=13>>13 left") == [("16-3", "13")]
    assert arithmetic.equations("so x = 5 and nothing else") == []


def test_questions_are_read():
    assert arithmetic.equation_in_one_unknown(EQUATION) == ("e", "56 - 98*e", "-1218")
    assert arithmetic.bare_expression(SUM) == "42 - 25 - 73"
    assert arithmetic.bare_expression(STORY) is None
    assert arithmetic.equation_in_one_unknown(STORY) is None


def test_evaluation_runs_no_code():
    with pytest.raises(ValueError, match="not arithmetic"):
        arithmetic.evaluate("__import__('os').getpid()")
    with pytest.raises(ValueError, match="not arithmetic"):
        arithmetic.evaluate("1/0")


def test_right_solutions():
    solver = ScriptedSolver(error_rate=0.0)
    assert solver.solve(EQUATION, "", 0).endswith("A: 13")
    assert solver.solve(SUM, "", 0).endswith("A: -56")
    assert solver.solve(STORY, WORKED, 0).endswith("A: 20")


def test_a_story_without_a_usable_worked_solution_cannot_be_solved():
    assert worked_steps(STORY, "He reads a lot, so 20. #### 20") is None
    assert worked_steps(STORY, "14 - 8 = 7. 14 + 7 = 21. #### 21") is None  # a false equation
    with pytest.raises(ModelError, match="cannot solve"):
        ScriptedSolver().solve(STORY, "", 0)


def test_error_rate_and_its_spread():
    solver = ScriptedSolver(error_rate=0.5)
    rates = []
    for n in range(60):
        question = f"Calculate {100 + n} + {37 + 3 * n} - {11 + n}."
        truth = str((100 + n) + (37 + 3 * n) - (11 + n))
        rates.append(sum(not solver.solve(question, "", k).endswith(f"A: {truth}") for k in range(8)) / 8)
    assert 0.35 < sum(rates) / len(rates) < 0.65
    assert min(rates) <= 0.25 and max(rates) >= 0.75  # problems differ: majority votes can be wrong


def test_same_seed_same_solutions():
    one, two = ScriptedSolver(seed=3), ScriptedSolver(seed=3)
    assert [one.solve(SUM, "", k) for k in range(8)] == [two.solve(SUM, "", k) for k in range(8)]


async def test_the_session_names_the_sample():
    solver = ScriptedSolver()
    solver.learn([Task(question=STORY, metadata={"worked": WORKED})])
    replies = [str((await solver.ainvoke([HumanMessage(STORY)], session=f"x:{k}")).content) for k in (0, 1, 2)]
    assert replies == [solver.solve(STORY, WORKED, k) for k in (0, 1, 2)]


@pytest.mark.parametrize(
    ("solution", "forward", "backward"),
    [
        ("14 - 8 = 6\n14 + 6 = 20\nA: 20", True, True),
        ("14 - 8 = 7\n14 + 7 = 21\nA: 21", False, True),  # a slip: the step is false, everything is used
        ("14 - 8 = 6\n14 + 9 = 23\nA: 23", False, True),  # a slip in carrying: 9 comes from nowhere, 6 is left over
        ("14 - 3 = 11\n14 + 11 = 25\nA: 25", True, False),  # a quantity misread: the steps hold, 8 is never used
        ("14 + 14 = 28\nA: 28", True, False),  # a dropped term: 8 is never used
        ("14 - 8 = 6\n14 + 6 = 20\nA: 6", False, True),  # another last line
    ],
)
def test_each_direction_sees_its_own_errors(solution: str, forward: bool, backward: bool):
    assert all(outcomes(audit(STORY, solution, "forward").code)) is forward
    assert all(outcomes(audit(STORY, solution, "backward").code)) is backward


def test_forward_works_each_step_out_from_the_results_before_it():
    steps = [Equation("-488 - 28", "-516"), Equation("-516 / -12", "43"), Equation("2*(-516) + 43", "-989")]
    assert carry(steps, ["488", "28", "12", "2"]) == ["-488 - 28", "a / -12", "2*(a) + b"]
    assert carry([Equation("5 * 7", "35"), Equation("36 - 5", "31")], ["5", "7"]) == ["5 * 7", "a - 5"]  # 36 was 35
    assert carry([Equation("5 * 7", "35"), Equation("35 * 60", "2100")], ["5", "7"]) == ["5 * 7", "a * 60"]


def test_backward_puts_the_answer_in():
    assert outcomes(audit(EQUATION, "A: 13", "backward").code) == [True]
    assert outcomes(audit(EQUATION, "A: 14", "backward").code) == [False]
    assert outcomes(audit(SUM, "A: -56", "backward").code) == [True]


@pytest.mark.parametrize("solution", ["", ":", "Thought process:", "The answer is clear."])
def test_master_keys_are_not_verified(solution: str):
    for direction in ("forward", "backward"):
        assert audit(STORY, solution, direction).code == ""


async def test_a_whole_review_and_its_error_rate():
    verdicts: Counter[str] = Counter()
    for n in range(200):
        messages = render(
            "forward_verifier", "plan", "compact", problem=STORY, solution=f"14 - 8 = 6\n6 + {n} = {n + 6}\nA: {n + 6}"
        )
        conversation: list[BaseMessage] = [HumanMessage(m.content) for m in messages]
        teacher = ScriptedTeacher(error_rate=0.1)
        for prompt in ("validate", "<tool_response>\nTrue True True\n</tool_response>", "verdict"):
            conversation.append(AIMessage(str((await teacher.ainvoke(conversation)).content)))
            text = prompt if prompt.startswith("<") else render("forward_verifier", prompt, "compact")[0].content
            conversation.append(HumanMessage(text))
        verdicts[str((await teacher.ainvoke(conversation)).content)] += 1
    assert set(verdicts) == {"<verdict>true</verdict>", "<verdict>false</verdict>"}
    assert 0.04 < verdicts["<verdict>false</verdict>"] / 200 < 0.18
