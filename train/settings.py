"""The settings of training: the student, supervised fine-tuning, GRPO."""

import re
from collections.abc import Collection
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from tools.registry import ToolsConfig, check_prompts
from tools.sandbox.settings import SandboxConfig
from tools.settings import OPERATIONAL, Rate, Section

Answerer = Literal["solver", "agent"]
AGENT_TURNS = 4  # of a small agent; Reagent trains with 13
RecipeName = Literal["agentv", "rrm", "reagent_r", "reagent_u"]
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
ON_PROBLEMS: tuple[RecipeName, ...] = ("reagent_r", "reagent_u")  # they are given problems; the others solutions


def answerer_among(roles: Collection[str]) -> Answerer:
    """Return who answers where these roles are learned: the agent, with tools, where it is and the solver is not."""
    return "agent" if "agent" in roles and "solver" not in roles else "solver"


def recipe_shares(text: str) -> dict[RecipeName, float]:
    """Read `grpo.recipe`: a recipe, or several with the shares that they have of the groups (`agentv:2,rrm:1`).

    Raises:
        ValueError: an unknown recipe, one twice, a share that is not above 0, or two on the same prompts.
    """
    shares: dict[RecipeName, float] = {}
    for part in text.split(","):
        given, colon, share = part.partition(":")
        name: RecipeName | None = next((known for known in RECIPE_NAMES if known == given.strip()), None)
        number = float(share) if re.fullmatch(r"\s*\d+(\.\d+)?\s*", share) else 0.0 if colon else 1.0
        if name is None or name in shares or number <= 0:
            raise ValueError(
                f"should be {', '.join(RECIPE_NAMES)}, or several with shares such as agentv:2,reagent_u:1"
            )
        shares[name] = number
    if set(ON_PROBLEMS) <= set(shares):
        raise ValueError("should name reagent_r or reagent_u, not both: they have the same prompts")
    return shares


def _recipe(text: str) -> str:
    recipe_shares(text)
    return text


class StudentConfig(Section):
    """The model that learns."""

    model: str = Field(default="smollm2-135m", description="`smollm2-135m` (from a wheel), a folder, or a hub id")
    max_length: int = Field(
        default=1024, ge=64, description="tokens of a training conversation; longer ones are dropped"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU, else float32"
    )
    lora_rank: int = Field(default=32, ge=0, description="rank of LoRA adapters; 0: full fine-tuning")
    lora_alpha: int = Field(default=64, ge=1, description="scale of LoRA adapters")
    lora_share: float = Field(
        default=2 / 3,
        gt=0,
        le=1,
        description="share of the layers, from the top, that have adapters: nothing is computed backward below them",
    )


class SftConfig(Section):
    """Supervised fine-tuning."""

    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    epochs: float = Field(default=1.0, gt=0, description="passes over the selected examples")
    max_steps: int | None = Field(
        default=84, ge=1, description="optimiser steps, more than one epoch if need be; null: by epochs"
    )
    batch: int = Field(default=2, ge=1, description="examples a step")
    micro_batch: int = Field(default=2, ge=1, description="examples a forward pass")
    warmup_steps: int = Field(default=2, ge=0, description="of the learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="of the learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    save_steps: int = Field(default=20, ge=1, description="steps between checkpoints")


class JudgeConfig(Section):
    """Who judges the answers of Reagent-R and Reagent-U while they train: nobody is asked afterwards."""

    model: str = Field(
        default="scripted-judge",
        min_length=1,
        description="`scripted-judge` (offline), or the name that the endpoint serves",
    )
    base_url: str | None = Field(
        default=None, description="base URL, or several, comma-separated", json_schema_extra=OPERATIONAL
    )
    weight: float = Field(default=0.3, ge=0, description="of its score beside the rule reward (λ)")
    style: Literal["compact", "full"] = Field(default="compact", description="prompts: compact or full (LLMs)")
    temperature: float = Field(default=0.0, ge=0, description="of the judge")
    max_tokens: int = Field(default=2048, ge=1, description="of a judgement")
    max_trajectory_tokens: int = Field(default=32_768, ge=1, description="of a judgement, prompt and reply")
    max_transcript: int = Field(default=24_000, ge=1, description="characters of an answer that the judge is shown")
    max_seconds: float = Field(default=600.0, gt=0, description="of a judgement")
    concurrency: int = Field(default=32, ge=1, description="answers at once", json_schema_extra=OPERATIONAL)

    @model_validator(mode="after")
    def _names_its_model(self) -> Self:
        if self.base_url and self.model.startswith("scripted-"):
            raise ValueError(f"base_url is given but model is still {self.model!r}: name the model that it serves")
        return self


class LossConfig(Section):
    """The loss of GRPO."""

    clip_low: float = Field(default=0.2, gt=0, lt=1, description="lower clip of the ratio")
    clip_high: float = Field(default=0.28, gt=0, description="upper clip of the ratio")
    beta: float = Field(default=0.0, ge=0, description="weight of the KL term; 0: no reference model")
    average: Literal["tokens", "rollouts"] = Field(
        default="tokens",
        description="tokens: every token counts alike (DAPO); rollouts: the mean over a rollout's tokens, then over "
        "rollouts (Reagent)",
    )
    importance: Literal["sequence_mask", "sequence_truncate", "token_mask", "token_truncate", "off"] = Field(
        default="sequence_mask",
        description="correction for the difference between vLLM's probabilities and the trainer's; sequence_mask drops "
        "whole rollouts, of long ones perhaps most: see importance/tokens_masked in the metrics",
    )
    importance_cap: float = Field(default=3.0, gt=1, description="importance ratio above which that is done")


class VllmConfig(Section):
    """vLLM for the rollouts of GRPO."""

    base_url: str | None = Field(
        default=None, description="of the server (see grpo.engine)", json_schema_extra=OPERATIONAL
    )
    group_port: int = Field(default=51216, ge=1, description="for sending weights", json_schema_extra=OPERATIONAL)
    memory: float = Field(
        default=0.35, gt=0, lt=1, description="share of the GPU for a colocated vLLM", json_schema_extra=OPERATIONAL
    )
    timeout: float = Field(
        default=240.0, gt=0, description="seconds to wait for the server", json_schema_extra=OPERATIONAL
    )


class GrpoConfig(Section):
    """Reinforcement learning with group-relative advantages."""

    recipe: Annotated[str, AfterValidator(_recipe)] = Field(
        default="agentv",
        description="agentv: verifiers, by verdict; rrm: the judge, by a proper scoring rule; reagent_r: answers, by "
        "rule and judge; reagent_u: answers and their refinements on the judge's critique, in one pool; "
        "agentv:2,rrm:1,reagent_u:1: several, by their shares of the groups",
    )
    lr: float = Field(default=5e-5, gt=0, description="learning rate")
    steps: int = Field(default=2, ge=0, description="optimiser steps; 0: no GRPO")
    groups: int = Field(default=4, ge=1, description="prompts a batch of rollouts")
    num_generations: int = Field(
        default=4,
        ge=2,
        description="rollouts a prompt (G); reagent_u has G first answers and G refined ones, and "
        "where it is mixed in 2G rollouts of every prompt",
    )
    micro_batch: int = Field(default=4, ge=1, description="rollouts a forward pass")
    mini_groups: int | None = Field(
        default=None, ge=1, description="prompts an optimiser step, where a batch is several; null: all of the batch"
    )
    temperature: float = Field(default=1.0, gt=0, description="of the rollouts")
    loss: LossConfig = LossConfig()
    engine: Literal["local", "vllm_colocate", "vllm_server"] = Field(
        default="local", description="who decodes the rollouts: this process, vLLM on the same GPUs, a vLLM server"
    )
    vllm: VllmConfig = VllmConfig()
    resample_budget: int = Field(
        default=1, ge=0, description="fresh prompts a group, at the most, to take the place of groups without variance"
    )
    only_decidable: bool = Field(
        default=True,
        description="prompts are the (candidate, role) pairs that the teacher got right; false: all of them",
    )
    forward_share: Rate = Field(default=0.5, description="share of forward verifiers among the prompts")
    slots: int = Field(default=32, ge=1, description="conversations decoded at once")
    max_tokens: int = Field(default=96, ge=1, description="of a turn")
    max_turns: int = Field(default=6, ge=3, description="model calls a rollout")
    max_tool_calls: int = Field(default=3, ge=0, description="tool calls a rollout")
    save_steps: int = Field(default=2, ge=1, description="steps between checkpoints")

    @model_validator(mode="after")
    def _whole_updates(self) -> Self:
        if self.groups % self.update_groups:
            raise ValueError(f"mini_groups={self.mini_groups} should divide groups={self.groups}")
        return self

    @property
    def update_groups(self) -> int:
        """Prompts an optimiser step."""
        return self.mini_groups or self.groups

    @property
    def shares(self) -> dict[RecipeName, float]:
        """The recipes and their shares of the groups."""
        return recipe_shares(self.recipe)

    @property
    def recipes(self) -> tuple[RecipeName, ...]:
        """The recipes that are trained on."""
        return tuple(self.shares)

    @property
    def judged(self) -> bool:
        """Whether a judge is asked for rewards while the policy trains."""
        return self.steps > 0 and bool(set(ON_PROBLEMS) & set(self.recipes))

    @property
    def refines(self) -> bool:
        """Whether each answer is written again on its critique."""
        return "reagent_u" in self.recipes

    @property
    def group_rows(self) -> int:
        """Rows that share a baseline: G, where Reagent-U takes part 2G."""
        return self.num_generations * (1 + self.refines)


class TrainingSettings(Section):
    """What training needs of a run's settings, as exported beside its data."""

    seed: int = Field(default=0, ge=0, description="order of rows, prompts and sampling")
    style: Literal["compact", "full"] = Field(default="compact", description="prompts of the verifiers")
    answers: Answerer = Field(
        default="solver",
        description="who answers in reagent_r and reagent_u, first and again: the solver in one reply, or the agent "
        "with the tools",
    )
    agent_turns: int = Field(default=AGENT_TURNS, ge=1, description="steps of the agent, where it answers")
    student: StudentConfig = StudentConfig()
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    judge: JudgeConfig = JudgeConfig()
    sandbox: SandboxConfig = SandboxConfig()
    tools: ToolsConfig = ToolsConfig()

    @model_validator(mode="after")
    def _prompts_know_the_tools(self) -> Self:
        if "agentv" in self.grpo.recipes:
            check_prompts(self.tools.enabled, self.style, "style")
        return self
