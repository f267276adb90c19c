"""`python -m distill.run --dry-run`: what a run takes, and what is missing here; nothing is written or downloaded.

Input: the settings. Output: lines of text: models, memory, tokens, hours, what is missing. Hours rest on assumptions
that are printed with them: lengths of replies, the share that is accepted, and how fast a device computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agents.plain_roles import AGENT, JUDGE, REFINER, SOLVER
from agents.types import EVERY_ROLE, ROLES, Role
from distill.missing import what_is_missing
from distill.sections import NEEDED, RunConfig
from distill.sizes import GIB, Shape, gib, shape_of, training_memory
from train.settings import Answerer, RecipeName

LARGE = 400_000_000  # parameters from which training on a CPU is hopeless


@dataclass(frozen=True)
class Assumptions:
    """What the estimate of tokens and hours rests on."""

    device: str
    peak: float  # floating-point operations a second
    memory: int  # bytes
    training: float  # share of the peak that training reaches
    decoding: float  # share of the peak that batched decoding reaches
    candidate: int  # tokens of a solution, and of a revision, in one reply
    review: int  # tokens that a verifier writes
    judgement: int  # tokens that a judge writes
    agent: int  # tokens that an agent writes, all steps
    prompt: int  # tokens of prompts and of tool outputs, of every role
    accepted: float = 0.4  # of the harvested trajectories of each role, after every filter

    def answered_by(self, answerer: Answerer) -> "Assumptions":
        """Return these with solutions and revisions as long as who answers writes them: an agent's are trajectories."""
        return replace(self, candidate=self.agent) if answerer == AGENT else self

    def reply(self, role: Role) -> int:
        """Return the tokens that a role writes."""
        of_one: dict[Role, int] = {JUDGE: self.judgement, AGENT: self.agent}
        return self.candidate if role in (SOLVER, REFINER) else of_one.get(role, self.review)


# Ours: an H100's dense bf16 peak; shares as commonly reached. The paper: 8,349 tokens a candidate, both directions.
WRITTEN_BY_LLMS = {"candidate": 1_500, "review": 4_200, "judgement": 1_000, "agent": 3_000}
GPU = Assumptions("one H100", 989e12, 80 * GIB, 0.35, 0.1, **WRITTEN_BY_LLMS, prompt=2_000)
# Measured with SmolLM2-135M on two cores: 150 tokens/s of training, 80 of decoding, as operations;
# replies as long as the scripted teachers write them.
CPU = Assumptions("two CPU cores", 1.2e11, 0, 1.0, 0.18, candidate=60, review=85, judgement=50, agent=50, prompt=250)


@dataclass(frozen=True)
class Tokens:
    """Tokens by stage: written by solver (or the agent that answers), teacher, judge and policy, and trained on."""

    solver: int
    teacher: int
    judge: int
    sft: int
    rollouts: int
    grpo: int
    evaluation: int


def expected_tokens(cfg: RunConfig, by: Assumptions) -> Tokens:
    """Estimate the tokens of each stage.

    Harvest: problems x k x both directions x samples of reviews, where the mixture or `agentv` needs them; problems x k
    of judgements, where judge or refiner are learned, and of revisions; problems x samples of the agent's trajectories.
    Where the agent answers, solutions and revisions are its trajectories, and it makes no others.
    SFT: accepted ones in the mixture's shares up to `select.max_examples`, or the examples of `sft.max_steps`, each
    prompt and reply, times epochs. Rollouts: batches x groups x (1 + half the resampling budget) x G (2G in Reagent-U),
    shared by the recipes; each answer is judged. GRPO trains on the step's own. Evaluation: every role of every stage.
    """
    by = by.answered_by(cfg.mixture.answerer)
    t, k, recipes = cfg.tasks, cfg.solver.k, set(cfg.grpo.recipes)  # the harvest does not ask for grpo.steps
    learned, rows = harvested(cfg), rollout_rows(cfg)
    made = 1 + cfg.grpo.resample_budget / 2
    sampled = t.n_harvest + t.n_grpo * bool(recipes & {"agentv", "rrm"})
    reviewed = t.n_harvest * bool(set(ROLES) & set(cfg.mixture.roles)) + t.n_grpo * ("agentv" in recipes)
    reviews = reviewed * k * len(ROLES) * cfg.teacher.samples
    judged = max(learned[JUDGE], learned[REFINER])  # a revision is on a judgement, whoever learns that
    asked = sum(n for name, n in rows.items() if NEEDED[name] == SOLVER) * made  # each answer is judged
    own = 0 if cfg.mixture.answerer == AGENT else learned[AGENT]  # else its trajectories are the solutions
    of_student, of_judge = evaluated(cfg)
    return Tokens(
        solver=(sampled * k + t.n_eval * cfg.eval.k) * by.candidate,
        teacher=reviews * by.review + learned[REFINER] * by.candidate + own * by.agent,
        judge=round((judged + asked + of_judge) * by.judgement),
        sft=round(sum(n * (by.prompt + by.reply(role)) for role, n in sft_examples(cfg, by).items())),
        rollouts=round(sum(n * by.reply(NEEDED[name]) for name, n in rows.items()) * made),
        grpo=round(sum(n * (by.prompt + by.reply(NEEDED[name])) for name, n in rows.items())),
        evaluation=sum(n * by.reply(role) for role, n in of_student.items()),
    )


def harvested(cfg: RunConfig) -> dict[Role, int]:
    """Return how many trajectories of each role are made to learn from: those of the mixture, before selection."""
    n, k, samples = cfg.tasks.n_harvest, cfg.solver.k, cfg.teacher.samples
    acted = k if cfg.mixture.answerer == AGENT else samples  # its trajectories are the candidates, or are made besides
    of_one: dict[Role, int] = {JUDGE: k, SOLVER: k, REFINER: k, AGENT: acted}  # the others are verifiers
    return {role: n * of_one.get(role, k * samples) * (role in cfg.mixture.roles) for role in EVERY_ROLE}


def sft_examples(cfg: RunConfig, by: Assumptions) -> dict[Role, float]:
    """Return how many examples of each role SFT passes over: the shares of the role that has fewest for its weight."""
    made = harvested(cfg)
    weights: dict[Role, float] = {role: cfg.mixture.weights[role] for role in cfg.mixture.roles}
    whole = sum(weights.values())
    chosen = round(min(by.accepted * made[role] / weight for role, weight in weights.items()) * whole)
    passes = min(cfg.select.max_examples or chosen, chosen) * cfg.sft.epochs
    if cfg.sft.max_steps is not None:
        passes = cfg.sft.max_steps * cfg.sft.batch
    return {role: passes * weight / whole for role, weight in weights.items()}


def rollout_rows(cfg: RunConfig) -> dict[RecipeName, float]:
    """Return how many rollouts of each recipe GRPO's steps take, resampled groups not counted; none without GRPO."""
    if not cfg.grpo.steps:
        return {}
    rows = cfg.grpo.steps * cfg.grpo.update_groups * cfg.grpo.group_rows
    shares = cfg.grpo.shares
    return {name: rows * share / sum(shares.values()) for name, share in shares.items()}


def evaluated(cfg: RunConfig) -> tuple[dict[Role, int], int]:
    """Return what the stages' models write of each role on the held-out problems, and judgements by `judge`."""
    n, k, roles, stages = cfg.tasks.n_eval, cfg.eval.k, cfg.mixture.roles, 2 + (cfg.grpo.steps > 0)
    reviewed = (*ROLES, *roles) if set(ROLES) & set(roles) else roles  # both directions, also where one is learned
    made: dict[Role, int] = {role: n * k * stages for role in (*ROLES, JUDGE) if role in reviewed}
    made |= {role: n * stages for role in (SOLVER, AGENT) if role in roles}  # first answers, or an agent's own
    if not cfg.mixture.refines:
        return made, 0
    made[REFINER] = critiques = n * stages
    if cfg.mixture.needs_critic:
        return made, critiques
    made[JUDGE] += critiques
    return made, 0


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
    for role, section in ((cfg.mixture.answerer, cfg.solver), ("teacher", cfg.teacher), *judged):
        model = cfg.answering_model if section is cfg.solver else section.model
        yield f"{role}: {model}{_told(model)} at {section.base_url or _place(model)}"
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


def _assumed(cfg: RunConfig, by: Assumptions) -> Iterator[str]:
    """Yield the lengths that the estimate rests on, and of what a mixture and several recipes are made."""
    answers, trajectory = f"{by.candidate:,} tokens a solution or revision", f"{by.agent:,} an agent's trajectory"
    if cfg.mixture.answerer == AGENT:
        answers, trajectory = f"{by.agent:,} tokens an agent's trajectory, first or again", ""
    written = (answers, f"{by.review:,} a review", f"{by.judgement:,} a judgement", trajectory)
    yield f"assumed: {', '.join(filter(None, written))}, {by.prompt:,} of prompts and tool outputs"
    made = ", ".join(f"{n:,} of {role}" for role, n in harvested(cfg).items() if n)
    yield f"assumed: {by.accepted:.0%} of what is harvested to learn from accepted: {made}"
    examples = ", ".join(f"{n:,.0f} of {role}" for role, n in sft_examples(cfg, by).items())
    yield f"SFT passes over examples: {examples}"
    if rows := rollout_rows(cfg):
        yield "GRPO takes rollouts: " + ", ".join(f"{n:,.0f} of {name}" for name, n in rows.items())


def _work(cfg: RunConfig, shape: Shape | None, by: Assumptions) -> Iterator[str]:
    need = expected_tokens(cfg, by)
    yield from _assumed(cfg, by)
    yield (
        f"assumed: {by.device}, {by.peak / 1e12:g} TFLOP/s, {by.training:.0%} of it in training, {by.decoding:.0%} in "
        f"decoding; {cfg.mixture.answerer} and teacher on one such device each"
    )
    hours: list[float] = []
    for stage, tokens, model, formula in (
        (f"{cfg.mixture.answerer} writes", need.solver, cfg.solver.model, decoding_hours),
        ("teacher writes", need.teacher, cfg.teacher.model, decoding_hours),
        ("judge writes", need.judge, cfg.judge.model, decoding_hours),
        ("SFT trains on", need.sft, cfg.student.model, training_hours),
        ("rollouts write", need.rollouts, cfg.student.model, decoding_hours),
        ("GRPO trains on", need.grpo, cfg.student.model, training_hours),
        ("evaluation writes", need.evaluation, cfg.student.model, decoding_hours),
    ):
        if stage == "judge writes" and not cfg.asks_judge:
            continue
        size = shape if model == cfg.student.model else shape_of(model)
        took = formula(tokens, size.parameters, by) if size and tokens else 0.0
        hours.append(took)
        when = f"{took:,.1f} h" if size else "a program" if model.startswith("scripted-") else "hours unknown"
        yield f"  {stage} {tokens:,} tokens: {when}"
    yield f"  in all {sum(hours):,.1f} h on {by.device}, one stage after the other; tools and loading not counted"
