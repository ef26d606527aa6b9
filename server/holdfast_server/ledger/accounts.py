"""Reading accounts, as their newest ACCOUNT entries have them."""

from __future__ import annotations

from holdfast_server.domain.reply import Account
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Database, fetch_all, fetch_one
from holdfast_server.ledger.sql import QUERIES


class Accounts(Database):
    """The accounts that the ledger knows."""

    async def get_account(self, tenant: str, account: str) -> Account | None:
        """One account, or None."""
        async with self.reading(tenant) as cursor:
            row = await fetch_one(cursor, QUERIES["get_account"], tenant=tenant, account=account)
        return rows.account(row) if row else None

    async def list_accounts(
        self, tenant: str, *, parent: str | None = None, limit: int, after: str = ""
    ) -> list[Account]:
        """A page of accounts by id: those directly below `parent`, or all where it is None."""
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["list_accounts"],
                tenant=tenant,
                parent=parent,
                after=after,
                limit=limit,
            )
        return [rows.account(row) for row in found]
