"""`python -m distill.run --dry-run`: what a run takes, and what is missing here; nothing is written or downloaded.

Input: the settings. Output: lines of text: models, memory, tokens, hours, what is missing. Hours rest on assumptions
that are printed with them: lengths of replies, the share that is accepted, and how fast a device computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from agents.types import ROLES
from distill.missing import what_is_missing
from distill.sections import RunConfig
from distill.sizes import GIB, Shape, gib, shape_of, training_memory

LARGE = 400_000_000  # parameters from which training on a CPU is hopeless


@dataclass(frozen=True)
class Assumptions:
    """What the estimate of tokens and hours rests on."""

    device: str
    peak: float  # floating-point operations a second
    memory: int  # bytes
    training: float  # share of the peak that training reaches
    decoding: float  # share of the peak that batched decoding reaches
    candidate: int  # tokens of a solution
    review: int  # tokens that a verifier writes
    prompt: int  # tokens of its prompts and of tool outputs
    accepted: float = 0.4  # of the harvested trajectories, after every filter


# Ours: an H100's dense bf16 peak; shares as commonly reached. The paper: 8,349 tokens a candidate, both directions.
GPU = Assumptions("one H100", 989e12, 80 * GIB, 0.35, 0.1, candidate=1_500, review=4_200, prompt=2_000)
# Measured with SmolLM2-135M on two cores: 150 tokens/s of training, 80 of decoding, as operations.
CPU = Assumptions("two CPU cores", 1.2e11, 0, 1.0, 0.18, candidate=60, review=85, prompt=250)


@dataclass(frozen=True)
class Tokens:
    """Tokens by stage: written by solver, teacher and policy, and trained on."""

    solver: int
    teacher: int
    sft: int
    rollouts: int
    grpo: int
    evaluation: int


def expected_tokens(cfg: RunConfig, by: Assumptions) -> Tokens:
    """Estimate the tokens of each stage.

    Trajectories: problems x k x roles x samples. SFT: accepted ones up to `select.max_examples`, or the examples of
    `sft.max_steps`, each prompt and review, times epochs. Rollouts: batches x groups x (1 + half the resampling budget)
    x G (2G in Reagent-U); GRPO trains on the step's own.
    """
    t, k, roles = cfg.tasks, cfg.solver.k, len(ROLES)
    problems = t.n_harvest + t.n_grpo
    solutions = problems * k + t.n_eval * cfg.eval.k
    harvested = t.n_harvest * k * roles * cfg.teacher.samples
    examples = min(cfg.select.max_examples or harvested, round(by.accepted * harvested)) * cfg.sft.epochs
    if cfg.sft.max_steps is not None:
        examples = cfg.sft.max_steps * cfg.sft.batch
    batches = cfg.grpo.steps * cfg.grpo.update_groups / cfg.grpo.groups
    rows = batches * cfg.grpo.groups * cfg.grpo.group_rows
    stages = 2 + (cfg.grpo.steps > 0)
    return Tokens(
        solver=solutions * by.candidate,
        teacher=problems * k * roles * cfg.teacher.samples * by.review,
        sft=round(examples * (by.prompt + by.review)),
        rollouts=round(rows * (1 + cfg.grpo.resample_budget / 2) * by.review),
        grpo=round(rows * (by.prompt + by.review)),
        evaluation=t.n_eval * cfg.eval.k * roles * by.review * stages,
    )


def decoding_hours(tokens: int, parameters: int, by: Assumptions) -> float:
    """Hours to write tokens: 2 operations a parameter and token."""
    return 2 * parameters * tokens / (by.decoding * by.peak) / 3600


def training_hours(tokens: int, parameters: int, by: Assumptions) -> float:
    """Hours to train on tokens: 6 operations a parameter and token, 8 on a GPU, where layers are computed twice."""
    return (6 if by is CPU else 8) * parameters * tokens / (by.training * by.peak) / 3600


def lines(cfg: RunConfig) -> Iterator[str]:
    """Yield the plan line by line."""
    shape = shape_of(cfg.student.model)
    large = cfg.grpo.engine != "local" or (shape is not None and shape.parameters >= LARGE)
    by = GPU if large else CPU
    yield f"plan of {cfg.name!r} (nothing is written)"
    yield from _models(cfg)
    if shape is None:
        yield f"memory: unknown: no config.json of {cfg.student.model!r} here, and its size is not in distill/sizes.py"
    else:
        yield from _memory(cfg, shape, by)
    yield from _work(cfg, shape, by)
    missing = list(what_is_missing(cfg, shape, large))
    yield "missing here: nothing" if not missing else "missing here:"
    yield from (f"  {what}" for what in missing)


def _models(cfg: RunConfig) -> Iterator[str]:
    t = cfg.tasks
    yield f"problems: {t.source}: {t.n_harvest:,} harvest, {t.n_grpo:,} GRPO, {t.n_eval:,} held out"
    judged = (("judge", cfg.judge),) if cfg.asks_judge else ()
    for role, section in (("solver", cfg.solver), ("teacher", cfg.teacher), *judged):
        yield f"{role}: {section.model}{_told(section.model)} at {section.base_url or _place(section.model)}"
    kind = f"LoRA of rank {cfg.student.lora_rank}" if cfg.student.lora_rank else "all weights"
    yield f"student: {cfg.student.model}{_told(cfg.student.model)}, {kind}, rollouts by {cfg.grpo.engine}"


def _told(model: str) -> str:
    shape = shape_of(model)
    return f" ({shape.parameters / 1e9:.2f}B)" if shape else ""


def _place(model: str) -> str:
    return "this process" if model.startswith("scripted-") else "no endpoint yet"


def _memory(cfg: RunConfig, shape: Shape, by: Assumptions) -> Iterator[str]:
    student = cfg.student
    for stage, rows in (("SFT", min(cfg.sft.micro_batch, cfg.sft.batch)), ("GRPO", cfg.grpo.micro_batch)):
        need = training_memory(shape, student, rows)
        parts = {name: gib(getattr(need, name)) for name in ("weights", "gradients", "optimiser", "activations")}
        told = " + ".join(f"{name} {size}" for name, size in parts.items())
        yield f"memory, {stage}: {gib(need.total)} = {told} ({rows} x {student.max_length:,} tokens at most)"
        if by.memory and need.total > 0.9 * by.memory:
            devices = -(-(need.total - need.activations) // int(0.9 * by.memory - need.activations))
            if need.activations < 0.9 * by.memory:
                yield f"  more than {by.device} holds: shard it over {devices} or more (train/accelerate/fsdp.yaml)"
            else:
                yield f"  the activations alone are more than {by.device} holds: lower student.max_length"
    if cfg.grpo.loss.beta and cfg.grpo.steps and not student.lora_rank:  # with adapters it is the model without them
        yield f"memory, reference model of the KL term (grpo.loss.beta): weights {gib(4 * shape.parameters)}"
    conversation = shape.kv_bytes * student.max_length
    yield (
        f"memory, rollouts: weights {gib(2 * shape.parameters)} in bf16, keys and values {shape.kv_bytes / 1024:.0f} "
        f"KiB a token, {gib(conversation)} a conversation of {student.max_length:,}"
    )
    if cfg.grpo.engine == "vllm_colocate":
        left = cfg.grpo.vllm.memory * by.memory - 2 * shape.parameters
        fit = max(0, int(left // conversation))
        yield f"  grpo.vllm.memory={cfg.grpo.vllm.memory:g} of {gib(by.memory)} holds {fit} such conversations at once"


def _work(cfg: RunConfig, shape: Shape | None, by: Assumptions) -> Iterator[str]:
    need = expected_tokens(cfg, by)
    yield (
        f"assumed: {by.candidate:,} tokens a solution, {by.review:,} a review, {by.prompt:,} of prompts and tool "
        f"outputs; {by.accepted:.0%} of the reviews accepted"
    )
    yield (
        f"assumed: {by.device}, {by.peak / 1e12:g} TFLOP/s, {by.training:.0%} of it in training, {by.decoding:.0%} in "
        "decoding; solver and teacher on one such device each"
    )
    hours: list[float] = []
    for stage, tokens, model, formula in (
        ("solver writes", need.solver, cfg.solver.model, decoding_hours),
        ("teacher writes", need.teacher, cfg.teacher.model, decoding_hours),
        ("SFT trains on", need.sft, cfg.student.model, training_hours),
        ("rollouts write", need.rollouts, cfg.student.model, decoding_hours),
        ("GRPO trains on", need.grpo, cfg.student.model, training_hours),
        ("evaluation writes", need.evaluation, cfg.student.model, decoding_hours),
    ):
        size = shape if model == cfg.student.model else shape_of(model)
        took = formula(tokens, size.parameters, by) if size and tokens else 0.0
        hours.append(took)
        when = f"{took:,.1f} h" if size else "a program" if model.startswith("scripted-") else "hours unknown"
        yield f"  {stage} {tokens:,} tokens: {when}"
    yield f"  in all {sum(hours):,.1f} h on {by.device}, one stage after the other; tools and loading not counted"
