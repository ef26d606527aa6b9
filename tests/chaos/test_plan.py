"""The same seed plans the same faults, and no plan is more than a service has to bear."""

from __future__ import annotations

from itertools import combinations

import pytest

from holdfast_server.chaos.plan import AT_ONCE_MAX, Kind, plan_faults

SECONDS = 120.0


def test_a_seed_says_it_all() -> None:
    assert plan_faults(7, SECONDS) == plan_faults(7, SECONDS)
    assert plan_faults(7, SECONDS) != plan_faults(8, SECONDS)


@pytest.mark.parametrize("seed", range(20))
def test_faults_end_in_time_and_do_not_pile_up(seed: int) -> None:
    faults = plan_faults(seed, SECONDS)
    assert all(0 < fault.at_s < fault.ends_s <= SECONDS for fault in faults)
    for fault in faults:
        lasting = [each for each in faults if each.at_s <= fault.at_s < each.ends_s]
        assert len(lasting) <= AT_ONCE_MAX
    for one, other in combinations(faults, 2):
        apart = one.ends_s <= other.at_s or other.ends_s <= one.at_s
        assert apart or one.kind.target is not other.kind.target


@pytest.mark.parametrize("seed", range(20))
def test_every_kind_comes_in_two_minutes(seed: int) -> None:
    assert {fault.kind for fault in plan_faults(seed, SECONDS)} == set(Kind)


def test_too_little_time_breaks_nothing() -> None:
    assert plan_faults(1, 1.0) == []
