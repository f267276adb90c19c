"""Several recipes in one GRPO: advantages are each recipe's own, groups take turns, metrics have names; settings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from agents.types import ErrorInfo, StopReason, Task, Trajectory, Turn, Verdict
from distill.config import load_config
from graphs.state import VerifierContext
from tools.errors import ConfigError, DataError
from train.advantages import pooled_advantages
from train.groups import GroupRollouts
from train.mixed import MixedGroup, MixedPrompt, MixedRollouts, taking_turns
from train.pools import Answer, Pool, Problem
from train.reagent import ReagentRollouts
from train.recipes import MIXED, RECIPES, Around, Job, on_all, recipe_of, recipes_in_turn
from train.reviews import Group, Prompt
from train.rollout import ReviewRollouts
from train.settings import GrpoConfig, RecipeName, StudentConfig, recipe_shares

END = 99


class Key(NamedTuple):
    """A prompt that is a name."""

    key: str


class Made(NamedTuple):
    """A group that is its rewards."""

    rewards: tuple[float | None, ...]
    conversations: tuple[tuple[Turn, ...], ...] = ()
    failures: tuple[str, ...] = ("gone",)


class Part(GroupRollouts[Key, Made]):
    """The rollouts of a recipe: rewards by prompt; keeps what it was asked."""

    def __init__(self, name: str, rewards: dict[str, tuple[float | None, ...]], wait: float = 0.0) -> None:
        """Take the rewards of each prompt, and how many seconds a call takes."""
        super().__init__([Key(key) for key in rewards], NO_POLICY, self._open, resample_budget=0, end_token=END, seed=0)
        self.name, self.made, self.wait = name, rewards, wait
        self.asked: list[Any] = []
        self.is_open = False

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[str]:
        self.is_open = True
        yield f"tools of {self.name}"
        self.is_open = False

    async def roll(self, prompts: Any, rows: int, opened: Any, step: int) -> list[Made]:
        """Give each prompt its rewards."""
        assert self.is_open
        self.asked.append(([p.key for p in prompts], rows, opened, step))
        await asyncio.sleep(self.wait)
        return [Made(self.made[p.key], ((),) * rows) for p in prompts]

    def metrics(self, groups: Any, chosen: Any) -> dict[str, float]:
        """Count; as the real ones it cannot say anything of no reward at all, or of no group."""
        return {"best": max(r for g in groups for r in g.rewards if r is not None), "chosen": fmean(1 for _ in chosen)}

    def in_order(self, fresh: list[Key]) -> list[Key]:
        """Order by name."""
        return sorted(fresh)


NO_POLICY: Any = SimpleNamespace(chat=None, refresh=lambda: None, attached=lambda trainer: nullcontext())


def mixed(parts: dict[RecipeName, Any], **more: Any) -> MixedRollouts:
    """Mix parts; by default in equal shares, rrm in its own scale."""
    prompts = [MixedPrompt(name, prompt) for name, part in parts.items() for prompt in part.pool.values()]
    return MixedRollouts(
        prompts,
        NO_POLICY,
        parts,
        shares=more.get("shares", dict.fromkeys(parts, 1.0)),
        scales={name: RECIPES[name].scale for name in parts},
        resample_budget=more.get("budget", 0),
        end_token=END,
        seed=0,
    )


def group(recipe: RecipeName, *rewards: float | None) -> MixedGroup:
    return MixedGroup(recipe, Made(rewards))


def centred(rewards: list[float | None], rows: int) -> list[list[float | None]]:
    """What TRL does without a scale of its own: each group less its mean."""
    out = []
    for start in range(0, len(rewards), rows):
        own = rewards[start : start + rows]
        mean = fmean(r for r in own if r is not None)
        out.append([None if r is None else r - mean for r in own])
    return out


def flat(*values: float | None) -> Any:
    return [None if v is None else pytest.approx(v, abs=1e-9) for v in values]


# --- advantages -------------------------------------------------------------------------------------------------------


def test_a_pool_has_the_advantages_that_it_has_alone():
    """0, 1, 0, 1.5: mean 0.625, squares 0.390625 · 2 + 0.140625 + 0.765625 = 1.6875, /3 = 0.5625, deviation 0.75.

    Divided by 0.7501 and centred: -0.8332, 0.4999, -0.8332, 1.1665. A dead group has 0.
    """
    func = mixed({"agentv": Part("a", {}), "reagent_u": Part("u", {})})
    groups = [group("reagent_u", 0.0, 1.0, 0.0, 1.5), group("agentv", 1.0, -1.0, 1.0, 1.0), group("agentv", *[1.0] * 4)]
    found = centred(func.optimised(groups), 4)
    assert found[0] == pytest.approx([-0.625 / 0.7501, 0.375 / 0.7501, -0.625 / 0.7501, 0.875 / 0.7501])
    for made, advantages in zip(groups, found, strict=True):
        assert advantages == pytest.approx(pooled_advantages(made.rewards), abs=1e-9)
    assert found[2] == [0.0] * 4


def test_what_has_no_reward_keeps_its_place_and_counts_in_nothing():
    """0 and 1 are left: deviation √½. Were None a 0, the deviation would be √⅓; a lone reward is left as it is."""
    func = mixed({"agentv": Part("a", {}), "reagent_u": Part("u", {})})
    rewards = func.optimised([group("reagent_u", 0.0, None, 1.0), group("agentv", None, -1.0, None)])
    by = 0.5**0.5 + 1e-4
    assert rewards == flat(0.0, None, 1 / by, None, -1.0, None)
    assert centred(rewards, 3)[0] == flat(*pooled_advantages((0.0, None, 1.0)))


def test_the_judges_rewards_keep_their_sizes_beside_each_other():
    """Rewards 1.2, 0 and 0.9, 0.3: mean 0.6, squares 0.36 · 2 + 0.09 · 2 = 0.9, /3 = 0.3: deviation √0.3 = 0.5477.

    Advantages ±0.6 / 0.5478 = ±1.0953 and ±0.3 / 0.5478 = ±0.5476. Each group by its own deviation (0.8485, 0.4243)
    would give ±0.707 for both. Verifiers' rewards stand beside them and are no part of it; neither is what has none.
    """
    judges: list[MixedGroup] = [group("rrm", 1.2, 0.0, None), group("rrm", None, 0.9, 0.3)]
    alone = mixed({"rrm": Part("r", {})}).optimised(judges)
    func = mixed({"agentv": Part("a", {}), "rrm": Part("r", {})})
    found = func.optimised([judges[0], group("agentv", 1.0, -1.0, -1.0), judges[1]])
    assert found[:3] + found[6:] == alone
    by = 0.3**0.5 + 1e-4
    first, _, second = centred(found, 3)
    assert first == flat(0.6 / by, -0.6 / by, None) and second == flat(None, 0.3 / by, -0.3 / by)
    assert first[0] == pytest.approx(1.0953, abs=1e-4) and second[1] == pytest.approx(0.5476, abs=1e-4)
    of_groups = [pooled_advantages(made.rewards) for made in judges]
    assert of_groups[0][0] == pytest.approx(of_groups[1][1], abs=1e-3)  # it would make them alike


def test_other_judges_change_the_scale_and_other_recipes_do_not():
    func = mixed({"agentv": Part("a", {}), "rrm": Part("r", {})})
    first = group("rrm", 1.2, 0.0)
    alone, beside, among = (
        func.optimised([first, other])[:2]
        for other in (group("agentv", 1.0, 1.0), group("agentv", 1.0, -1.0), group("rrm", 0.1, 0.2))
    )
    assert alone == beside != among


# --- turns ------------------------------------------------------------------------------------------------------------


def named(recipe: RecipeName, n: int) -> list[MixedPrompt]:
    return [MixedPrompt(recipe, Key(f"{recipe}{i}")) for i in range(n)]


def initials(prompts: list[MixedPrompt]) -> str:
    return "".join({"agentv": "a", "rrm": "j", "reagent_u": "u", "reagent_r": "r"}[p.recipe] for p in prompts)


def test_turns_by_shares_until_one_has_none_left():
    """2:1:1. The fifth of agentv would be the ninth: it has four."""
    pools: dict[RecipeName, list[MixedPrompt]] = {
        "agentv": named("agentv", 4),
        "rrm": named("rrm", 9),
        "reagent_u": named("reagent_u", 9),
    }
    taken = taking_turns(pools, {"agentv": 2, "rrm": 1, "reagent_u": 1})
    assert initials(taken) == "ajuaajua"
    assert [p.prompt.key for p in taken if p.recipe == "agentv"] == [f"agentv{i}" for i in range(4)]
    assert taken == taking_turns(pools, {"agentv": 0.5, "rrm": 0.25, "reagent_u": 0.25})
    pools["rrm"] = named("rrm", 1)
    assert initials(taking_turns(pools, {"agentv": 2, "rrm": 1, "reagent_u": 1})) == "ajuaa"


def test_a_recipe_without_prompts_or_share_stands_aside():
    pools: dict[RecipeName, list[MixedPrompt]] = {"agentv": named("agentv", 2), "rrm": [], "reagent_u": named("rrm", 2)}
    assert initials(taking_turns(pools, {"agentv": 1, "rrm": 1})) == "aa"
    assert taking_turns({"rrm": []}, {"rrm": 1}) == []


def verifiers(n: int) -> list[MixedPrompt]:
    roles: Any = ("forward_verifier", "backward_verifier")
    return [MixedPrompt("agentv", Prompt(f"v{i}", "p", "s", roles[i % 2], i % 4 < 2)) for i in range(n)]


def judges(n: int) -> list[MixedPrompt]:
    return [MixedPrompt("rrm", Prompt(f"j{i}", "p", "s", "judge", i < 2)) for i in range(n)]


def problems(n: int, recipe: RecipeName = "reagent_u") -> list[MixedPrompt]:
    return [MixedPrompt(recipe, Problem(f"p{i}", Task(question=f"q{i}", answer="1"))) for i in range(n)]


ALL = GrpoConfig(recipe="agentv:2,rrm:1,reagent_u:1", num_generations=3)


def test_each_recipe_orders_its_own_prompts():
    """Verifiers alternate, the judge's labels take turns, problems stay as they are; the fourth problem is none."""
    given = [*problems(3), *judges(4), *verifiers(8)]
    ordered = recipes_in_turn(given, ALL, 0)
    assert initials(ordered) == "ajuaajuaajuaaj"
    own: dict[str, list[Any]] = {name: [p.prompt for p in ordered if p.recipe == name] for name in ALL.recipes}
    assert {p.role for p in own["agentv"][:2]} == {"forward_verifier", "backward_verifier"}
    assert [p.label for p in own["rrm"][:2]] == [False, True]
    assert [p.key for p in own["reagent_u"]] == ["p0", "p1", "p2"]
    assert ordered == recipes_in_turn(given, ALL, 0) != recipes_in_turn(given, ALL, 1)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ([*verifiers(4), *problems(2)], "no prompt for recipe rrm; harvest more problems, or name others"),
        ([*verifiers(4), *judges(2), *problems(2, "reagent_r")], "no prompt for recipe reagent_u"),
        ([*verifiers(1), *judges(2), *problems(2)], "no prompt for backward_verifier"),
        (
            [*verifiers(4), *judges(2), MixedPrompt("reagent_u", Problem("p", Task(question="q")))],
            "1 of 1 problems cannot be graded by a rule",
        ),
    ],
)
def test_a_recipe_without_prompts_is_told_by_name(prompts: list[MixedPrompt], told: str):
    with pytest.raises(DataError, match=told) as raised:
        recipes_in_turn(prompts, ALL, 0)
    assert "\n" not in str(raised.value)


def test_fresh_prompts_take_turns_in_each_recipes_own_order():
    func = mixed({"rrm": Part("r", {}), "agentv": Part("a", {})}, shares={"rrm": 1.0, "agentv": 2.0})
    fresh = [MixedPrompt("agentv", Key(k)) for k in "cab"] + [MixedPrompt("rrm", Key(k)) for k in "zyx"]
    assert [p.prompt.key for p in func.in_order(fresh)] == ["a", "x", "b", "c", "y"]


def test_one_problem_in_two_recipes_is_two_prompts():
    both = [MixedPrompt("rrm", Prompt("k", "q", "s", "judge", True)), MixedPrompt("reagent_u", problems(1)[0].prompt)]
    same = [prompt._replace(prompt=Key("k")) for prompt in both]
    assert len({p.key for p in same}) == 2
    func = mixed({"rrm": Part("r", {"k": (1.0,)}), "reagent_u": Part("u", {"k": (1.0,)})})
    assert len(func.pool) == 2


# --- rollouts ---------------------------------------------------------------------------------------------------------


async def test_every_recipe_is_given_its_own_prompts_and_groups_come_back_in_order():
    """The first recipe takes longest; what it has opened is its own; a recipe without a prompt is not asked."""
    slow, fast = Part("a", {"a0": (1.0, 2.0), "a1": (3.0, 4.0)}, wait=0.02), Part("r", {"j0": (5.0, 6.0)})
    idle = Part("u", {"p0": (7.0, 8.0)})
    func = mixed({"agentv": slow, "rrm": fast, "reagent_u": idle})
    wanted = [MixedPrompt("agentv", Key("a1")), MixedPrompt("rrm", Key("j0")), MixedPrompt("agentv", Key("a0"))]
    async with func.opens() as opened:
        made = await func.roll(wanted, 2, opened, 7)
        assert idle.is_open
    assert [(g.recipe, g.rewards) for g in made] == [("agentv", (3, 4)), ("rrm", (5, 6)), ("agentv", (1, 2))]
    assert slow.asked == [(["a1", "a0"], 2, "tools of a", 7)] and fast.asked == [(["j0"], 2, "tools of r", 7)]
    assert idle.asked == [] and not (idle.is_open or slow.is_open or fast.is_open)


def step(func: MixedRollouts, *keys: str, rows: int = 2) -> tuple[dict[str, list[Any]], dict[str, float]]:
    logged: dict[str, float] = {}
    trainer = SimpleNamespace(
        num_generations=rows, state=SimpleNamespace(global_step=0), _log_metric=lambda k, v: logged.__setitem__(k, v)
    )
    return func([key for key in keys for _ in range(rows)], trainer), logged


def test_a_step_gives_the_trainer_what_it_is_to_centre():
    """agentv ±1: deviation √2. rrm 0 and 1, one group: √½. Nothing that a policy wrote: every row is silent."""
    func = mixed({"agentv": Part("a", {"k": (1.0, -1.0)}), "rrm": Part("r", {"k": (0.0, 1.0)})})
    out, logged = step(func, "rrm/k", "agentv/k")
    a, r = 2**0.5 + 1e-4, 0.5**0.5 + 1e-4
    assert out["reward"] == pytest.approx([0.0, 1 / r, 1 / a, -1 / a])
    assert out["env_mask"] == [[0]] * 4
    assert (logged["reward/mean"], logged["rollouts/n"], logged["rollouts/dropped"]) == (0.25, 4.0, 0.0)
    assert (logged["agentv/best"], logged["rrm/best"], logged["groups/live_in_update"]) == (1.0, 1.0, 1.0)


def test_a_recipe_without_any_reward_logs_nothing_and_breaks_nothing():
    """The judge's rollouts are lost to an outage: 2 of 4 rows; its group is in the update, and dead."""
    func = mixed({"agentv": Part("a", {"k": (1.0, -1.0)}), "rrm": Part("r", {"k": (None, None)})})
    out, logged = step(func, "rrm/k", "agentv/k")
    assert out["reward"][2:] == [None, None] and out["reward"][0] == pytest.approx(1 / (2**0.5 + 1e-4))
    assert {key for key in logged if key.startswith("rrm/")} == {"rrm/groups_in_update"}
    assert (logged["rrm/groups_in_update"], logged["agentv/groups_in_update"]) == (1.0, 1.0)
    assert (logged["rollouts/n"], logged["rollouts/dropped"], logged["reward/mean"]) == (4.0, 2.0, 0.0)
    assert (logged["groups/zero_variance"], logged["groups/live_in_update"]) == (0.5, 0.5)


def test_a_recipe_of_which_no_group_is_in_the_update_is_still_measured():
    """Of three groups the dead one of rrm makes room for a live one of agentv."""
    parts: dict[RecipeName, Any] = {
        "agentv": Part("a", {"x": (1.0, -1.0), "y": (1.0, -1.0)}),
        "rrm": Part("r", {"k": (0.4, 0.4)}),
    }
    out, logged = step(mixed(parts, budget=1), "rrm/k", "agentv/x")
    assert [abs(r) for r in out["reward"]] == pytest.approx([1 / (2**0.5 + 1e-4)] * 4)
    assert (logged["rrm/groups_in_update"], logged["agentv/groups_in_update"]) == (0.0, 2.0)
    assert (logged["rrm/best"], logged["groups/resampled"]) == (0.4, 1.0)


def reviewed(passed: bool) -> Trajectory:
    done: Any = {"role": "forward_verifier", "stop_reason": StopReason.COMPLETED, "verdict": Verdict(passed=passed)}
    return Trajectory(turns=(Turn(stage="verdict", prompt=(), content="x", completion_tokens=4),), **done)


def test_real_metrics_stand_under_the_recipes_names():
    """Verifier: one right of two, ±1. Pool: 0 and 1 first, nothing refined yet. In common: mean of 1, -1, 0, 1."""
    func = on_all([*verifiers(2), *judges(2), *problems(1)], AROUND, job(ALL))(NO_POLICY, END)
    prompt: Any = verifiers(1)[0].prompt
    judge: Any = judges(1)[0].prompt
    problem: Any = problems(1)[0].prompt
    turns = (Turn(stage="solve", prompt=(), content="1", completion_tokens=3),)
    pool = Pool(problem, (Answer(turns, 0.0, None, 0.0), Answer(turns, 1.0, None, 1.0)))
    gone = Trajectory(role="judge", stop_reason=StopReason.ERROR, error=ErrorInfo(kind="ModelError", message="gone"))
    groups = [
        MixedGroup("agentv", Group(prompt, (reviewed(True), reviewed(False)), (1.0, -1.0))),
        MixedGroup("reagent_u", pool),
        MixedGroup("rrm", Group(judge, (gone, gone), (None, None))),
    ]
    m = func.metrics(groups, groups[:1])
    assert (m["agentv/reward/mean"], m["agentv/rollouts/completed"], m["agentv/tokens/completion"]) == (0.0, 1.0, 4.0)
    assert (m["reagent_u/rule/first"], m["reagent_u/reward/mean"], m["reagent_u/tokens/completion"]) == (0.5, 0.5, 3.0)
    assert (m["agentv/groups_in_update"], m["reagent_u/groups_in_update"], m["rrm/groups_in_update"]) == (1.0, 0.0, 0.0)
    assert m["reward/mean"] == 0.25 and not {"rule/first", "verdict/base_rate", "rrm/reward/mean"} & m.keys()
    assert [g.failures for g in groups] == [[], [], ["gone", "gone"]]


# --- recipes ----------------------------------------------------------------------------------------------------------


def no_tools() -> AbstractAsyncContextManager[dict[str, Any]]:
    return nullcontext({})


AROUND = Around(VerifierContext(), no_tools)


def job(settings: GrpoConfig) -> Job:
    return Job(Path("start"), StudentConfig(), settings, Path("out"), 0, lambda *given: None)


def test_all_recipes_are_made_as_they_are_alone():
    prompts = [*verifiers(2), *judges(3), *problems(4)]
    func: Any = on_all(prompts, AROUND, job(ALL))(NO_POLICY, END)
    assert list(func.pool) == [p.key for p in prompts]
    assert {name: (type(part), len(part.pool)) for name, part in func.parts.items()} == {
        "agentv": (ReviewRollouts, 2),
        "rrm": (ReviewRollouts, 3),
        "reagent_u": (ReagentRollouts, 4),
    }
    assert func.parts["reagent_u"].refines
    assert func.scales == {"agentv": "group", "rrm": "batch", "reagent_u": "group"}
    assert func.shares == {"agentv": 2.0, "rrm": 1.0, "reagent_u": 1.0}


def test_a_recipe_by_itself_is_no_mixture():
    for text in ("rrm", "rrm:3", " rrm "):
        assert recipe_of(GrpoConfig(recipe=text)) is RECIPES["rrm"]
    assert recipe_of(ALL) is MIXED and MIXED.scale == "none"  # divided here, not by TRL


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("agentv", {"agentv": 1.0}),
        ("rrm,agentv", {"rrm": 1.0, "agentv": 1.0}),
        ("agentv:2,rrm:1,reagent_u:1", {"agentv": 2.0, "rrm": 1.0, "reagent_u": 1.0}),
        (" agentv : 0.5 , reagent_r ", {"agentv": 0.5, "reagent_r": 1.0}),
    ],
)
def test_shares_are_read(text: str, shares: dict[str, float]):
    assert recipe_shares(text) == shares
    made = GrpoConfig(recipe=text, num_generations=3)
    assert list(made.recipes) == list(shares) and made.refines is ("reagent_u" in shares)
    assert made.group_rows == (6 if "reagent_u" in shares else 3)
    assert made.judged is bool({"reagent_u", "reagent_r"} & shares.keys())


@pytest.mark.parametrize(
    "text",
    [
        *("''", "ppo", "agentv,", "agentv;rrm", "agentv:2,ppo:1", "agentv,agentv:2", "agentv:1:2"),
        *("agentv:", "agentv:0", "agentv:0.0", "agentv:-1", "agentv:x", "agentv:nan", "agentv:inf", "agentv:1e2"),
    ],
)
def test_bad_shares_are_one_line(text: str):
    with pytest.raises(ConfigError, match=r"grpo\.recipe: should be agentv, rrm, reagent_r, reagent_u") as raised:
        load_config(None, [f"grpo.recipe={text}"])
    assert "\n" not in str(raised.value)


def test_both_reagents_at_once_are_refused():
    with pytest.raises(ConfigError, match="reagent_r or reagent_u, not both") as raised:
        load_config(None, ["grpo.recipe=reagent_r:1,agentv:1,reagent_u:1"])
    assert "\n" not in str(raised.value)


def test_what_is_trained_has_to_be_taught():
    """Answering needs no lesson, so that the solver is not among what is lacking."""
    with pytest.raises(ConfigError, match=r"give mixture\.weights judge$") as raised:
        load_config(None, ["grpo.recipe=agentv:2,rrm:1,reagent_u:1"])
    assert "\n" not in str(raised.value)
    weights = "mixture.weights={forward_verifier: 1, backward_verifier: 1, judge: 0.5}"
    assert load_config(None, ["grpo.recipe=agentv:2,rrm:1,reagent_u:1", weights]).grpo.shares["agentv"] == 2.0
    assert load_config(None, ["grpo.recipe=reagent_u"]).grpo.recipes == ("reagent_u",)
    assert load_config(None, ["grpo.recipe=agentv:1,rrm:1", "grpo.steps=0"]).grpo.steps == 0
