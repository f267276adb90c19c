"""The default verifier, word for word: what it is shown and writes is training data, and must not change unnoticed.

The expectations were recorded before the verifier had any switches. They change only with the compact prompts.
"""

import json

import pytest

from agents.roles import prompt_version
from agents.scripted_teacher import ScriptedTeacher
from agents.types import Role, Trajectory
from graphs.state import BidirectionalContext, VerifierContext
from graphs.verifier import build_verifier
from tests.unit.fakes import FakePython

PROBLEM, SOLUTION = "Calculate 12 + 30 - 5.", "12 + 30 = 42\n42 - 5 = 36\nA: 36"
SYSTEM = "Verify with python: <plan>, <tool_call>, <verdict>true|false</verdict>."
CONVERSATIONS: dict[Role, list[tuple[str, str]]] = {
    "forward_verifier": [
        ("system", SYSTEM),
        ("user", f"Problem:\n{PROBLEM}\n\nSolution:\n{SOLUTION}\n\n# Plan (forward)\nName the steps to check."),
        ("assistant", "<plan>check every step and the answer</plan>"),
        ("user", "# Validate (forward)\nCheck every step."),
        (
            "assistant",
            '<tool_call>{"name": "python", "arguments": '
            '{"code": "a = 12 + 30; print(a == 42); b = a - 5; print(b == 36); print(b == 36)"}}'
            "</tool_call>",
        ),
        ("tool", "True False True"),
        ("assistant", "Check 2 fails."),
        ("user", "# Verdict (forward)"),
        ("assistant", "<verdict>false</verdict>"),
    ],
    "backward_verifier": [
        ("system", SYSTEM),
        (
            "user",
            f"Problem:\n{PROBLEM}\n\nSolution:\n{SOLUTION}\n\n# Plan (backward)\n"
            "Say how the answer is put back into the problem.",
        ),
        ("assistant", "<plan>compute the expression, compare with the answer</plan>"),
        ("user", "# Validate (backward)\nCheck the answer against the problem."),
        ("assistant", '<tool_call>{"name": "python", "arguments": {"code": "print(12 + 30 - 5 == 36)"}}</tool_call>'),
        ("tool", "True False True"),
        ("assistant", "Check 2 fails."),
        ("user", "# Verdict (backward)"),
        ("assistant", "<verdict>false</verdict>"),
    ],
}
VERSIONS = {"forward_verifier": "df0f0fd6d5a46b10", "backward_verifier": "fb7244d69bf5affb"}


async def review(role: Role, context: type[VerifierContext]) -> Trajectory:
    settings = context(chat=ScriptedTeacher(error_rate=0.0), tools={"python": FakePython("True False True")})
    given = {"problem": PROBLEM, "solution": SOLUTION, "role": role, "trajectory_id": "t"}
    return (await build_verifier().ainvoke(given, context=settings))["trajectory"]  # type: ignore[arg-type]


@pytest.mark.parametrize("context", [VerifierContext, BidirectionalContext])
@pytest.mark.parametrize("role", CONVERSATIONS)
async def test_every_word_of_the_default_review(role: Role, context: type[VerifierContext]) -> None:
    done = await review(role, context)
    assert [(m.role, m.content) for m in done.messages] == CONVERSATIONS[role]
    assert done.prompt_version == prompt_version(role, "compact") == VERSIONS[role]
    assert done.verdict is not None
    assert (done.verdict.passed, done.verdict.score, done.verdict.source) == (False, None, "verdict")


async def test_rows_written_before_are_read() -> None:
    done = await review("forward_verifier", VerifierContext)
    row = json.loads(done.model_dump_json())
    row["verdict"] = {"passed": False, "score": None, "source": "verdict", "critique": "Check 2 fails."}
    old = Trajectory.model_validate(row)
    assert old.key == done.key
    assert old.verdict is not None
    assert (old.verdict.extra_tokens, old.verdict.findings, old.verdict.first_error) == (0, (), None)
