"""Whether the hot store may delete balances to make room, as its primaries say in INFO.

CONFIG would say it too, and is forbidden where stores are managed by others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast_server.engine.store import Store

#: The only policy under which a full store refuses instead of deleting.
POLICY: Final = "noeviction"
#: What to do where it is another one.
ADVICE: Final = (
    f"CONFIG SET maxmemory-policy {POLICY}, and in its configuration: it may delete balances"
)


@dataclass(frozen=True, slots=True)
class Evictions:
    """What the primaries said."""

    #: Their policies other than the one that is right.
    policies: tuple[str, ...]
    #: Keys that they have deleted to make room since they started.
    keys: int


async def read_evictions(store: Store) -> Evictions:
    """Asks every primary. Raises STORE_UNAVAILABLE."""
    found = await store.information("memory", "stats")
    policies = {str(each.get("maxmemory_policy", POLICY)) for each in found}
    keys = sum(int(each.get("evicted_keys", 0)) for each in found)
    return Evictions(tuple(sorted(policies - {POLICY})), keys)
