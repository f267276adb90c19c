"""The settings of a run: one frozen pydantic class a section, each field with its default and a one-line description.

Fields marked operational (where things are, how many at once) may change between a run and its resumption.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agents.types import ROLES, Role
from distill.mixture_section import MixtureConfig
from tools.registry import ToolsConfig, check_prompts
from tools.sandbox.settings import SandboxConfig
from tools.settings import OPERATIONAL, Rate, Section, shares
from train.settings import (
    GrpoConfig,
    JudgeConfig,
    RecipeName,
    SftConfig,
    StudentConfig,
)


def _join_urls(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _one_or_more(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _plain_name(value: str) -> str:
    if value in ("", ".", "..") or "/" in value or "\\" in value or "\0" in value:
        raise ValueError("should be a plain folder name")
    return value


Urls = Annotated[str | None, BeforeValidator(_join_urls)]


class TasksConfig(Section):
    """Which problems."""

    source: str = Field(
        default="reasoning_gym:",
        description="`reasoning_gym:` (offline), `jsonl:PATH`, `parquet:PATH`, `hf:NAME` (polaris, deepscaler, "
        "areal-boba, gsm8k, math, or org/name?question=…&answer=…), `cloze:PATH` (a corpus: questions with a blank)",
    )
    families: Annotated[dict[str, float], AfterValidator(shares)] = Field(
        default={"simple_equations": 0.45, "chain_sum": 0.4, "gsm_symbolic": 0.15},
        description="weights of the reasoning_gym families",
    )
    harvest_emphasis: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"gsm_symbolic": 4.0},
        description="how many times its weight a family has among the harvested problems (more of what is hard)",
    )
    difficulty: float = Field(default=1.0, gt=0, description="of generated sums and equations; 1 is easy")
    n_harvest: int = Field(default=100, ge=1, description="problems that the teacher harvests")
    n_grpo: int = Field(default=40, ge=0, description="problems for GRPO, disjoint from the others")
    n_eval: int = Field(default=25, ge=1, description="held-out problems, disjoint from the others")
    limit: int | None = Field(
        default=None, ge=1, description="read no more than this many problems of a file or data set; null: all"
    )


class ModelSection(Section):
    """A model and where it is served."""

    model: str = Field(min_length=1, description="the name that the endpoint serves, or an offline `scripted-…` one")
    base_url: Urls = Field(
        default=None, description="base URL, or several, comma-separated", json_schema_extra=OPERATIONAL
    )

    @model_validator(mode="after")
    def _names_its_model(self) -> Self:
        if self.base_url and self.model.startswith("scripted-"):
            raise ValueError(f"base_url is given but model is still {self.model!r}: name the model that it serves")
        return self


class SolverConfig(ModelSection):
    """Who writes the candidate solutions."""

    model: str = Field(
        default="scripted-solver", description="`scripted-solver` (offline) or the name that the endpoint serves"
    )
    k: int = Field(default=8, ge=1, description="candidates a problem")
    temperature: float = Field(default=1.0, ge=0, description="of sampling")
    max_tokens: int = Field(default=1024, ge=1, description="of a candidate")
    error_rate: Rate = Field(default=0.5, description="share of wrong candidates of the scripted solver")


class TeacherConfig(ModelSection):
    """Who verifies the candidates, and within which limits."""

    model: str = Field(
        default="scripted-teacher", description="`scripted-teacher` (offline) or the name that the endpoint serves"
    )
    samples: int = Field(default=1, ge=1, description="trajectories a candidate and role")
    temperature: float = Field(default=0.0, ge=0, description="of sampling; use about 0.7 for a real model")
    max_tokens: int = Field(default=512, ge=1, description="of a turn")
    max_trajectory_tokens: int = Field(default=16_384, ge=1, description="of a trajectory, prompts and replies")
    max_turns: int = Field(default=12, ge=3, description="model calls a trajectory")
    max_tool_calls: int = Field(default=3, ge=0, description="tool calls a trajectory")
    max_seconds: float = Field(default=600.0, gt=0, description="of a trajectory")
    style: Literal["compact", "full"] = Field(
        default="compact", description="prompts: compact (small students) or full (LLMs)"
    )
    top_logprobs: int = Field(default=20, ge=0, le=20, description="alternatives a token to ask for on verdict turns")
    error_rate: Rate = Field(default=0.05, description="share of wrong verdicts of the scripted teacher")
    concurrency: int = Field(default=64, ge=1, description="trajectories at once", json_schema_extra=OPERATIONAL)
    max_outages: int = Field(
        default=16, ge=1, description="stop after this many failures in a row", json_schema_extra=OPERATIONAL
    )


class SelectConfig(Section):
    """Which trajectories become training examples."""

    max_examples: int | None = Field(
        default=None, ge=1, description="keep at most this many, chosen by the seed; null: all"
    )
    max_prompts: int | None = Field(
        default=None, ge=1, description="give GRPO at most this many prompts, chosen by the seed; null: all"
    )
    max_completion_tokens: int = Field(
        default=8192, ge=1, description="drop trajectories whose replies are longer in all"
    )
    drop_trivial: bool = Field(default=True, description="drop problems whose candidates are all right or all wrong")
    balance: bool = Field(default=True, description="as many true as false in each role, as many of each role")
    decontaminate_ngram: int = Field(default=13, ge=1, description="words of an n-gram shared with a held-out problem")
    decontaminate_share: float = Field(
        default=0.5, gt=0, le=1, description="drop a problem when this share of its n-grams is held out; 1: all of them"
    )
    decontaminate: Annotated[list[str], BeforeValidator(_one_or_more)] = Field(
        default=[],
        description="evaluation sets that training must not have seen: math500, gsm8k, gaokao2023en, aime24, aime25, "
        "hotpotqa, 2wiki, musique, bamboogle, livecodebench, `jsonl:PATH`, `parquet:PATH`, "
        "`hf:org/name?split=…&question=…`",
    )


class EvalConfig(Section):
    """Evaluation on the held-out problems."""

    k: int = Field(default=8, ge=1, description="candidates a problem (Best-of-k)")
    batch: int = Field(default=64, ge=1, description="conversations decoded at once")
    temperature: float = Field(default=0.0, ge=0, description="of the verifiers")
    max_tokens: int = Field(default=96, ge=1, description="of a turn")
    max_turns: int = Field(default=6, ge=3, description="model calls a rollout")
    max_tool_calls: int = Field(default=3, ge=0, description="tool calls a rollout")
    aggregation: Literal["weighted", "mean", "min", "product"] = Field(
        default="weighted", description="of both directions"
    )
    forward_weight: Rate = Field(default=0.7, description="weight of the forward verifier's confidence")
    directions: Literal["both", "forward", "backward"] = Field(default="both", description="one alone: an ablation")
    samples: int = Field(default=1, ge=1, description="reviews a direction, averaged; more need a temperature")
    cascade: tuple[Rate, Rate] | None = Field(
        default=None, description="[low, high]: backward is asked where forward's confidence lies inside; null: always"
    )
    reconcile: bool = Field(default=False, description="where they disagree, each reads the other's review once")
    early_stop: bool = Field(default=False, description="go to the verdict once a check refutes a step")
    bootstrap: int = Field(default=1000, ge=0, description="resamples of the problems for the intervals")


NEEDED: dict[RecipeName, Role] = {  # whom a recipe trains
    "agentv": "forward_verifier",
    "rrm": "judge",
    "reagent_r": "solver",
    "reagent_u": "solver",
}


class RunConfig(Section):
    """All settings of a run."""

    name: Annotated[str, AfterValidator(_plain_name)] = Field(default="demo", description="folder of the run in `out`")
    seed: int = Field(default=0, ge=0, description="of problems, scripted models, selection and training")
    out: str = Field(default="runs", min_length=1, description="folder of all runs", json_schema_extra=OPERATIONAL)
    tasks: TasksConfig = TasksConfig()
    solver: SolverConfig = SolverConfig()
    teacher: TeacherConfig = TeacherConfig()
    sandbox: SandboxConfig = SandboxConfig()
    tools: ToolsConfig = ToolsConfig()
    mixture: MixtureConfig = MixtureConfig()
    select: SelectConfig = SelectConfig()
    student: StudentConfig = StudentConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    judge: JudgeConfig = JudgeConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _prompts_know_the_tools(self) -> Self:
        if set(ROLES) & set(self.mixture.roles) or "agentv" in self.grpo.recipes:
            check_prompts(self.tools.enabled, self.teacher.style, "teacher.style")
        return self

    @model_validator(mode="after")
    def _has_prompts_for_the_recipe(self) -> Self:
        needed = [NEEDED[recipe] for recipe in self.grpo.recipes if NEEDED[recipe] != "solver"]  # answering is known
        lacking = [role for role in needed if role not in self.mixture.roles]
        if self.grpo.steps and lacking:
            raise ValueError(f"grpo trains roles that SFT does not teach: give mixture.weights {', '.join(lacking)}")
        return self

    @property
    def asks_judge(self) -> bool:
        """Whether `judge` is asked: for judgements to learn from, or for rewards."""
        return self.grpo.judged or bool({"judge", "refiner"} & set(self.mixture.roles))

    @property
    def answering_model(self) -> str:
        """Who writes the candidates: the solver's model, as the agent where that answers; offline its own program."""
        scripted = self.solver.model.startswith("scripted-")
        return "scripted-agent" if scripted and self.mixture.answerer == "agent" else self.solver.model

    @property
    def run_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.out).expanduser() / self.name
