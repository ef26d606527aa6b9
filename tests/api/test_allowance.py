"""The rate of one tenant."""

from __future__ import annotations

import pytest

from holdfast_server.api.allowance import BURST_NS, TENANTS_MAX, Allowance
from holdfast_server.errors import HoldfastError, Reason

SECOND_NS = 1_000_000_000


class Clock:
    """Nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def refused_for_ms(allowance: Allowance, tenant: str, operations: int) -> int:
    """After how long the refused charge would fit."""
    with pytest.raises(HoldfastError) as caught:
        allowance.charge(tenant, operations)
    assert caught.value.reason is Reason.RATE_LIMITED
    return int(caught.value.metadata["retry_after_ms"])


def test_no_rate_is_no_limit() -> None:
    allowance = Allowance(0, Clock())
    allowance.charge("t", 10**9)
    allowance.check("t")


def test_the_rate_holds_over_time() -> None:
    clock = Clock()
    allowance, passed = Allowance(100, clock), 0
    for _ in range(10_000):
        clock.now_ns += SECOND_NS // 1_000
        try:
            allowance.charge("t", 1)
        except HoldfastError:
            continue
        passed += 1
    most = 100 * (10 + BURST_NS // SECOND_NS)
    assert most - 2 <= passed <= most


def test_waiting_as_told_is_enough() -> None:
    clock = Clock()
    allowance = Allowance(100, clock)
    allowance.charge("t", 200)
    clock.now_ns += refused_for_ms(allowance, "t", 50) * 1_000_000
    allowance.charge("t", 50)


def test_a_batch_above_the_burst_passes_and_is_worked_off() -> None:
    clock = Clock()
    allowance = Allowance(100, clock)
    allowance.charge("t", 1_000)
    clock.now_ns += 9 * SECOND_NS
    assert refused_for_ms(allowance, "t", 1_000) == 1_001
    clock.now_ns += 2 * SECOND_NS
    allowance.charge("t", 1_000)


def test_a_refused_charge_costs_nothing() -> None:
    clock = Clock()
    allowance = Allowance(100, clock)
    allowance.charge("t", 200)
    assert refused_for_ms(allowance, "t", 1) == refused_for_ms(allowance, "t", 1)


def test_tenants_are_forgotten_not_collected_for_ever() -> None:
    allowance = Allowance(1, Clock())
    for number in range(TENANTS_MAX + 1):
        allowance.charge(f"t{number}", 2)
    allowance.charge("t0", 2)
    refused_for_ms(allowance, f"t{TENANTS_MAX}", 2)
