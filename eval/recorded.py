"""Reviews that a run's own evaluation made: `--model runs/demo:grpo` in place of a model; nothing is reviewed again.

Input: the folder of a run and a stage (base, sft, grpo). Output: the trajectories of the held-out candidates as they
stand in the run's store. Settings that only join or leave out reviews may differ from the run's; all others are those
that the reviews were made with.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, get_args

from agents.store import Store
from eval.held_out import Reviews, complete, side_of
from eval.results import Stage
from graphs.state import BidirectionalContext
from tools.errors import ConfigError, DataError

STORE = "store.sqlite"
JOINING = frozenset({"model", "aggregation", "forward_weight", "directions", "cascade"})


class Recorded(NamedTuple):
    """Where the reviews are: the folder of a run, and the stage whose model made them."""

    run: Path
    stage: str


def recorded(model: str) -> Recorded | None:
    """Read `RUN:STAGE`; None for every other model."""
    run, _, stage = model.rpartition(":")
    return Recorded(Path(run), stage) if stage in get_args(Stage) and (Path(run) / STORE).is_file() else None


def identity_of(context: BidirectionalContext) -> dict[str, object]:
    """Return what a verdict of recorded reviews depends on, besides the reviews.

    Raises:
        ConfigError: a setting is not the default and would have made other reviews.
    """
    given = context.model_dump(mode="json", exclude={"base_url"})
    plain = BidirectionalContext().model_dump(mode="json")
    changed = [key for key in given if key not in JOINING and given[key] != plain[key]]
    if changed:
        raise ConfigError(
            f"--model {context.model}: these reviews are made already, so {changed[0]} cannot be set; "
            f"only {', '.join(sorted(JOINING - {'model'}))} can, or give a model"
        )
    return {key: given[key] for key in sorted(JOINING)}


def read_reviews(found: Recorded, wanted: Collection[str], context: BidirectionalContext) -> Reviews:
    """Return the reviews of some candidates.

    Raises:
        ConfigError: see `identity_of`.
        DataError: a candidate has none: it is no held-out one of the run, or the run has not come to it.
    """
    identity_of(context)
    reviews: Reviews = {}
    with Store(found.run / STORE, readonly=True) as store:
        for row in store:
            if row.candidate.id in wanted and row.trajectory.model.endswith(f":{found.stage}"):
                reviews.setdefault(row.candidate.id, {})[side_of(row.trajectory)] = row.trajectory
    missing = [c for c in wanted if c not in reviews or not complete(reviews[c], context)]
    if missing:
        raise DataError(
            f"{found.run} has no reviews of {len(missing)} of {len(wanted)} candidates by its model {found.stage}; "
            f"give --candidates {found.run} and let python -m distill.run finish"
        )
    return reviews
