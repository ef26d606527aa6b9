"""The same seed plans the same faults, and no plan is more than a service has to bear."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import pytest

from holdfast_server.chaos.history import Attempt, Status
from holdfast_server.chaos.inject import Injector
from holdfast_server.chaos.plan import AT_ONCE_MAX, Kind, plan_faults
from holdfast_server.chaos.report import Options, make_report
from holdfast_server.chaos.stack import Stack
from holdfast_server.chaos.trial import Verdict

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


@pytest.mark.parametrize("seconds", [5.0, 9.0, 20.0])
def test_the_shortest_run_breaks_something(seconds: float) -> None:
    assert all(plan_faults(seed, seconds) for seed in range(200))


async def test_a_fault_that_breaks_nobody_is_not_done(tmp_path: Path) -> None:
    """As while the service is being started again, which another fault had ended."""
    injector = Injector(Stack(tmp_path), random.Random(1))
    for kind in (Kind.WORKER_KILL, Kind.FLUSHER_STOP, Kind.SUPERVISOR_KILL):
        await injector.inject(kind, 0.0)
    assert not injector.done


def test_a_run_that_broke_nothing_does_not_hold() -> None:
    verdict = Verdict(None, [], 0.0)
    answered = [Attempt("Burn", "k", "f", "a/0", 1.0, 2.0, Status.OK, "GRANTED", "3-1-7", 3, 7, 1)]
    options = Options(1, 5.0)
    assert make_report(options, answered, {Kind.STORE_CUT: 1}, verdict).holds
    assert not make_report(options, answered, {}, verdict).holds


def test_too_little_time_breaks_nothing() -> None:
    assert plan_faults(1, 1.0) == []
