"""What time it should be in the hot store, whatever its clock shows."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from holdfast_server.engine.scripts import constants
from holdfast_server.engine.store_clock import JUMP_MS_MAX, StoreClock

HOUR_MS = 3_600_000


@dataclass
class Machine:
    """A machine with two clocks, and the store's clock."""

    steady_ms: int = 1_000_000
    wall_ms: int = 1_700_000_000_000
    store_ms: int = 1_700_000_000_000

    def __post_init__(self) -> None:
        self.clock = StoreClock(lambda: self.steady_ms, lambda: self.wall_ms)

    def look(self) -> int:
        """How far the store is ahead of what is expected after a look."""
        self.clock.saw([self.store_ms])
        return self.store_ms - self.clock.expected_ms()

    def wait(self, ms: int) -> None:
        self.steady_ms += ms
        self.wall_ms += ms
        self.store_ms += ms


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_nothing_is_expected_before_the_first_look(machine: Machine) -> None:
    assert machine.clock.expected_ms() == 0


@pytest.mark.parametrize("wrong_ms", [0, HOUR_MS, -HOUR_MS])
def test_a_wrong_clock_of_the_machine_changes_nothing(machine: Machine, wrong_ms: int) -> None:
    machine.wall_ms += wrong_ms
    assert machine.look() == 0
    machine.wait(HOUR_MS)
    assert machine.store_ms == machine.clock.expected_ms()
    assert machine.look() == 0
    assert not machine.clock.is_suspect


@pytest.mark.parametrize("ms", [JUMP_MS_MAX, -JUMP_MS_MAX, -HOUR_MS])
def test_small_steps_and_steps_back_are_followed(machine: Machine, ms: int) -> None:
    machine.look()
    machine.store_ms += ms
    assert machine.look() == 0


def check_that_an_hour_ahead_is_not_followed(machine: Machine) -> None:
    """Until it is taken back."""
    machine.store_ms += HOUR_MS
    for _ in range(3):
        assert machine.look() == HOUR_MS
        assert machine.clock.is_suspect
        machine.wait(JUMP_MS_MAX)
    machine.store_ms -= HOUR_MS
    assert machine.look() == 0
    assert not machine.clock.is_suspect


def test_a_jump_ahead_is_not_followed_until_it_is_taken_back(machine: Machine) -> None:
    machine.look()
    check_that_an_hour_ahead_is_not_followed(machine)


@pytest.mark.parametrize("wrong_ms", [0, -HOUR_MS])
def test_a_store_ahead_of_everybody_is_not_believed_at_first(
    machine: Machine, wrong_ms: int
) -> None:
    """Even if this machine's clock is wrong, or the other one."""
    machine.clock.hear(machine.wall_ms)
    machine.wall_ms += wrong_ms
    check_that_an_hour_ahead_is_not_followed(machine)


def test_before_the_first_look_the_later_of_the_others_counts(machine: Machine) -> None:
    machine.clock.hear(machine.wall_ms - HOUR_MS)
    assert machine.clock.expected_ms() == machine.wall_ms
    machine.clock.hear(machine.wall_ms + HOUR_MS)
    assert machine.clock.expected_ms() == machine.wall_ms + HOUR_MS


@pytest.mark.parametrize("other_ms", [HOUR_MS, -HOUR_MS])
def test_one_other_that_agrees_is_enough(machine: Machine, other_ms: int) -> None:
    machine.clock.hear(machine.wall_ms + other_ms)
    assert machine.look() == 0
    assert not machine.clock.is_suspect


def test_a_store_that_is_behind_is_believed(machine: Machine) -> None:
    machine.clock.hear(machine.wall_ms)
    machine.store_ms -= HOUR_MS
    assert machine.look() == 0
    assert not machine.clock.is_suspect


def test_a_jump_to_the_time_of_the_machine_is_a_correction(machine: Machine) -> None:
    machine.store_ms -= HOUR_MS
    machine.look()
    machine.store_ms += HOUR_MS
    assert machine.look() == 0
    assert not machine.clock.is_suspect


def test_one_server_that_jumped_does_not_take_the_others_along(machine: Machine) -> None:
    machine.clock.saw([machine.store_ms, machine.store_ms])
    machine.clock.saw([machine.store_ms + HOUR_MS, machine.store_ms])
    assert machine.clock.is_suspect
    assert machine.clock.expected_ms() == machine.store_ms


def test_the_scripts_have_the_same_bound() -> None:
    assert int(constants()["CLOCK_JUMP_MS"]) == JUMP_MS_MAX
