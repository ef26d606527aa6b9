"""Which tree an account belongs to.

An account never changes its root, so what is known stays true.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from holdfast_server.engine.cold import Absent, Brought, Hydration, Name
from holdfast_server.engine.failures import fenced, ledger_behind
from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import Store
from holdfast_server.engine.tree_store import TreeStore
from holdfast_server.engine.wire import Argument
from holdfast_server.errors import HoldfastError, Reason

#: Accounts whose root one process remembers.
REMEMBERED_MAX = 200_000
#: For how long nobody else may take a name that was claimed for an account which does not exist:
#: longer than any call takes that claims it first and creates the account then.
CLAIM_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that is to be claimed for a tree, and who knows the ledger."""

    tenant: str
    account: str
    root: str
    hydration: Hydration

    async def bring(self, account: str) -> Brought | Absent:
        """What became of the tree of an account of the same tenant. Raises what prevents it."""
        name = (self.tenant, account)
        outcome = (await self.hydration.bring([name]))[name]
        if isinstance(outcome, HoldfastError):
            raise outcome
        return outcome


class Directory:
    """Finds roots: remembered, else asked of the store, else assumed to be the account itself.

    The assumption is only remembered once the account is known to exist (`learn`), since a root of
    that name may be created below a parent later.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys
        self._trees = TreeStore(store, keys)
        self._roots: OrderedDict[Name, str] = OrderedDict()

    def known(self, tenant: str, account: str) -> str | None:
        """The root, if it is remembered."""
        return self._roots.get((tenant, account))

    def unknown(self, names: Iterable[Name]) -> list[Name]:
        """Those whose root is not remembered."""
        return [name for name in names if name not in self._roots]

    def learn(self, tenant: str, account: str, root: str) -> None:
        """Remembers a root; forgets the one learnt longest ago when there are too many."""
        self._roots[tenant, account] = root
        if len(self._roots) > REMEMBERED_MAX:
            self._roots.popitem(last=False)

    def forget(self, tenant: str, account: str) -> None:
        """An account is not where it was said to be: its name may have been claimed anew."""
        self._roots.pop((tenant, account), None)

    async def find(self, names: Iterable[Name]) -> dict[Name, str | None]:
        """The roots of accounts that are not remembered; None where the ledger may know one that
        the store does not. Raises STORE_UNAVAILABLE.
        """
        found: dict[Name, str | None] = {}
        for name, each in (await self._trees.look(list(dict.fromkeys(names)))).items():
            if each.root:
                self.learn(*name, each.root)
            assumed = None if each.cold_floor is not None and not each.is_stored else name[1]
            found[name] = each.root or assumed
        return found

    async def claim(self, tenant: str, account: str, root: str, hydration: Hydration) -> None:
        """Claims a name for a tree. Raises ACCOUNT_ALREADY_EXISTS when it stands for another
        account.
        """
        claim = Claim(tenant, account, root, hydration)
        holder = await self._claim(claim, "")
        if holder not in (root, account) and not await self._exists(claim, holder):
            holder = await self._claim(claim, holder)
        if holder != root:
            message = f"the name {account} is taken; read that account or choose another name"
            raise HoldfastError(Reason.ACCOUNT_ALREADY_EXISTS, message, account=account)

    async def _claim(self, claim: Claim, abandoned: str) -> str:
        """Who holds the claim now. Where the ledger may know the name, it is asked first."""
        holder = await self._run_claim(claim, abandoned, -1)
        if holder:
            return holder
        outcome = await claim.bring(claim.account)
        if isinstance(outcome, Brought):
            return outcome.root
        holder = await self._run_claim(claim, abandoned, outcome.read_to)
        if not holder:
            raise ledger_behind()
        return holder

    async def _run_claim(self, claim: Claim, abandoned: str, absent_to: int) -> str:
        name = (claim.tenant, claim.account)
        epoch = self._keys.epoch(self._keys.partition(*name))
        state, tree = self._root_keys(*name)
        keys = [self._keys.whereabouts(*name), tree, state, self._keys.claimed(*name)]
        what: list[Argument] = [claim.account, claim.root, abandoned, absent_to, CLAIM_MS, epoch]
        why, holder = await self._store.run(load("claim_account"), keys, what)
        if why:
            raise fenced()
        return str(holder.decode())

    async def _exists(self, claim: Claim, root: str) -> bool:
        outcome = await claim.bring(root)
        tree = self._root_keys(claim.tenant, root)[1]
        found, is_there = await self._store.read("HMGET", tree, f"a{claim.account}", f"a{root}")
        if is_there is None and (isinstance(outcome, Brought) or outcome.read_to < 0):
            # It has left in between, or is in a store that is not armed yet: what neither shows
            # says nothing.
            raise ledger_behind()
        return found is not None

    def _root_keys(self, tenant: str, root: str) -> tuple[str, str]:
        """The state and the tree of a name, if it is that of a root."""
        partition = self._keys.partition(tenant, root)
        epoch = self._keys.epoch(partition)
        tree, _ = self._keys.tree_keys(partition, epoch, tenant, root)
        return self._keys.state(partition, epoch), tree
