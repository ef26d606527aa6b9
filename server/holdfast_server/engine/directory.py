"""Which tree an account belongs to.

An account never changes its root, so what is known stays true.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from holdfast_server.engine.keys import Keys
from holdfast_server.engine.scripts import load
from holdfast_server.engine.store import Store
from holdfast_server.errors import HoldfastError, Reason

#: Accounts whose root one process remembers.
REMEMBERED_MAX = 200_000

Name = tuple[str, str]


class Directory:
    """Finds roots: remembered, else asked of the store, else assumed to be the account itself.

    The assumption is only remembered once the account is known to exist (`learn`), since a root of
    that name may be created below a parent later.
    """

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys
        self._roots: OrderedDict[Name, str] = OrderedDict()

    def known(self, tenant: str, account: str) -> str | None:
        """The root, if it is remembered."""
        return self._roots.get((tenant, account))

    def learn(self, tenant: str, account: str, root: str) -> None:
        """Remembers a root; forgets the one learnt longest ago when there are too many."""
        self._roots[tenant, account] = root
        if len(self._roots) > REMEMBERED_MAX:
            self._roots.popitem(last=False)

    def forget(self, tenant: str, account: str) -> None:
        """An account is not where it was said to be: its name may have been claimed anew."""
        self._roots.pop((tenant, account), None)

    async def find(self, names: Iterable[Name]) -> dict[Name, str]:
        """The roots of accounts that are not remembered. Raises STORE_UNAVAILABLE."""
        asked = list(dict.fromkeys(names))
        commands = [("GET", self._keys.whereabouts(*name)) for name in asked]
        answers = await self._store.read_all(commands) if commands else []
        found = {}
        for name, answer in zip(asked, answers, strict=True):
            found[name] = answer.decode() if answer else name[1]
            if answer:
                self.learn(*name, found[name])
        return found

    async def claim(self, tenant: str, account: str, root: str) -> None:
        """Claims a name for a tree. Raises ACCOUNT_ALREADY_EXISTS when it stands for another
        account.
        """
        holder = await self._claim(tenant, account, root, "")
        if holder not in (root, account) and not await self._exists(tenant, account, holder):
            holder = await self._claim(tenant, account, root, holder)
        if holder != root:
            message = f"the name {account} is taken; read that account or choose another name"
            raise HoldfastError(Reason.ACCOUNT_ALREADY_EXISTS, message, account=account)

    async def _claim(self, tenant: str, account: str, root: str, abandoned: str) -> str:
        keys = [self._keys.whereabouts(tenant, account), self._tree_key(tenant, account)]
        holder = await self._store.run(load("claim_account"), keys, [account, root, abandoned])
        return str(holder.decode())

    async def _exists(self, tenant: str, account: str, root: str) -> bool:
        tree = self._tree_key(tenant, root)
        return bool(await self._store.read("HEXISTS", tree, f"a{account}"))

    def _tree_key(self, tenant: str, root: str) -> str:
        partition = self._keys.partition(tenant, root)
        return self._keys.tree_keys(partition, self._keys.epoch(partition), tenant, root)[0]
