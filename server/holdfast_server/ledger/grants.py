"""Reading grants: their terms, and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from holdfast_server.domain.operation import GrantTerms
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.records import GrantPlace, RecordedGrant
from holdfast_server.ledger.sql import QUERIES


class Grants(Database):
    """The grants that the ledger knows."""

    async def list_grants(
        self,
        tenant: str,
        account: str,
        *,
        credit_type: str | None = None,
        limit: int,
        before: GrantPlace | None = None,
    ) -> list[RecordedGrant]:
        """A page of an account's grants, spent ones included, newest first.

        `before` is the `place` of the last grant of the page before. The figures are sums over the
        entries of the account.
        """
        before_ms, before_id = before or (None, None)
        async with self.reading(tenant) as cursor:
            found = await fetch_all(
                cursor,
                QUERIES["list_grants"],
                tenant=tenant,
                account=account,
                credit_type=credit_type,
                before_ms=before_ms,
                before_id=before_id,
                limit=limit,
            )
        return [rows.recorded_grant(row) for row in found]

    async def find_grant(self, tenant: str, account: str, grant_id: str) -> str | None:
        """The credit type of a grant, spent or not; None where the account never had it."""
        async with self.reading(tenant) as cursor:
            found = await fetch_one(
                cursor, QUERIES["grant_terms_by_id"], tenant=tenant, grant_ids=[grant_id]
            )
        return found["credit_type"] if found and found["account"] == account else None


async def grant_terms_by_id(
    cursor: Cursor, tenant: str, grant_ids: Collection[str]
) -> Mapping[str, GrantTerms]:
    """Terms of grants by their id, inside a transaction that is already open."""
    found = await fetch_all(
        cursor, QUERIES["grant_terms_by_id"], tenant=tenant, grant_ids=list(grant_ids)
    )
    return {row["grant_id"].hex: rows.grant_terms(row) for row in found}
