"""The card of exported data: YAML header, what is in it, how it was made, the funnel, whose terms apply. Pure text."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from distill.sections import RunConfig
from distill.select import Funnel
from train.settings import ON_PROBLEMS

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TEXTS = {
    "sft": """## `sft`

Conversations that ended in the right verdict, judgement or answer. `messages` are plain system, user and assistant
messages; a tool's output stands in a user message, inside `<tool_response>`. Loss belongs on the assistant messages
only: `chat_template.jinja` marks them, so TRL takes the rows as they are.

```python
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

tokenizer = AutoTokenizer.from_pretrained(student)
tokenizer.chat_template = open("chat_template.jinja").read()
trainer = SFTTrainer(
    model=student,
    args=SFTConfig(assistant_only_loss=True, max_length={max_length}),
    train_dataset=load_dataset(folder, "sft", split="train"),
    processing_class=tokenizer,
)
```

`role` says who speaks; `verdict` is what a verifier or judge finds (equal to the label of the solution), of a refiner
whether the solution before was right; `trajectory` and `task_id` are keys of the run's store.
""",
    "grpo": """## `grpo`

One row a prompt. `prompt` holds the messages that open a rollout; `role` is the verifier asked; `label` says whether
`solution` is right and is for the reward alone: it stands in no message.
""",
    "problems": """## `grpo`

One row a problem. `prompt` holds the messages that ask for an answer; `answer`, `aliases` and `task_type` are for the
reward alone: they stand in no message.
""",
    "mixed": """## `grpo`

One row a prompt of a `recipe`. `prompt` holds the messages that open a rollout. Of agentv and rrm `label` says whether
`solution` is right, of Reagent's recipes `answer`, `aliases` and `task_type` grade the reply: for the reward alone,
they stand in no message. Columns of the other kind are empty.
""",
}


@dataclass(frozen=True)
class Contents:
    """What was exported: rows by kind, the funnel of `sft`, questions of the named benchmarks that were left out."""

    rows: dict[str, int]
    funnel: Funnel | None = None
    benchmarks: dict[str, list[str]] = field(default_factory=dict)


def card(cfg: RunConfig, contents: Contents) -> str:
    """Return the text of README.md."""
    head = yaml.safe_dump(_header(cfg, contents), sort_keys=False, allow_unicode=True)
    mixed = len(cfg.grpo.recipes) > 1
    asked = "mixed" if mixed else "problems" if set(cfg.grpo.recipes) <= set(ON_PROBLEMS) else "grpo"
    told = {"sft": TEXTS["sft"].replace("{max_length}", str(cfg.student.max_length)), "grpo": TEXTS[asked]}
    texts = [told[kind] for kind in contents.rows]
    counts = ", ".join(f"{n:,} rows in `{kind}`" for kind, n in contents.rows.items())
    body = [f"# {cfg.name}\n\nMade by Retort (`python -m distill.export`): {counts}.\n", *texts, _made(cfg, contents)]
    if contents.funnel is not None:
        body.append(_funnel(contents.funnel))
    return f"---\n{head}---\n\n" + "\n".join([*body, _terms(cfg)])


def _header(cfg: RunConfig, contents: Contents) -> dict[str, Any]:
    configs: list[dict[str, Any]] = [
        {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/train-*.parquet"}]}
        for kind in contents.rows
    ]
    configs[0]["default"] = True
    total = sum(contents.rows.values())
    return {
        "pretty_name": cfg.name,
        "license": "apache-2.0" if _embedded(cfg) else "other",
        "task_categories": ["text-generation"],
        "tags": ["retort", "verifier", "reward-model", "tool-use"],
        "size_categories": [next((name for limit, name in SIZES if total < limit), "1M<n<10M")],
        "configs": configs,
    }


def _made(cfg: RunConfig, contents: Contents) -> str:
    solver, teacher = cfg.solver, cfg.teacher
    named = [f"`{name}` ({len(found):,} questions)" for name, found in contents.benchmarks.items()]
    judged = [f"- judgements, or rewards of answers: {_who(cfg.judge.model)}"] if cfg.asks_judge else []
    said = "trajectories of the agent" if cfg.mixture.answerer == "agent" else "solutions"
    lines = [
        f"- problems: `{cfg.tasks.source}`, split by problem (held-out problems are in no row)",
        f"- {said}: {solver.k} a problem by {_who(cfg.answering_model)}, labelled by their final answers (math-verify)",
        f"- reviews: {teacher.samples} a solution and direction by {_who(teacher.model)}, prompts `{teacher.style}`, "
        f"temperature {teacher.temperature:g}, at most {teacher.max_tool_calls} calls of python",
        *judged,
        f"- seed {cfg.seed}",
        f"- left out: problems of which {cfg.select.decontaminate_share:.0%} of the {cfg.select.decontaminate_ngram}"
        f"-grams stand in the held-out problems{' or in ' + ', '.join(named) if named else ''}",
    ]
    return "## How it was made\n\n" + "\n".join(lines) + "\n"


def _funnel(funnel: Funnel) -> str:
    head, *rows = funnel.to_table()
    table = [head, ["---"] * len(head), *rows]
    return "## Funnel of `sft`\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in table) + "\n"


def _terms(cfg: RunConfig) -> str:
    if _embedded(cfg):
        return "## Licence\n\nApache-2.0: problems of reasoning_gym; solutions and reviews by programs of Retort.\n"
    return (
        "## Licence\n\nNot decided by Retort. The problems keep the licence of their source, the solutions and reviews "
        "are subject to the terms of the models that wrote them: see both named above before you share this.\n"
    )


def _embedded(cfg: RunConfig) -> bool:
    """Whether problems, solutions and reviews are all made by programs of free licence."""
    asked = (cfg.solver, cfg.teacher, *((cfg.judge,) if cfg.asks_judge else ()))
    scripted = all(section.model.startswith("scripted-") for section in asked)
    return scripted and cfg.tasks.source.startswith("reasoning_gym:")


def _who(model: str) -> str:
    return f"`{model}` (a program, not a language model)" if model.startswith("scripted-") else f"`{model}`"
