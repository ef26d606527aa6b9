"""What goes wrong when: decided by a seed before anything starts. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Faults that last at one time.
AT_ONCE_MAX: Final = 2
#: Between two faults.
GAP_S: Final = (0.5, 2.0)
#: How long a fault lasts.
LASTS_S: Final = (0.3, 3.0)
#: How soon the kill switch must take effect; one that is on for less shows nothing.
KILL_EFFECT_S: Final = 5.0
#: Before the first fault, so that there is traffic to disturb.
CALM_S: Final = 1.0


class Target(StrEnum):
    """Who a fault is done to. One fault at a time is done to each."""

    SERVICE = "service"
    STORE = "store"
    LEDGER = "ledger"


class Kind(StrEnum):
    """What is done: the target, then what happens to it. The kill switch is turned on."""

    WORKER_KILL = "worker_kill"
    WORKER_STOP = "worker_stop"
    FLUSHER_KILL = "flusher_kill"
    FLUSHER_STOP = "flusher_stop"
    SWEEPER_KILL = "sweeper_kill"
    SUPERVISOR_KILL = "supervisor_kill"
    KILL_SWITCH = "kill_switch"
    STORE_KILL = "store_kill"
    STORE_RESTART = "store_restart"
    STORE_STOP = "store_stop"
    STORE_CUT = "store_cut"
    STORE_BLACKHOLE = "store_blackhole"
    STORE_HALF_OPEN = "store_half_open"
    STORE_DROP_REPLY = "store_drop_reply"
    STORE_DELAY = "store_delay"
    STORE_THROTTLE = "store_throttle"
    STORE_RST = "store_rst"
    LEDGER_KILL = "ledger_kill"
    LEDGER_RESTART = "ledger_restart"
    LEDGER_STOP = "ledger_stop"
    LEDGER_CUT = "ledger_cut"
    LEDGER_BLACKHOLE = "ledger_blackhole"
    LEDGER_HALF_OPEN = "ledger_half_open"
    LEDGER_DELAY = "ledger_delay"
    LEDGER_RST = "ledger_rst"

    @property
    def target(self) -> Target:
        """Who it is done to."""
        first = self.value.partition("_")[0]
        return Target(first) if first in ("store", "ledger") else Target.SERVICE


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, so many seconds after the start."""

    kind: Kind
    at_s: float
    lasts_s: float

    @property
    def ends_s(self) -> float:
        """When it is over."""
        return self.at_s + self.lasts_s


def plan_faults(seed: int, seconds: float) -> list[Fault]:
    """Faults that all end within `seconds`; the same seed plans the same.

    Every kind comes once before any comes twice. No target has two at a time, and no more than
    `AT_ONCE_MAX` last together.
    """
    source = random.Random(f"faults/{seed}")
    # The kill switch takes so long that in a short run nothing else would come behind it.
    has_time = seconds >= CALM_S + KILL_EFFECT_S + LASTS_S[1]
    kinds = [kind for kind in Kind if has_time or kind is not Kind.KILL_SWITCH]
    planned: list[Fault] = []
    deck: list[Kind] = []
    at_s = CALM_S
    while True:
        deck = deck or source.sample(kinds, len(kinds))
        kind = deck.pop()
        longer_s = KILL_EFFECT_S if kind is Kind.KILL_SWITCH else 0.0
        fault = Fault(kind, at_s, source.uniform(*LASTS_S) + longer_s)
        while _in_the_way(fault, planned):
            fault = Fault(fault.kind, fault.at_s + GAP_S[0], fault.lasts_s)
        if fault.ends_s > seconds:
            return planned
        planned.append(fault)
        at_s = fault.at_s + source.uniform(*GAP_S)


def _in_the_way(fault: Fault, planned: list[Fault]) -> bool:
    lasting = [each for each in planned if each.ends_s > fault.at_s]
    return len(lasting) >= AT_ONCE_MAX or any(
        each.kind.target is fault.kind.target for each in lasting
    )
