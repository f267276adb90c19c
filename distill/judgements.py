"""Training data for the judge (Agent-RRM): a teacher's judgements of many agents' trajectories, filtered.

Input: rows of a store whose trajectories are of role `judge` (`eval/judging.py` makes them) with the outcomes of what
they judge. Output: training examples of role `judge` for SFT, and prompts of GRPO's recipe `rrm`. Pure functions; the
filters are those of `distill/select.py` with the judge's own in place of the verdict's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from agents.judgements import is_in_form, parse_judgement
from agents.plain_roles import render_judge
from agents.protocol import ParseFailure
from agents.store import Row
from agents.transcript import transcript
from agents.types import Candidate, Message, Task, Turn, content_id
from distill.sections import SelectConfig
from distill.select import (
    Filter,
    Selected,
    Selection,
    conversation,
    filters_with,
    select,
)
from train.reviews import Prompt


def on_the_right_side(row: Row, by: Selection) -> bool:
    """The score is on the outcome's side of 1/2; on 1/2 itself it says nothing."""
    verdict = row.trajectory.verdict
    if verdict is None or verdict.score is None or verdict.score == 0.5:
        return False
    return verdict.passed is row.candidate.correct


def is_well_formed(row: Row, by: Selection) -> bool:
    """It is one reply in the right form: what was repaired would teach the malformed reply as well."""
    return len(row.trajectory.turns) == 1 and is_in_form(conversation(row.trajectory)[-1].content)


def gives_nothing_away(row: Row, by: Selection) -> bool:
    """The critique as the teacher wrote it holds no answer: nothing had to be withheld."""
    verdict = row.trajectory.verdict
    read = parse_judgement(row.trajectory.turns[-1].content) if row.trajectory.turns else None
    return verdict is not None and not isinstance(read, ParseFailure | None) and read.critique == verdict.critique


def _each(keep: Callable[[Row, Selection], bool]) -> Filter:
    return lambda rows, by: [row for row in rows if keep(row, by)]


OWN: dict[str, Filter] = {
    "right_side": _each(on_the_right_side),
    "well_formed": _each(is_well_formed),
    "silent": _each(gives_nothing_away),
}


def rrm_filters(benchmarks: Mapping[str, Sequence[str]]) -> dict[str, Filter]:
    """Return the stages of selection: the judge's own take the place of `right_verdict`."""
    out: dict[str, Filter] = {}
    for name, keep in filters_with(benchmarks).items():
        out |= OWN if name == "right_verdict" else {name: keep}
    return out


def select_judgements(
    rows: Iterable[Row],
    cfg: SelectConfig,
    *,
    seed: int = 0,
    held_out: Sequence[str] = (),
    benchmarks: Mapping[str, Sequence[str]] | None = None,
) -> Selected:
    """Send judgements through the filters: labelled, non-trivial, ended, right side, form, silence, length, balance.

    Args:
        rows: all of them; those of other roles are left out.
        cfg: which limits and which filters.
        seed: fixes which of equal rows are kept, and the order.
        held_out: questions of the evaluation problems.
        benchmarks: questions of evaluation sets by name.

    Returns:
        The rows kept, shuffled by the seed, and the funnel; `distill.select.to_examples` makes examples of them.
    """
    own = [row for row in rows if row.trajectory.role == "judge"]
    filters = rrm_filters(benchmarks or {})
    return select(own, cfg, seed=seed, held_out=held_out, benchmarks=benchmarks, filters=filters)


def judge_prompts(found: Iterable[tuple[Task, Candidate]]) -> list[Prompt]:
    """Return what GRPO's recipe `rrm` rolls out on: labelled candidates, each text of a problem once."""
    prompts: dict[tuple[str, str], Prompt] = {}
    for task, candidate in found:
        if candidate.correct is not None:
            key = content_id("judge", candidate.id)
            prompt = Prompt(key, task.question, candidate.text, "judge", candidate.correct, candidate.turns)
            prompts.setdefault((task.id, candidate.text.strip()), prompt)
    return list(prompts.values())


def opening(prompt: Prompt, style: str, max_transcript: int) -> list[Message]:
    """Return the messages that open a judge's rollout; `max_transcript`: characters of a solution that are shown."""
    turns = prompt.turns or (Turn(stage="solve", prompt=(), content=prompt.solution),)
    shown = transcript(turns, max_transcript)
    return render_judge(style, prompt.problem, shown)
