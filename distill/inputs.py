"""The problems of a run and the evaluation sets that its training must not have seen: loaded, split, kept.

Input: a `RunConfig`. Output: problems by part (`harvest`, `grpo`, `eval`), questions by evaluation set. What came from
the Hub is kept in the run's folder.
"""

import json

from agents.types import Task
from distill import tasks as sources
from distill.sections import RunConfig

TASKS_FILE = "tasks.jsonl"
BENCHMARKS_FILE = "benchmarks.json"


def load_parts(cfg: RunConfig) -> dict[str, list[Task]]:
    """Load the problems and split them once, by problem: for the harvest, for GRPO, held out.

    A run that is resumed finds those of a Hub data set in its folder (see `keep_inputs`).

    Raises:
        ConfigError, DataError: see `distill.tasks.load_tasks`.
    """
    t, kept = cfg.tasks, cfg.run_dir / TASKS_FILE
    if kept.is_file():
        return sources.saved_parts(kept)
    sizes: dict[str, int] = {"harvest": t.n_harvest, "grpo": t.n_grpo, "eval": t.n_eval}
    if not t.source.startswith("reasoning_gym"):
        wanted = min(sum(sizes.values()), t.limit or sum(sizes.values()))
        return sources.split_tasks(sources.load_tasks(t.source, wanted, cfg.seed), sizes)
    harvested, weights = sizes.pop("harvest"), dict(t.families)
    found = sources.load_tasks(t.source, sum(sizes.values()), cfg.seed, weights, t.difficulty)
    parts = sources.split_tasks(found, sizes)
    weights = {family: weight * t.harvest_emphasis.get(family, 1.0) for family, weight in weights.items()}
    parts["harvest"] = sources.load_tasks(t.source, harvested, cfg.seed, weights, t.difficulty, apart_from=found)
    return parts


def keep_inputs(cfg: RunConfig, parts: dict[str, list[Task]], benchmarks: dict[str, list[str]]) -> None:
    """Keep what came from the Hub in the run's folder: it may change, or be out of reach on resumption."""
    path = cfg.run_dir / TASKS_FILE
    if cfg.tasks.source.startswith("hf:") and not path.exists():
        sources.save_parts(parts, path)
    path = cfg.run_dir / BENCHMARKS_FILE
    if benchmarks and not path.exists():
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(benchmarks), encoding="utf-8")
        draft.replace(path)


def load_benchmarks(cfg: RunConfig) -> dict[str, list[str]]:
    """Return the questions of the named evaluation sets, from the run's folder where it has them already.

    Raises:
        ConfigError, DataError: see `distill.tasks.load_benchmark`.
    """
    kept = cfg.run_dir / BENCHMARKS_FILE
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    return {name: sources.load_benchmark(name) for name in cfg.select.decontaminate}
