import pytest

from agents.types import Role
from tools.errors import DataError
from train.mixed import deviation
from train.recipes import mix_roles
from train.reviews import Prompt


def prompts(forward: int, backward: int) -> list[Prompt]:
    counts: dict[Role, int] = {"forward_verifier": forward, "backward_verifier": backward}
    return [Prompt(f"{role}{i}", "p", "s", role, i % 3 == 0) for role, n in counts.items() for i in range(n)]


def test_every_stretch_holds_both_roles():
    mixed = mix_roles(prompts(10, 30), 0.5)
    assert len(mixed) == 20
    for start in range(0, 20, 2):
        assert {p.role for p in mixed[start : start + 2]} == {"forward_verifier", "backward_verifier"}


def test_share_is_kept():
    mixed = mix_roles(prompts(30, 30), 0.75)
    assert sum(p.role == "forward_verifier" for p in mixed) == 30
    assert len(mixed) == 40


def test_one_role_only():
    assert {p.role for p in mix_roles(prompts(5, 5), 1.0)} == {"forward_verifier"}


def test_a_missing_role_is_an_error():
    with pytest.raises(DataError, match="backward_verifier"):
        mix_roles(prompts(5, 0), 0.5)


def test_labels_take_turns_as_long_as_both_last():
    mixed = mix_roles(prompts(30, 30), 0.5)
    for start in range(0, 40, 4):  # 10 of 30 are true in each role
        assert sorted(p.label for p in mixed[start : start + 4]) == [False, False, True, True]
    assert not any(p.label for p in mixed[40:])


def test_the_seed_decides_the_order():
    one, same, other = (mix_roles(prompts(30, 30), 0.5, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert sorted(p.key for p in one) == sorted(p.key for p in other)


def test_rewards_of_a_mixture_are_divided_by_what_their_recipe_says():
    """stdev of 0 and 1 is 0.7071; of 0, 1, 1, 1 it is 0.5. Rewards that are all equal stay what they are."""
    spread = deviation([0.0, 1.0])
    assert abs(spread - (0.5**0.5 + 1e-4)) < 1e-9 and deviation([0.0, None, 1.0]) == spread
    assert deviation([-1.0, -1.0, None]) == deviation([1.0]) == deviation([]) == 1.0
