"""Trees that are not in the hot store and may be in the ledger: what the engine asks for, and why.

The engine knows no ledger. Whoever does (control/hydration.py) brings trees when it is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast_server.errors import HoldfastError

#: Tenant, and an account or a root.
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Brought:
    """The tree that an account belongs to is in the hot store."""

    root: str


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such account: not in the hot store, nor in the ledger up to a sequence number of
    the partition that its name has as a root. The scripts judge whether that is recent enough.
    """

    read_to: int


Outcome = Brought | Absent | HoldfastError


class Hydration(Protocol):
    """Brings trees from the ledger into the hot store."""

    async def bring(self, names: Sequence[Name]) -> Mapping[Name, Outcome]:
        """What became of the trees of some accounts.

        An error is FENCED for a tree that somebody removed by hand, OVERLOADED where too many wait,
        LEDGER_UNAVAILABLE, or one of the store's.
        """
        ...
