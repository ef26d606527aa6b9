"""A hot store that may delete balances, or has: looked for now and then, and kept apart until then.

While the policy is wrong every partition is fenced, with a reason of its own in the ledger. So also
a coordinator that knows nothing of it does not take such a store at its word afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from holdfast_server.engine.evictions import read_evictions
from holdfast_server.engine.fences import Seen
from holdfast_server.engine.store import Store
from holdfast_server.ledger.recovery import Standing

#: Seconds between two looks.
LOOK_SECONDS: Final = 10.0
#: Why partitions are fenced meanwhile.
WHY: Final = "eviction"


@dataclass(frozen=True, slots=True)
class Danger:
    """What a look found."""

    #: The policy under which it may delete balances; empty where it may not.
    policy: str = ""
    #: It has deleted keys since it was last looked at, whatever its policy is now.
    has_evicted: bool = False
    #: It has deleted keys since it started.
    ever_evicted: bool = False

    def __bool__(self) -> bool:
        return bool(self.policy) or self.has_evicted

    def spoils(self, standing: Standing, seen: Seen) -> bool:
        """Whether what the store has of a partition may lack keys.

        Where that was fenced for the policy, only a server that has been the same all the time, and
        has deleted nothing, is taken at its word.
        """
        if standing.why != WHY:
            return self.has_evicted
        return self.ever_evicted or seen.armed_for != seen.replid


class EvictionWatch:
    """Remembers what was found before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._due = 0.0
        self._keys = -1
        #: Keys have gone, and nobody has done anything about it yet.
        self._has_evicted = False

    async def finds_something(self) -> bool:
        """Looks where it is time to. Raises STORE_UNAVAILABLE."""
        if time.monotonic() < self._due:
            return False
        return bool(await self.look())

    async def look(self) -> Danger:
        """Looks now. Raises STORE_UNAVAILABLE."""
        found = await read_evictions(self._store)
        self._due = time.monotonic() + LOOK_SECONDS
        self._has_evicted |= -1 < self._keys < found.keys
        self._keys = found.keys
        return Danger(", ".join(found.policies), self._has_evicted, found.keys > 0)

    def done(self) -> None:
        """The ledger has said of every partition why it was fenced."""
        self._has_evicted = False
