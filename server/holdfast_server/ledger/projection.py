"""What the ledger derives from entries as they are recorded: terms of grants, and accounts.

Both are written in the transaction of their entries, so they are never ahead nor behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg.types.json import Jsonb

from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.operation import GrantSource
from holdfast_server.domain.terms import account_terms
from holdfast_server.ledger import rows
from holdfast_server.ledger.database import Cursor
from holdfast_server.ledger.sql import QUERIES

#: Kinds of entries that something is derived from. A REFUND may carry a goodwill grant.
KINDS: Final = frozenset({EntryKind.ACCOUNT, EntryKind.GRANT, EntryKind.REFUND})

#: Where the detail of a REFUND lists the grants it might make.
GOODWILL: Final = "goodwill"


class DetailError(ValueError):
    """The detail of an entry lacks what its kind must have."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What follows from some entries, as parameters of the statements that write it."""

    grants: Sequence[Mapping[str, object]]
    accounts: Sequence[Mapping[str, object]]


#: What follows from most entries.
NOTHING: Final = Projection((), ())


def project(entries: Sequence[Entry]) -> Projection:
    """What follows from the entries. Raises DetailError for an entry without its terms."""
    grants = [_grant(entry, terms) for entry in entries for terms in _grants_of(entry)]
    accounts = [_account(entry) for entry in entries if entry.kind is EntryKind.ACCOUNT]
    return Projection(grants, accounts)


async def write(cursor: Cursor, projection: Projection) -> None:
    """Writes it, in the transaction of the entries. Grants plainly: one that exists is a fork."""
    if projection.grants:
        await cursor.executemany(QUERIES["insert_grant_terms"], projection.grants)
    if projection.accounts:
        await cursor.executemany(QUERIES["upsert_account"], projection.accounts)


def _grants_of(entry: Entry) -> Iterable[Mapping[str, Any]]:
    if entry.kind is EntryKind.GRANT:
        yield entry.context.detail
    elif entry.kind is EntryKind.REFUND and (goodwill := entry.context.detail.get(GOODWILL)):
        yield from _goodwill(entry, goodwill)


def _goodwill(entry: Entry, made: Any) -> Iterable[Mapping[str, Any]]:
    """Every entry of a refund names all grants that it may make; the one that posts to a grant gave
    it.
    """
    if not isinstance(made, list | tuple):
        raise DetailError("goodwill is no list")
    given = {posting.grant_id: posting.remaining for posting in entry.grants}
    for each in made:
        if (amount := given.get(each.get("grant_id"), 0)) > 0:
            yield _goodwill_terms(entry, each, amount)


def _goodwill_terms(entry: Entry, made: Mapping[str, Any], amount: int) -> Mapping[str, Any]:
    """What a refund gave anew: it burns like a promotion, and lives as long as the refund said."""
    try:
        ttl_ms = made["ttl_ms"]
        return {
            "grant_id": made["grant_id"],
            "credit_type": entry.credit_type,
            "amount": amount,
            "source": int(GrantSource.REFUND),
            "priority": 0,
            "effective_at_ms": entry.event_ms,
            "expires_at_ms": entry.event_ms + ttl_ms if ttl_ms else 0,
            "cost_amount": 0,
            "cost_currency": "",
            "reason_code": entry.context.reason,
            "repay_debt": True,
            "labels": {},
            "issuer": made["issuer"],
        }
    except (KeyError, TypeError) as error:
        raise DetailError(f"a refund's new grant lacks {error}") from error


def _grant(entry: Entry, terms: Mapping[str, Any]) -> dict[str, object]:
    copied = (
        "grant_id",
        "credit_type",
        "amount",
        "source",
        "priority",
        "cost_amount",
        "cost_currency",
        "reason_code",
        "repay_debt",
        "issuer",
    )
    try:
        return {name: terms[name] for name in copied} | {
            "tenant": entry.tenant,
            "account": entry.account,
            "effective_at": rows.instant(terms["effective_at_ms"] or entry.event_ms),
            "expires_at": rows.instant(terms["expires_at_ms"]),
            "labels": Jsonb(terms["labels"]),
            "granted_at": rows.instant(entry.event_ms),
            "partition": entry.partition,
            "epoch": entry.epoch,
            "first_seq": entry.first_seq,
        }
    except (KeyError, TypeError, OverflowError) as error:
        raise DetailError(f"a grant's terms lack {error}") from error


def _account(entry: Entry) -> dict[str, object]:
    detail: dict[str, Any] = dict(entry.context.detail)
    try:
        account_terms(detail)
        # Only the store's clock counts, so the request that creates an account cannot say when.
        detail["created_at_ms"] = detail["created_at_ms"] or entry.event_ms
        return {
            "tenant": entry.tenant,
            "account": entry.account,
            "root": detail["root"],
            "parent": detail["parent"],
            "version": detail["version"],
            "partition": entry.partition,
            "terms": Jsonb(detail),
        }
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DetailError(f"an account's terms lack {error}") from error
