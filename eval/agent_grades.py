"""The rule reward of an agent: its final answer against the reference answers, by the kind of its task.

Exact, normalised, or math-verify equality (`eval.checkers`); never containment. What the agent did not do itself is not
graded: a trajectory that an outage ended has no reward.
"""

from agents.final_answer import answer_of
from agents.types import StopReason, Task, Trajectory
from eval.checkers import Grade, grade_answer
from graphs.react_state import ReactOutput


def grade_trajectory(task: Task, trajectory: Trajectory) -> Grade | None:
    """Grade the final answer of a trajectory; may take seconds, as `eval.checkers.grade`.

    Args:
        task: With its reference answer (ground truth).
        trajectory: An agent's.

    Returns:
        The grade, wrong where the agent came to no answer; None where an outage ended the trajectory.

    Raises:
        RetortError: math-verify's process does not start.
    """
    if trajectory.stop_reason is StopReason.ERROR:
        return None
    return grade_answer(task, answer_of(trajectory))


def reward(task: Task, state: ReactOutput) -> float | None:
    """Return R_rule of an agent: 1 for a right final answer, 0 for a wrong one or none, None where it cannot be told.

    It cannot be told after an outage, for a program, and without a reference answer. Made for training on the agent's
    own graph: `train.grpo --graph graphs.react:build_react --reward eval.agent_grades:reward`.
    """
    grade = grade_trajectory(task, state["trajectory"])
    return float(grade.correct) if grade is not None and grade.correct is not None else None
