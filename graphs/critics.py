"""Critics: who says what is wrong with a solution, and whether it is to be left alone.

Input: an `Attempt` and the context of the refinement. Output: a `Critique`. Another critic joins by one more entry of
`CRITICS`, or as the context's live `critique`.

The verifier's critique is what its reviews found (each direction's verdict and findings). Its plan, its tool calls and
their output are not in it. The judge's is its critique; its analysis and its score are not in it. Answers of their own
are withheld by the graph (`agents/redaction.py`).
"""

from agents.types import StopReason, Trajectory, Verdict
from graphs.bidirectional import agreed, build_bidirectional, roles_of
from graphs.judge import build_judge
from graphs.judge_state import JudgeInput
from graphs.refine_state import Attempt, Critic, Critique, RefineContext
from graphs.state import BidirectionalInput

CUT = "\n[…]\n"


async def verifier(attempt: Attempt, context: RefineContext) -> Critique:
    """Have the bidirectional verifier review the solution."""
    given = BidirectionalInput(problem=attempt.problem, solution=attempt.solution, trajectory_id=attempt.name)
    out = await build_bidirectional().ainvoke(given, context=context)
    reviews: list[Trajectory] = out["reviews"]
    failed = next((review for review in reviews if review.stop_reason is StopReason.ERROR), None)
    verdict: Verdict | None = out["verdict"]
    return Critique(
        accepted=verdict.passed if verdict else None,
        text=told(reviews),
        reviews=tuple(reviews),
        error=failed.error if failed else None,
    )


async def judge(attempt: Attempt, context: RefineContext) -> Critique:
    """Have the judge read all that led to the solution (Reagent-C)."""
    given = JudgeInput(problem=attempt.problem, turns=attempt.turns, trajectory_id=f"{attempt.name}:judge")
    out = await build_judge().ainvoke(given, context=context.judging)
    judged: Trajectory = out["trajectory"]
    said = judged.verdict
    return Critique(
        accepted=said.confidence > context.judge_accepts if said else None,
        text=said.critique if said else "",
        reviews=(judged,),
        error=judged.error,
    )


async def none(attempt: Attempt, context: RefineContext) -> Critique:
    """Say nothing and accept nothing: the refiner is on its own."""
    return Critique(accepted=False)


CRITICS: dict[str, Critic] = {"verifier": verifier, "judge": judge, "none": none}


def critic_of(context: RefineContext) -> Critic:
    """Return the critic of a context: the live one, else the one that it names."""
    return context.critique or CRITICS[context.critic]


def told(reviews: list[Trajectory]) -> str:
    """Return what reviews say to a refiner: each direction's verdict, then what it found.

    Of several samples of a direction one speaks for their majority. Findings on steps are told by step number, also
    where the review itself counts checks.
    """
    parts = []
    for role in roles_of(reviews):
        verdict = agreed([review.verdict for review in reviews if review.role == role])
        if verdict is not None:
            parts.append(_said(role.removesuffix("_verifier").capitalize(), verdict))
    return "\n\n".join(parts)


def _said(direction: str, verdict: Verdict) -> str:
    wrong = [f for f in verdict.findings if not f.ok and f"step {f.step}" not in verdict.critique.lower()]
    steps = [f"Step {finding.step}: wrong. {finding.note}".strip() for finding in wrong]
    head = f"{direction} review: the solution is {'right' if verdict.passed else 'wrong'}."
    return "\n".join(text for text in (head, *steps, verdict.critique) if text)


def bounded(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, the middle left out with a mark."""
    if len(text) <= limit:
        return text
    kept = max(limit - len(CUT), 0)
    tail = kept // 2
    return (text[: kept - tail] + CUT + text[len(text) - tail :])[:limit]
