"""Reading grants: their terms, and what became of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_server.domain.operation import GrantTerms
from holdfast_server.domain.rebuild import Rebuilt
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor, Database, fetch_all, fetch_one
from holdfast_server.ledger.histories import snapshot_of
from holdfast_server.ledger.records import GrantPlace, RecordedGrant
from holdfast_server.ledger.sql import QUERIES

#: Entries of an account that are added up, which takes a tenth of a second. Where it has more, the
#: snapshot of its tree stands for those before it.
SUMMED_ENTRIES_MAX: Final = 20_000


@dataclass(slots=True)
class _Standing:
    """What is known of an account's grants up to an entry: at first nothing, before the first."""

    seq: int = 0
    event_ms: int = 0
    #: What is left and what is held of each grant that has either.
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Those that are not effective yet, of which no entry has told anything.
    pending: set[str] = field(default_factory=set)


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

        `before` is the `place` of the last grant of the page before. The figures are what the
        entries of the account add up to.
        """
        before_ms, before_id = before or (None, None)
        async with self.reading(tenant) as cursor:
            page = await fetch_all(
                cursor,
                QUERIES["list_grants"],
                tenant=tenant,
                account=account,
                credit_type=credit_type,
                before_ms=before_ms,
                before_id=before_id,
                limit=limit,
            )
            standing = await _standing(cursor, tenant, account, _credit_types(page))
            return await _recorded(cursor, tenant, account, page, standing)

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


def _credit_types(page: Sequence[rows.Row]) -> list[str]:
    return sorted({row["credit_type"] for row in page})


async def _standing(
    cursor: Cursor, tenant: str, account: str, credit_types: Sequence[str]
) -> _Standing:
    """As far as somebody has added up already, where that is worth to be asked for."""
    whose = {"tenant": tenant, "account": account}
    counted = await fetch_one(cursor, QUERIES["count_entries"], credit_types=credit_types, **whose)
    if counted is None or counted["entries"] <= SUMMED_ENTRIES_MAX:
        return _Standing()
    found = await fetch_one(cursor, QUERIES["get_account"], **whose)
    rebuilt = await snapshot_of(cursor, (tenant, found["root"])) if found else None
    return _standing_of(rebuilt, account) if rebuilt else _Standing()


def _standing_of(rebuilt: Rebuilt, account: str) -> _Standing:
    standing = _Standing(rebuilt.seq, rebuilt.event_ms)
    state = rebuilt.tree.accounts.get(account)
    for credit in state.credits.values() if state else ():
        for grant in credit.grants:
            standing.left[grant.grant_id] = grant.remaining, grant.held
        standing.pending.update(grant.grant_id for grant in credit.pending)
    return standing


async def _recorded(
    cursor: Cursor, tenant: str, account: str, page: Sequence[rows.Row], standing: _Standing
) -> list[RecordedGrant]:
    which = {
        "tenant": tenant,
        "account": account,
        "credit_types": _credit_types(page),
        "grant_ids": [row["grant_id"] for row in page],
    }
    place = {"behind_seq": standing.seq, "behind_ms": standing.event_ms}
    behind = await fetch_all(cursor, QUERIES["grants_behind"], **which, **place)
    changes = {row["grant_id"].hex: (row["remaining"], row["held"]) for row in behind}
    ended = await fetch_all(cursor, QUERIES["grants_ended"], **which)
    lost = {row["grant_id"].hex: (row["expired"], row["revoked"]) for row in ended}
    return [_grant(row, standing, changes, lost) for row in page]


def _grant(
    row: rows.Row,
    standing: _Standing,
    changes: Mapping[str, tuple[int, int]],
    lost: Mapping[str, tuple[int, int]],
) -> RecordedGrant:
    grant_id = row["grant_id"].hex
    remaining, held = standing.left.get(grant_id, (0, 0))
    is_new = row["first_seq"] > standing.seq
    if grant_id in changes:
        more, more_held = changes[grant_id]
        remaining, held = remaining + more, held + more_held
    elif is_new or grant_id in standing.pending:
        # It is not effective yet, and no entry says so.
        remaining = row["amount"]
    expired, revoked = lost.get(grant_id, (0, 0))
    figures = {"remaining": remaining, "held": held, "expired": expired, "revoked": revoked}
    burned = row["amount"] - sum(figures.values())
    return rows.recorded_grant({**row, **figures, "burned": burned})
