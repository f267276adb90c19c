"""What GRPO rolls out on in a run: by recipe, from the run's problems, its candidates and the teacher's reviews.

Nothing of a named benchmark is among it, and `select.max_prompts` caps each recipe's. Labels and reference answers are
for the rewards alone.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agents.store import Row
from distill.select import uncontaminated, without

if TYPE_CHECKING:
    from distill.pipeline import Run
    from train.pools import Problem
    from train.reviews import Prompt
    from train.settings import RecipeName


def prompts_of(run: "Run") -> list[Any]:
    """Return the prompts of the run's recipe; of several recipes each with the name of its own."""
    from train.mixed import MixedPrompt

    recipes = run.cfg.grpo.recipes
    if len(recipes) == 1:
        return list(BY_RECIPE[recipes[0]](run))
    return [MixedPrompt(name, prompt) for name in recipes for prompt in BY_RECIPE[name](run)]


def problems(run: "Run") -> "list[Problem]":
    """Return what Reagent's recipes roll out on: problems that a rule can grade."""
    from train.pools import Problem

    tasks = [t for t in run.parts["grpo"] if t.answer is not None and t.kind != "program"]
    clean = uncontaminated(tasks, run.benchmark_questions, run.cfg.select)
    return [Problem(task.id, task) for task in clean][: run.cfg.select.max_prompts]


def reviews(run: "Run") -> "list[Prompt]":
    """Return what verifiers are rolled out on: solutions and roles."""
    from train.recipes import mix_roles
    from train.reviews import Prompt

    ids, cfg = {t.id for t in run.parts["grpo"]}, run.cfg
    rows = [r for r in run.teacher_rows if r.task.id in ids and _teaches(r, cfg.grpo.only_decidable)]
    rows = without(unrepeated(rows), run.benchmark_questions, cfg.select)
    prompts = [
        Prompt(r.trajectory.key, r.task.question, r.candidate.text, r.trajectory.role, bool(r.candidate.correct))
        for r in rows
    ]
    if cfg.select.max_prompts is None:
        return prompts
    return mix_roles(prompts, cfg.grpo.forward_share, cfg.seed)[: cfg.select.max_prompts]


def judgements(run: "Run") -> "list[Prompt]":
    """Return what the judge is rolled out on: labelled candidates."""
    from distill.judgements import judge_prompts

    clean = uncontaminated(run.parts["grpo"], run.benchmark_questions, run.cfg.select)
    found = judge_prompts((task, c) for task in clean for c in run.store.candidates(task.id) or [])
    return found[: run.cfg.select.max_prompts]


BY_RECIPE: "dict[RecipeName, Callable[[Run], Sequence[Any]]]" = {
    "agentv": reviews,
    "rrm": judgements,
    "reagent_r": problems,
    "reagent_u": problems,
}


def _teaches(row: Row, only_decidable: bool) -> bool:
    """Whether a (candidate, role) pair serves as a prompt of GRPO: labelled, and decidable by the teacher if asked."""
    verdict = row.trajectory.verdict
    right = verdict is not None and verdict.passed is row.candidate.correct
    return row.candidate.correct is not None and (right or not only_decidable)


def unrepeated(rows: Sequence[Row]) -> list[Row]:
    """Keep one row for each problem, role and solution text."""
    first: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        first.setdefault((row.task.id, row.trajectory.role, row.candidate.text.strip()), row)
    return list(first.values())
