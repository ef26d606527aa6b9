"""Which tree an account belongs to, wherever the tree is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from holdfast_server.engine.cold import Absent, Brought, Hydration, Name
from holdfast_server.engine.directory import Directory
from holdfast_server.errors import HoldfastError, Reason

Found = TypeVar("Found")

#: What a reader says of an account that is not in the tree, or whose tree is not in the store.
_NOT_THERE = frozenset({Reason.ACCOUNT_NOT_FOUND, Reason.ACCOUNT_TREE_INVALID})


@dataclass(frozen=True, slots=True)
class Roots:
    """Finds roots in the store, and in the ledger where the store does not know."""

    directory: Directory
    hydration: Hydration

    async def find(self, names: Iterable[Name]) -> Mapping[Name, str | HoldfastError]:
        """The roots of accounts that are not remembered; the account itself where nothing else is
        known. Raises STORE_UNAVAILABLE.
        """
        found = await self.directory.find(self.directory.unknown(names))
        cold = [name for name, root in found.items() if root is None]
        outcomes = await self.bring(cold) if cold else {}
        return {
            name: root if root is not None else _root(name, outcomes[name])
            for name, root in found.items()
        }

    async def root_of(self, tenant: str, account: str) -> str:
        """The root of an account. Raises LEDGER_UNAVAILABLE where only the ledger can know."""
        known = self.directory.known(tenant, account)
        root = known or (await self.find([(tenant, account)]))[tenant, account]
        if isinstance(root, HoldfastError):
            raise root
        return root

    async def bring(self, names: Iterable[Name]) -> Mapping[Name, Brought | Absent | HoldfastError]:
        """Brings trees into the store, and remembers what accounts belong to them."""
        outcomes = await self.hydration.bring(list(dict.fromkeys(names)))
        for name, outcome in outcomes.items():
            if isinstance(outcome, Brought):
                self.directory.learn(*name, outcome.root)
        return outcomes

    async def reading(self, tenant: str, root: str, read: Callable[[], Awaitable[Found]]) -> Found:
        """What `read` finds in a tree, which is brought into the store where it is not."""
        try:
            return await read()
        except HoldfastError as error:
            if error.reason not in _NOT_THERE:
                raise
            outcome = (await self.bring([(tenant, root)]))[tenant, root]
            if isinstance(outcome, HoldfastError):
                raise outcome from error
            if isinstance(outcome, Absent) or outcome.root != root:
                raise
        return await read()


def _root(name: Name, outcome: Brought | Absent | HoldfastError) -> str | HoldfastError:
    if isinstance(outcome, Absent):
        return name[1]
    return outcome.root if isinstance(outcome, Brought) else outcome
