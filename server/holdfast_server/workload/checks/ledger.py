"""The ledger as it is, read row by row and folded into what can be compared.

Only this module of the audit speaks to Postgres.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg

from holdfast_server.workload.checks.chain import GENESIS, Row, chained

#: Rows fetched at a time.
FETCH_ROWS = 5_000

BUCKETS = ("granted", "debt", "unenforced", "available", "held", "burned", "expired", "revoked")
GRANTED, HELD, BURNED = (BUCKETS.index(name) for name in ("granted", "held", "burned"))
#: How many buckets, from the first, say where credits come from; the others say where they are.
SOURCES = 3

#: Kinds of entries, by their numbers in the protocol.
HOLD, HOLD_EXPIRED = 3, 6

SELECT = """
SELECT partition, epoch, seq, first_seq, kind, version,
    (extract(epoch FROM event_time) * 1000)::bigint, mode, ends_hold,
    ARRAY[delta_granted, delta_debt, delta_unenforced, delta_available,
          delta_held, delta_burned, delta_expired, delta_revoked],
    ARRAY[granted, debt, unenforced, available, held, burned, expired, revoked],
    hash, coalesce(replace(hold::text, '-', ''), ''), tenant, account, credit_type, actor,
    coalesce(grant_ids, '{}')::text[], coalesce(grant_changes, '{}'),
    method, idempotency_key, fingerprint, coalesce(feature, ''), coalesce(labels, '{}'),
    coalesce(caller, ''), coalesce(trace_id, ''), coalesce(span_id, ''), coalesce(reason, ''),
    coalesce(detail, '{}'), coalesce(refund_of, '')
FROM holdfast.entry
ORDER BY partition, seq
"""
SELECT_CURSORS = """
SELECT partition, epoch, last_seq, last_hash, home
FROM holdfast.flush_cursor JOIN holdfast.partition_epoch USING (partition, epoch)
"""

#: Tenant, account and credit type.
Place = tuple[str, str, str]


@dataclass(slots=True)
class Transaction:
    """All entries with one first sequence number."""

    account: str
    key: str
    method: str
    last_seq: int
    #: Sums over its entries: what HOLD entries set aside, and the changes of three buckets.
    placed: int = 0
    granted: int = 0
    held: int = 0
    burned: int = 0
    holds: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Cursor:
    """How far the ledger is in one partition."""

    epoch: int
    seq: int
    hash: bytes
    #: The epoch under whose name the partition's keys lie.
    home: int = 1


@dataclass(slots=True)
class Fold:
    """What the rows of the ledger add up to."""

    rows: int = 0
    #: The sum of all deltas, and the last version.
    sums: dict[Place, list[int]] = field(default_factory=dict)
    versions: dict[Place, int] = field(default_factory=lambda: defaultdict(int))
    transactions: dict[str, Transaction] = field(default_factory=dict)
    #: Which transactions carry a key (with its method), and which end a hold.
    keys: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: Holds that expired, by the account that placed them.
    expired_holds: Counter[str] = field(default_factory=Counter)
    conservation: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)


def read_cursors(url: str) -> dict[int, Cursor]:
    """How far the ledger is in every partition that has one."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(SELECT_CURSORS).fetchall()
    return {
        partition: Cursor(epoch, seq, bytes(digest), home)
        for partition, epoch, seq, digest, home in rows
    }


def fold_ledger(url: str, cursors: dict[int, Cursor]) -> Fold:
    """Reads every row up to the cursors once, in order, and checks each against those before it."""
    fold = Fold()
    heads: dict[int, tuple[int, bytes]] = {}
    for row in _rows(url):
        if row.partition not in cursors or row.seq > cursors[row.partition].seq:
            continue
        fold.rows += 1
        heads[row.partition] = _check_chain(fold, row, heads.get(row.partition, (0, GENESIS)))
        _check_conservation(fold, row)
        _add(fold, row)
    for partition, cursor in cursors.items():
        if heads.get(partition, (0, GENESIS)) != (cursor.seq, cursor.hash):
            fold.chain.append(f"partition {partition}: the cursor is not at the last entry")
    return fold


def _rows(url: str) -> Iterator[Row]:
    with psycopg.connect(url) as connection, connection.cursor(name="audit") as cursor:
        cursor.itersize = FETCH_ROWS
        cursor.execute(SELECT)
        for values in cursor:
            yield Row._make(values)


def _check_chain(fold: Fold, row: Row, head: tuple[int, bytes]) -> tuple[int, bytes]:
    seq, digest = head
    if row.seq != seq + 1:
        fold.chain.append(f"partition {row.partition}: {row.seq} follows {seq}")
    if chained(digest, row) != row.hash:
        fold.chain.append(f"partition {row.partition}: the hash of {row.seq} is wrong")
    return row.seq, row.hash


def _check_conservation(fold: Fold, row: Row) -> None:
    place = (row.tenant, row.account, row.credit_type)
    if not row.credit_type:
        if any(row.delta):
            fold.conservation.append(f"{place}: credits moved without a credit type")
        return
    sums = fold.sums.setdefault(place, [0] * len(BUCKETS))
    for index, change in enumerate(row.delta):
        sums[index] += change
    fold.versions[place] += 1
    if sum(row.delta[:SOURCES]) != sum(row.delta[SOURCES:]):
        fold.conservation.append(f"{place} version {row.version}: the change is not balanced")
    if sums != row.after or min(sums) < 0:
        fold.conservation.append(f"{place} version {row.version}: buckets {row.after}, sums {sums}")
    if row.version != fold.versions[place]:
        fold.conservation.append(
            f"{place}: version {row.version} follows {fold.versions[place] - 1}"
        )


def _add(fold: Fold, row: Row) -> None:
    name = f"{row.partition}-{row.epoch}-{row.first_seq}"
    transaction = fold.transactions.get(name)
    if transaction is None:
        transaction = fold.transactions[name] = Transaction(
            row.account, row.key, row.method, row.seq
        )
    transaction.last_seq = row.seq
    transaction.placed += row.delta[HELD] if row.kind == HOLD else 0
    transaction.granted += row.delta[GRANTED]
    transaction.held += row.delta[HELD]
    transaction.burned += row.delta[BURNED]
    if row.hold:
        transaction.holds.add(row.hold)
    if row.key:
        fold.keys[row.method, row.key].add(name)
    if row.ends_hold:
        fold.ends[row.hold].append(name)
        fold.expired_holds[row.actor] += row.kind == HOLD_EXPIRED
