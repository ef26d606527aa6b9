"""What the database refuses to record, whoever asks: I1, I2, I3 and the rules of single rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.domain.columns import TEXT_BYTES_MAX
from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.ledger.prepare import EntriesRefused, Fault
from holdfast_server.ledger.store import Ledger
from tests.support.entries import Story
from tests.support.ledger import query, record

Change = Callable[[Entry], Entry]


def with_delta(**delta: int) -> Change:
    return lambda entry: replace(entry, delta=replace(entry.delta, **delta))


def with_after(**after: int) -> Change:
    return lambda entry: replace(entry, after=replace(entry.after, **after))


def with_fields(**fields: object) -> Change:
    return lambda entry: replace(entry, **fields)  # type: ignore[arg-type]


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 0


#: More levels than anything may have that is walked recursively.
DEEP = nested(400)

#: Each constraint, and a change of a sound GRANT of 100 that only it refuses.
BROKEN: list[tuple[str, Change]] = [
    ("entry_zero_sum", with_delta(available=99)),
    ("entry_zero_sum", with_delta(held=1)),
    ("entry_zero_sum", with_delta(burned=1)),
    ("entry_zero_sum", with_delta(expired=1)),
    ("entry_zero_sum", with_delta(revoked=1)),
    ("entry_zero_sum", with_delta(debt=-1)),
    ("entry_zero_sum", with_delta(unenforced=-1)),
    ("entry_conserved", with_after(available=99)),
    ("entry_conserved", with_after(debt=1)),
    ("entry_conserved", with_after(unenforced=1)),
    ("entry_conserved", with_after(held=1)),
    ("entry_conserved", with_after(burned=1)),
    ("entry_conserved", with_after(expired=1)),
    ("entry_conserved", with_after(revoked=1)),
    ("entry_bounds", with_after(available=101, held=-1)),
    ("entry_bounds", with_after(available=-1, burned=101)),
    ("entry_bounds", with_after(granted=101, debt=-1)),
    ("entry_bounds", with_after(granted=AMOUNT_MAX + 1, available=AMOUNT_MAX + 1)),
    ("entry_debt_kinds", with_delta(debt=5, available=105)),
    ("entry_unenforced_kinds", with_delta(unenforced=5, available=105)),
    ("entry_without_credit_type_moves_nothing", with_fields(credit_type="")),
    ("entry_place", with_fields(version=0)),
    ("entry_place", with_fields(first_seq=2)),
    ("entry_place", with_fields(first_seq=0)),
    ("entry_names", with_fields(account="")),
    ("entry_names", with_fields(tenant="")),
    ("entry_end_names_hold", with_fields(ends_hold=HoldState.RELEASED)),
    ("entry_codes", with_fields(ends_hold=HoldState.OPEN, hold="0c" * 16)),
    ("entry_codes", with_fields(kind=17)),
    ("entry_codes", with_fields(kind=0)),
    ("entry_codes", with_fields(mode=4)),
    ("entry_event_time", with_fields(event_ms=-1)),
    ("entry_event_time", with_fields(event_ms=260_000_000_000_000)),
]


async def test_an_entry_that_breaks_a_rule_is_refused(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I1 zero sum, I2 conservation, I3 no negative buckets, and debt only where it may arise."""
    sound = replace(Story().grant("ada", 100), kind=EntryKind.REVOKE)
    refused = []
    for _, change in BROKEN:
        with pytest.raises(EntriesRefused) as caught:
            await record(migrated_postgres_url, change(sound))
        assert caught.value.fault is Fault.INVALID
        refused.append(caught.value.explanation.split(":")[0])

    assert refused == [constraint for constraint, _ in BROKEN]
    assert query(migrated_postgres_url, "SELECT seq FROM holdfast.entry") == []
    assert (await ledger.flushed([0])) == {0: (1, 0)}


async def test_every_rule_of_an_entry_has_been_broken(migrated_postgres_url: str) -> None:
    constraints = query(
        migrated_postgres_url,
        "SELECT conname FROM pg_constraint "
        "WHERE contype = 'c' AND conrelid = 'holdfast.entry'::regclass",
    )

    assert {row["conname"] for row in constraints} == {constraint for constraint, _ in BROKEN}


async def test_the_sound_entry_itself_is_recorded(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """Otherwise the tests above would prove nothing."""
    await record(migrated_postgres_url, replace(Story().grant("ada", 100), kind=EntryKind.REVOKE))

    assert await ledger.flushed([0]) == {0: (1, 1)}


async def test_debt_and_unenforced_rise_only_in_their_kinds(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I3: what a customer owes arises nowhere but in holds beyond the balance and in work done."""
    allowed = {
        bucket: {kind for kind in EntryKind if await _recorded(migrated_postgres_url, kind, bucket)}
        for bucket in ("debt", "unenforced")
    }

    debt = {
        EntryKind.HOLD,
        EntryKind.BURN,
        EntryKind.OVERAGE,
        EntryKind.LATE_COMMIT,
        EntryKind.RECOVERED_COMMIT,
    }
    assert allowed == {"debt": debt, "unenforced": debt | {EntryKind.UNENFORCED}}


async def _recorded(postgres_url: str, kind: EntryKind, bucket: str) -> bool:
    """Whether an entry of the kind may raise the bucket. What was recorded goes on from there."""
    partition = 0 if bucket == "debt" else 1
    (row,) = query(
        postgres_url,
        "SELECT last_seq::int FROM holdfast.flush_cursor WHERE partition = %s",
        partition,
    )
    story = Story(partition, seq=row["last_seq"])
    terms = (
        Story().account("ada")
        if kind is EntryKind.ACCOUNT
        else Story().grant("ada", 7, f"{partition:032x}")
    )
    moved = Buckets(**{bucket: 7, "burned": 7})
    try:
        await record(postgres_url, story.write(kind, "ada", moved, context=terms.context))
    except EntriesRefused as refusal:
        return not refusal.explanation.startswith(f"entry_{bucket}_kinds")
    return True


async def test_what_has_no_row_is_refused_before_the_database(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    changes: list[Change] = [
        with_fields(event_ms=2**62),
        with_fields(hold="0c" * 15),
        with_fields(actor="a" * (TEXT_BYTES_MAX + 1)),
        with_fields(context=replace(Story().grant("ada", 1).context, detail={"deep": DEEP})),
    ]
    for change in changes:
        with pytest.raises(EntriesRefused, match="has no row"):
            await record(migrated_postgres_url, change(Story().grant("ada", 100)))


async def test_text_that_postgres_cannot_hold_is_refused(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    entry = Story().grant("ada", 100)
    context = replace(entry.context, feature="a\x00b")
    with pytest.raises(EntriesRefused) as caught:
        await record(migrated_postgres_url, replace(entry, context=context))

    assert caught.value.fault is Fault.INVALID
