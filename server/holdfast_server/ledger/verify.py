"""Verification: whether the ledger still is what was recorded, by nothing but its own rows.

The checks are pure functions of entries in order, so that an export can be verified offline with
the same code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

from psycopg import DataError

from holdfast_server.domain.checkpoint import Tip, Vouched
from holdfast_server.domain.entry import GENESIS_HASH, Entry, EntryKind, chain_hash
from holdfast_server.domain.rebuild import Follows
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger import rows
from holdfast_server.ledger.additions import additions
from holdfast_server.ledger.database import EVERY_TENANT, Cursor, fetch_all, fetch_one
from holdfast_server.ledger.hold_check import HoldCheck
from holdfast_server.ledger.projection_check import ProjectionCheck
from holdfast_server.ledger.records import RecordedEntry, VerifyReport, Violation
from holdfast_server.ledger.snapshot_check import Judged, SnapshotCheck
from holdfast_server.ledger.snapshots import Snapshots, snapshots_in
from holdfast_server.ledger.sql import QUERIES

#: Violations that are reported; the first ones say what is wrong.
VIOLATIONS_MAX: Final = 100
#: Rows that the database hands over at a time.
FETCH_ROWS: Final = 1_000

#: What is raised where something is read or hashed that cannot have been recorded as it is.
UNREADABLE: Final = (
    ArithmeticError,
    AttributeError,
    DataError,
    RecursionError,
    TypeError,
    ValueError,
)

#: Hears the partition and the number of entries checked so far in all.
OnProgress = Callable[[int, int], None]

_DEBT_KINDS: Final = frozenset(
    {
        EntryKind.HOLD,
        EntryKind.BURN,
        EntryKind.OVERAGE,
        EntryKind.LATE_COMMIT,
        EntryKind.RECOVERED_COMMIT,
    }
)
_UNENFORCED_KINDS: Final = _DEBT_KINDS | {EntryKind.UNENFORCED}


class UnreadableEntry(Exception):
    """A row of the ledger is no entry. The text says which."""


@dataclass(slots=True)
class PartitionCheck:
    """Checks the entries of one partition, given one by one in order."""

    partition: int
    vouched: Vouched = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    entries: int = 0
    _epoch: int = 1
    _seq: int = 0
    _hash: bytes = GENESIS_HASH
    #: Version, time and buckets of the last entry of each account and credit type.
    _balances: dict[tuple[str, str, str], tuple[int, int, Buckets]] = field(default_factory=dict)
    _holds: HoldCheck = field(default_factory=HoldCheck)

    def read(self, row: rows.Row) -> RecordedEntry | None:
        """Takes the next entry as the ledger has it; answers it where it is one."""
        time: datetime = row["event_time"]
        if time.microsecond % 1_000:
            # An entry has none of that, so the chain would not see it.
            self._note("chain", row["seq"], f"the time {time} is not one of whole milliseconds")
        if row["changes_begin"] != 1:
            # Nor does it see where a list begins.
            self._note("chain", row["seq"], "the changes of grants are not in their places")
        try:
            recorded = rows.recorded_entry(row)
        except UNREADABLE as error:
            self._pass_over(Tip(self.partition, row["epoch"], row["seq"], row["hash"]), error)
            return None
        return recorded if self.add(recorded) else None

    def add(self, recorded: RecordedEntry) -> bool:
        """Takes the next entry; answers whether it is one. What cannot be hashed is none."""
        entry = recorded.entry
        tip = Tip(self.partition, entry.epoch, entry.seq, recorded.hash)
        try:
            digest = chain_hash(self._hash, entry)
        except UNREADABLE as error:
            self._pass_over(tip, error)
            return False
        self._move_to(tip)
        if digest != recorded.hash:
            message = "the hash is not that of the entry and the hash before"
            self._note("chain", entry.seq, message)
        self._check_conservation(entry)
        self._check_version(entry)
        for message in self._holds.add(entry):
            self._note("hold", entry.seq, message)
        return True

    def note_unread(self, error: Exception) -> None:
        """Notes that nothing more can be read: the driver does not know what to make of a row."""
        message = f"what follows this entry cannot be read ({type(error).__name__})"
        self._note("chain", self._seq, message)

    def finish(self) -> None:
        """Checks what can only be seen at the end: what is held, and a tail that was cut off."""
        for message in self._holds.finish():
            self._note("hold", self._seq, message)
        held = self._holds.held()
        for key, (_, _, buckets) in self._balances.items():
            if buckets.held != held[key]:
                message = f"{buckets.held} are held of {key}, and {held[key]} by its open holds"
                self._note("hold", self._seq, message)
        last = max(self.vouched, default=0)
        if last > self._seq:
            message = f"checkpoint {self.vouched[last][1]} vouches for entries up to {last}"
            self._note("checkpoint", self._seq, f"this is the last entry, but {message}")

    def compare(self, tip: Tip | None) -> None:
        """Compares the end with the cursor. A chain alone does not show a tail that was cut off."""
        if tip is None:
            self._note("cursor", self._seq, "the partition has entries but no cursor")
        elif (tip.seq, tip.hash) != (self._seq, self._hash) or tip.epoch < self._epoch:
            self._note(
                "cursor",
                self._seq,
                f"the cursor is at {tip.seq} of epoch {tip.epoch}, hash {tip.hash.hex()[:8]}; the "
                f"last entry is {self._seq} of epoch {self._epoch}, hash {self._hash.hex()[:8]}",
            )

    def note_snapshot(self, judged: Judged) -> None:
        """Notes one that never was what its entries say."""
        if judged.verdict is Follows.NO:
            (tenant, root), seq = judged.kept.tree, judged.kept.snapshot.seq
            message = f"the snapshot of {tenant}/{root} does not follow from its entries"
            self._note("snapshot", seq, f"{message}; it is removed")

    def note_projected(self, seq: int, what: str) -> None:
        """Notes a copy of what an entry says, which no chain covers, that says something else."""
        self._note("terms", seq, f"{what} are not what this entry says")

    def note_unprotected(self, operations: int, first: int) -> None:
        """Notes what the ledger would let happen once more: no chain covers what protects it."""
        message = f"{operations} operations, this the first, have no row that keeps them from being"
        self._note("key", first, f"{message} applied again")

    def _pass_over(self, tip: Tip, error: Exception) -> None:
        self._move_to(tip)
        self._note("chain", tip.seq, f"no entry that can be hashed ({type(error).__name__})")

    def _move_to(self, tip: Tip) -> None:
        """Checks what is known of any row: its place, and what checkpoints say of its hash."""
        self.entries += 1
        if tip.seq != self._seq + 1:
            self._note("sequence", tip.seq, f"{tip.seq} follows {self._seq}")
        if tip.epoch < self._epoch:
            self._note("sequence", tip.seq, f"epoch {tip.epoch} follows {self._epoch}")
        at_tip = self.vouched.get(tip.seq)
        if at_tip and at_tip[0] != tip.hash:
            message = f"the hash is not the one that checkpoint {at_tip[1]} vouches for"
            self._note("checkpoint", tip.seq, message)
        self._epoch, self._seq, self._hash = tip.epoch, tip.seq, tip.hash

    def _check_conservation(self, entry: Entry) -> None:
        delta, after = entry.delta, entry.after
        if not delta.balanced() or not after.balanced() or min(after.as_tuple()) < 0:
            self._note("conservation", entry.seq, f"change {delta}, buckets afterwards {after}")
        if delta.debt > 0 and entry.kind not in _DEBT_KINDS:
            self._note("conservation", entry.seq, f"{entry.kind.name} raises debt by {delta.debt}")
        if delta.unenforced > 0 and entry.kind not in _UNENFORCED_KINDS:
            self._note(
                "conservation",
                entry.seq,
                f"{entry.kind.name} raises unenforced by {delta.unenforced}",
            )

    def _check_version(self, entry: Entry) -> None:
        key = (entry.tenant, entry.account, entry.credit_type)
        version, event_ms, before = self._balances.get(key, (0, 0, Buckets()))
        self._balances[key] = entry.version, entry.event_ms, entry.after
        if entry.event_ms < event_ms:
            # Within a partition they do: an expiry has the time when it was due.
            self._note("version", entry.seq, f"time {entry.event_ms} of {key} follows {event_ms}")
        if entry.version != version + 1:
            self._note("version", entry.seq, f"version {entry.version} of {key} follows {version}")
        elif _plus(before, entry.delta) != entry.after.as_tuple():
            self._note(
                "conservation", entry.seq, f"{before} and {entry.delta} do not give {entry.after}"
            )

    def _note(self, check: str, seq: int, message: str) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(check, self.partition, seq, message))


class Verification(Snapshots):
    """Verifies what the database holds."""

    async def verify(
        self,
        partitions: Sequence[int] | None = None,
        *,
        vouched: Mapping[int, Vouched] | None = None,
        on_progress: OnProgress | None = None,
    ) -> VerifyReport:
        """Checks chain, sequence, versions, conservation, time, holds, keys, terms and cursors,
        and what checkpoints vouch for (by partition). None means all partitions that there should
        be or that have entries. A snapshot that does not follow from the entries is removed: it
        must not be used, and nothing depends on it.

        Reads one partition at a time, each as of one instant, and keeps one state per account and
        credit type of it in memory, and a digest per grant. Entries that are recorded meanwhile do
        no harm.
        """
        vouched = vouched or {}
        entries, violations = 0, list[Violation]()
        for partition in partitions or sorted({*await self._partitions(), *vouched}):
            check = await self._verify_partition(partition, vouched.get(partition, {}))
            entries += check.entries
            violations += check.violations
            if on_progress:
                on_progress(partition, entries)
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            violations += [each async for each in additions(cursor, partitions, VIOLATIONS_MAX)]
        return VerifyReport(entries, tuple(violations[:VIOLATIONS_MAX]))

    async def tips(self) -> dict[int, Tip]:
        """Where every partition ends now, by what the flusher says."""
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            found = await fetch_all(cursor, QUERIES["tips"])
        return {row["partition"]: Tip(**row) for row in found}

    async def _partitions(self) -> set[int]:
        """Those that there should be, and those that have entries: readers ask for neither."""
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            found = await fetch_all(cursor, QUERIES["partitions"])
        return {*await self.tips(), *(row["partition"] for row in found)}

    async def stream_entries(self, partition: int) -> AsyncGenerator[RecordedEntry, None]:
        """Every entry of a partition in order, as of one instant: what an export consists of.
        Whoever does not read to the end closes it.

        Raises `UnreadableEntry`.
        """
        seq = 1
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            try:
                async with aclosing(_rows(cursor, partition)) as found:
                    async for row in found:
                        seq = row["seq"]
                        yield rows.recorded_entry(row)
                        seq += 1
            except UNREADABLE as error:
                message = f"entry {seq} of partition {partition} cannot be read"
                raise UnreadableEntry(f"{message} ({type(error).__name__})") from error

    async def _verify_partition(self, partition: int, vouched: Vouched) -> PartitionCheck:
        check = PartitionCheck(partition, vouched)
        async with self.reading(EVERY_TENANT, limit_ms=0) as cursor:
            tip = await _tip(cursor, partition)
            unprotected = await fetch_one(cursor, QUERIES["unprotected"], partition=partition)
            snapshots = SnapshotCheck(await snapshots_in(cursor, partition))
            projected = ProjectionCheck()
            async for recorded in _checked(cursor, check):
                snapshots.add(recorded.entry)
                projected.add(recorded.entry)
            async for seq, what in projected.finish(cursor):
                check.note_projected(seq, what)
        check.finish()
        check.compare(tip)
        if unprotected and unprotected["operations"]:
            check.note_unprotected(**unprotected)
        for judged in snapshots.finish():
            check.note_snapshot(judged)
            await self.drop_snapshot(judged.kept)
        return check


def verify_entries(
    entries: Iterable[RecordedEntry], vouched: Mapping[int, Vouched] | None = None
) -> VerifyReport:
    """The same for entries from anywhere, such as an export: each partition's in order.

    Without `vouched`, from checkpoints kept elsewhere, a tail that was cut off cannot be seen.
    """
    vouched = vouched or {}
    checks = {partition: PartitionCheck(partition, vouched[partition]) for partition in vouched}
    for recorded in entries:
        partition = recorded.entry.partition
        if partition not in checks:
            checks[partition] = PartitionCheck(partition)
        checks[partition].add(recorded)
    for check in checks.values():
        check.finish()
    violations = [violation for check in checks.values() for violation in check.violations]
    return VerifyReport(
        sum(check.entries for check in checks.values()), tuple(violations[:VIOLATIONS_MAX])
    )


async def _tip(cursor: Cursor, partition: int) -> Tip | None:
    row = await fetch_one(cursor, QUERIES["tip"], partition=partition)
    return Tip(**row) if row else None


async def _checked(cursor: Cursor, check: PartitionCheck) -> AsyncIterator[RecordedEntry]:
    """The entries of a partition. What is none is noted, and what comes after it is checked."""
    try:
        async for row in _rows(cursor, check.partition):
            if recorded := check.read(row):
                yield recorded
    except UNREADABLE as error:
        check.note_unread(error)


def _rows(cursor: Cursor, partition: int) -> AsyncGenerator[rows.Row, None]:
    found = cursor.stream(QUERIES["partition_entries"], {"partition": partition}, size=FETCH_ROWS)
    # The driver promises less than it gives: one that is not closed keeps the connection busy.
    return cast("AsyncGenerator[rows.Row, None]", found)


def _plus(state: Buckets, delta: Buckets) -> tuple[int, ...]:
    return tuple(a + d for a, d in zip(state.as_tuple(), delta.as_tuple(), strict=True))
