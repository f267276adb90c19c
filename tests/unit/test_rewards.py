from agents.types import ErrorInfo, StopReason, Trajectory, Verdict
from train.rewards import is_live, verdict_reward


def ended(stop: StopReason, passed: bool | None = None) -> Trajectory:
    verdict = None if passed is None else Verdict(passed=passed)
    error = ErrorInfo(kind="ModelError", message="down") if stop is StopReason.ERROR else None
    return Trajectory(role="forward_verifier", stop_reason=stop, verdict=verdict, error=error)


def test_verdict_reward_is_plus_or_minus_one():
    for passed in (True, False):
        for label in (True, False):
            assert verdict_reward(ended(StopReason.COMPLETED, passed), label) == (1.0 if passed == label else -1.0)


def test_no_verdict_is_the_policys_own_doing():
    for stop in (StopReason.UNPARSED, StopReason.LENGTH, StopReason.MAX_TURNS, StopReason.MAX_TOOL_CALLS):
        assert verdict_reward(ended(stop), True) == -1.0


def test_an_outage_is_not_a_reward():
    assert verdict_reward(ended(StopReason.ERROR), True) is None
    assert verdict_reward(ended(StopReason.ERROR), False) is None


def test_live_groups_single_success_and_single_failure_are_kept():
    assert is_live([1.0, -1.0, -1.0, -1.0])
    assert is_live([1.0, 1.0, 1.0, -1.0])


def test_dead_groups_all_equal_whatever_the_value():
    assert not is_live([1.0] * 4)
    assert not is_live([-1.0] * 4)


def test_outages_do_not_make_a_group_live():
    assert not is_live([1.0, None, 1.0])
    assert not is_live([None, None])
    assert is_live([None, 1.0, -1.0])
