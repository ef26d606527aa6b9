"""Verification finds every kind of tampering that somebody with all privileges can do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, LiteralString

import pytest
from psycopg import sql

from holdfast_server.app.export import read_lines, to_json
from holdfast_server.domain.checkpoint import Tip, Vouched
from holdfast_server.domain.entry import GENESIS_HASH, Entry, chain_hash
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger.records import RecordedEntry, VerifyReport
from holdfast_server.ledger.store import Ledger
from holdfast_server.ledger.verify import VIOLATIONS_MAX, verify_entries
from tests.support.entries import Story, history_of, holds_and_commits
from tests.support.ledger import query, record, tamper


@pytest.fixture
async def url(ledger: Ledger, migrated_postgres_url: str) -> str:
    """Two partitions with twelve entries each."""
    stories = [history_of(partition, 5) for partition in (0, 1)]
    await record(migrated_postgres_url, *stories[0], *stories[1])
    return migrated_postgres_url


def vouched(tips: Mapping[int, Tip]) -> dict[int, Vouched]:
    """What a checkpoint with these tips vouches for."""
    return {partition: {tip.seq: (tip.hash, 1)} for partition, tip in tips.items() if tip.seq}


def found(report: VerifyReport) -> set[tuple[str, int, int]]:
    """Check, partition and sequence number of every violation."""
    return {(each.check, each.partition, each.seq) for each in report.violations}


async def test_what_was_recorded_verifies(url: str, ledger: Ledger) -> None:
    """I2, I10, I11: conservation, order and chain of an honest ledger."""
    heard: list[tuple[int, int]] = []

    report = await ledger.verify(
        on_progress=lambda partition, entries: heard.append((partition, entries))
    )

    assert (report.ok, report.entries) == (True, 24)
    assert heard == [(0, 12), (1, 24), (2, 24), (3, 24)]
    assert (await ledger.verify([1])).entries == 12


async def test_a_changed_amount_is_found(url: str, ledger: Ledger) -> None:
    """I11. The change keeps every rule of the row, so that only the chain and the fold can tell."""
    tamper(
        url,
        "UPDATE holdfast.entry SET delta_granted = delta_granted + 5, granted = granted + 5, "
        "delta_available = delta_available + 5, available = available + 5 "
        "WHERE partition = 0 AND seq = 1",
    )

    assert found(await ledger.verify()) == {("chain", 0, 1), ("conservation", 0, 3)}


#: A change of each column that the chain vouches for and that no other test changes.
ASSIGNMENTS = (
    "tenant = 'eve'",
    "account = 'eve'",
    "credit_type = 'eve'",
    "actor = 'eve'",
    "caller = 'eve'",
    "reason = 'because'",
    'labels = \'{"a": "b"}\'',
    "detail = '{\"a\": 1}'",
    "feature = 'other'",
    "idempotency_key = 'other'",
    "fingerprint = ''",
    "trace_id = 'f'",
    "span_id = 'f'",
    "method = 'Revoke'",
    "grant_ids = NULL, grant_changes = NULL",
    "mode = 1",
    "hold = gen_random_uuid()",
    "refund_of = '0-1-1'",
    "kind = 13",
    "version = version + 1",
    "event_time = event_time + interval '1 millisecond'",
    "first_seq = first_seq - 1",
    "epoch = 7",
)


async def test_any_changed_column_breaks_the_chain(url: str, ledger: Ledger) -> None:
    """I11: no column but the time of recording can be changed without notice."""
    places = [(partition, seq) for seq in range(2, 13) for partition in (0, 1)]
    places.append((0, 1))
    changes = list(zip(ASSIGNMENTS, places, strict=True))
    tamper(
        url,
        *(
            sql.SQL("UPDATE holdfast.entry SET {} WHERE partition = {} AND seq = {}").format(
                sql.SQL(assignment), partition, seq
            )
            for assignment, (partition, seq) in changes
        ),
    )

    violations = found(await ledger.verify())

    assert {(*each[1:],) for each in violations if each[0] == "chain"} == set(places)


#: What is told of the last entry of a partition, and what is added up.
CHANGES: Final = """
SELECT grant_changes, (holdfast.postings(grant_ids, grant_changes)).held
FROM holdfast.entry WHERE partition = 0 AND seq = 12
"""


async def test_a_time_that_was_changed_by_less_than_is_hashed_is_found(
    url: str, ledger: Ledger
) -> None:
    """I11: the chain counts milliseconds, and a balance at an instant compares what is there."""
    tamper(
        url,
        "UPDATE holdfast.entry SET event_time = event_time + interval '1 microsecond' "
        "WHERE partition = 0 AND seq = 12",
    )

    assert found(await ledger.verify()) == {("chain", 0, 12)}


async def test_changes_of_grants_that_stand_elsewhere_in_their_list_are_found(
    url: str, ledger: Ledger
) -> None:
    """I11: the chain has the list, and what is added up in Postgres goes by places in it."""
    (before,) = query(url, CHANGES)
    tamper(
        url,
        "UPDATE holdfast.entry SET grant_changes = '[2:6]={0,-7,7,0,0}' "
        "WHERE partition = 0 AND seq = 12",
    )
    (after,) = query(url, CHANGES)

    assert before["grant_changes"] == after["grant_changes"]
    assert before["held"] != after["held"]
    assert found(await ledger.verify()) == {("chain", 0, 12)}


@pytest.mark.parametrize(
    "assignment",
    [
        "grant_changes = grant_changes[1:4]",
        "grant_changes[1] = NULL",
        "labels = '[1]'",
        'labels = \'[["model", "small"]]\'',
        "detail = '7'",
        "kind = 99",
    ],
)
async def test_a_row_that_is_no_entry_is_found_and_the_rest_is_checked(
    url: str, ledger: Ledger, assignment: LiteralString
) -> None:
    """I11: whatever a row has become, those behind it and other partitions are looked at."""
    tamper(
        url,
        "ALTER TABLE holdfast.entry DROP CONSTRAINT entry_codes",
        sql.SQL("UPDATE holdfast.entry SET {} WHERE partition = 0 AND seq = 10").format(
            sql.SQL(assignment)
        ),
        "UPDATE holdfast.entry SET reason = 'because' WHERE partition = 0 AND seq = 12",
        "UPDATE holdfast.entry SET reason = 'because' WHERE partition = 1 AND seq = 12",
    )

    report = await ledger.verify()

    chain = {each for each in found(report) if each[0] == "chain"}
    assert chain == {("chain", 0, 10), ("chain", 0, 12), ("chain", 1, 12)}
    assert report.entries == 24
    assert not any(check == "sequence" for check, _, _ in found(report))


async def test_a_row_that_the_driver_cannot_read_hides_no_other_partition(
    url: str, ledger: Ledger
) -> None:
    tamper(
        url,
        "ALTER TABLE holdfast.entry DROP CONSTRAINT entry_event_time",
        "UPDATE holdfast.entry SET event_time = 'infinity' WHERE partition = 0 AND seq = 5",
        "UPDATE holdfast.entry SET reason = 'because' WHERE partition = 1 AND seq = 12",
    )

    violations = found(await ledger.verify())

    assert {("chain", 0, 4), ("cursor", 0, 4), ("chain", 1, 12)} <= violations
    assert (await ledger.verify([1])).entries == 12


async def test_a_removed_row_is_found(url: str, ledger: Ledger) -> None:
    """I10: sequence numbers and versions are gap-free."""
    tamper(url, _delete("partition = 1 AND seq = 5"))

    violations = found(await ledger.verify())

    assert ("sequence", 1, 6) in violations
    assert ("chain", 1, 6) in violations
    assert any(check == "version" for check, _, _ in violations)


async def test_a_tail_that_was_cut_off_is_found_by_the_cursor(url: str, ledger: Ledger) -> None:
    """A chain without its last rows is a sound chain: only the cursor knows."""
    tamper(url, _delete("partition = 1 AND seq > 10"), *FORGET_THE_END)

    assert found(await ledger.verify()) == {("cursor", 1, 10)}


async def test_a_tail_cut_off_with_its_cursor_is_found_by_a_checkpoint(
    url: str, ledger: Ledger
) -> None:
    """What a checkpoint outside of the database is for."""
    checkpoint = await ledger.tips()
    tamper(
        url,
        _delete("partition = 1 AND seq > 10"),
        *FORGET_THE_END,
        "UPDATE holdfast.flush_cursor SET last_seq = 10, last_hash = "
        "(SELECT hash FROM holdfast.entry WHERE partition = 1 AND seq = 10) WHERE partition = 1",
    )
    assert (await ledger.verify()).ok

    left = [each async for each in ledger.stream_entries(1)]

    assert found(verify_entries(left, vouched(checkpoint))) == {
        ("checkpoint", 0, 0),
        ("checkpoint", 1, 10),
    }
    assert found(await ledger.verify(vouched=vouched(checkpoint))) == {("checkpoint", 1, 10)}


async def test_a_chain_that_was_computed_anew_is_found_by_a_checkpoint(
    url: str, ledger: Ledger
) -> None:
    """Who can rewrite every row makes a sound chain, but not the hash that was kept elsewhere."""
    checkpoint = await ledger.tips()
    forged = chained([replace(each.entry, actor="eve") async for each in ledger.stream_entries(0)])
    assert verify_entries(forged).ok

    assert found(verify_entries(forged, {0: vouched(checkpoint)[0]})) == {("checkpoint", 0, 12)}


async def test_a_partition_that_is_gone_is_found_by_a_checkpoint(url: str, ledger: Ledger) -> None:
    checkpoint = await ledger.tips()
    tamper(url, _delete("partition = 1"), "DELETE FROM holdfast.flush_cursor WHERE partition = 1")

    assert ("checkpoint", 1, 0) in found(await ledger.verify(vouched=vouched(checkpoint)))


async def test_swapped_rows_are_found(url: str, ledger: Ledger) -> None:
    """I11: the order of entries is part of what the chain vouches for."""
    tamper(
        url,
        "UPDATE holdfast.entry SET seq = seq + 100 WHERE partition = 0 AND seq IN (4, 5)",
        "UPDATE holdfast.entry SET seq = 109 - seq, first_seq = 109 - seq "
        "WHERE partition = 0 AND seq > 100",
    )

    violations = found(await ledger.verify())

    assert {("chain", 0, 4), ("chain", 0, 5)} <= violations


async def test_rows_without_a_cursor_are_found(url: str, ledger: Ledger) -> None:
    tamper(url, "DELETE FROM holdfast.flush_cursor WHERE partition = 0")

    assert found(await ledger.verify([0])) == {("cursor", 0, 12)}


async def test_rows_of_a_partition_that_there_is_not_are_found(url: str, ledger: Ledger) -> None:
    """Whoever reads an account finds its rows in whatever partition they claim to be."""
    tamper(
        url,
        """
        INSERT INTO holdfast.entry
        SELECT (jsonb_populate_record(
            e, '{"partition": 99, "seq": 1, "first_seq": 1, "event_time": "2027-01-01"}'
        )).* FROM holdfast.entry AS e WHERE partition = 0 AND seq = 12
        """,
    )
    (entry,) = await ledger.list_entries("tenant", "ada-0", limit=1)

    assert entry.entry.partition == 99
    assert {("cursor", 99, 1), ("chain", 99, 1)} <= found(await ledger.verify())


async def test_an_export_verifies_without_the_database(url: str, ledger: Ledger) -> None:
    entries = [each for partition in (0, 1) async for each in ledger.stream_entries(partition)]
    tips = await ledger.tips()

    assert verify_entries(entries, vouched(tips)).ok
    assert verify_entries(entries).entries == 24
    assert found(verify_entries(entries[:-1], vouched(tips))) == {("checkpoint", 1, 11)}


def chained(entries: Sequence[Entry]) -> list[RecordedEntry]:
    """Entries with a chain that is sound, whatever they say."""
    recorded, last = [], GENESIS_HASH
    for entry in entries:
        last = chain_hash(last, entry)
        recorded.append(RecordedEntry(entry, entry.event_ms, last))
    return recorded


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 2**64},
        {"event_ms": 1.5},
        {"tenant": 7},
        {"hold": "no hold"},
        {"delta": {name: "1" for name in ("granted", "available")}},
    ],
)
def test_a_line_of_an_export_that_cannot_be_hashed_is_found(change: dict[str, object]) -> None:
    lines = [to_json(each) for each in chained(story())]
    lines[1] |= change

    report = verify_entries(read_lines(map(json.dumps, lines)))

    assert "chain" in {each.check for each in report.violations if each.seq == lines[1]["seq"]}
    assert report.entries == 5


def story() -> list[Entry]:
    return holds_and_commits(Story(), ["ada"], 2)


def test_a_forged_chain_does_not_help_against_the_other_checks() -> None:
    """Whoever can compute a chain still has to make figures, versions and times fit."""
    grant, hold, commit, *rest = story()

    def checks(*entries: Entry) -> set[tuple[str, int, int]]:
        return found(verify_entries(chained(entries)))

    assert checks(*story()) == set()
    assert checks(grant, replace(hold, version=3), commit, *rest) >= {("version", 0, 2)}
    assert checks(replace(grant, event_ms=hold.event_ms + 1), hold) == {("version", 0, 2)}
    assert checks(grant, hold, replace(commit, epoch=2), *rest) == {("sequence", 0, 4)}
    unbalanced = replace(grant, delta=Buckets(granted=1_000_000))
    assert ("conservation", 0, 1) in checks(unbalanced)
    lopsided = replace(grant, delta=unbalanced.delta, after=unbalanced.delta)
    assert checks(lopsided) == {("conservation", 0, 1)}
    overdrawn = Buckets(granted=1_000_000, available=-1, held=1_000_001)
    too_much = Buckets(available=-1_000_001, held=1_000_001)
    assert checks(grant, replace(hold, delta=too_much, after=overdrawn)) == {("conservation", 0, 2)}
    for bucket in ("debt", "unenforced"):
        raised = Buckets(1_000_000, available=1_000_001, **{bucket: 1})
        assert checks(replace(grant, delta=raised, after=raised)) == {("conservation", 0, 1)}
    jumped = replace(hold, after=replace(hold.after, available=1, held=999_999))
    assert ("conservation", 0, 2) in checks(grant, jumped)


def test_a_hold_lives_once() -> None:
    """I4, I6: a forged chain whose buckets add up still has to tell the life of each hold."""
    tale = Story()
    grant, hold = tale.grant("ada", 100), tale.hold("ada", 7)
    commit = tale.commit("ada", 7)

    def messages(*entries: Entry) -> list[str]:
        report = verify_entries(chained(entries))
        assert {each.check for each in report.violations} <= {"hold"}
        return [each.message for each in report.violations]

    other = "0c" * 16
    assert messages(grant, hold, commit) == []
    assert "which is not open" in messages(grant, hold, commit, tale.commit("ada", 0))[0]
    assert any("still holds" in each for each in messages(grant, hold, early(commit, 5)))
    assert "which is not open" in messages(grant, hold, replace(commit, hold=other))[0]
    nameless = replace(commit, hold="", ends_hold=None)
    assert "0 are held" in messages(grant, hold, nameless)[0]
    again = replace(tale.hold("ada", 0), seq=3, first_seq=3, version=3, after=hold.after)
    assert "placed again" in messages(grant, hold, again)[0]


def early(commit: Entry, amount: int) -> Entry:
    """A commit that ends its hold and leaves some of it held."""
    delta = Buckets(held=-amount, burned=amount)
    after = replace(commit.after, held=7 - amount, burned=amount)
    return replace(commit, delta=delta, after=after)


def test_violations_are_counted_to_a_limit() -> None:
    wrong = [replace(entry, version=9) for entry in holds_and_commits(Story(), ["ada"], 100)]

    report = verify_entries(chained(wrong))

    assert (len(report.violations), report.entries, report.ok) == (VIOLATIONS_MAX, 201, False)


#: Who cuts off the end of a partition has to forget what was applied there, too.
FORGET_THE_END: Final[tuple[LiteralString, ...]] = (
    "ALTER TABLE holdfast.operation DISABLE TRIGGER ALL",
    "DELETE FROM holdfast.operation WHERE partition = 1 AND first_seq > 10",
)


def _delete(condition: LiteralString) -> sql.Composed:
    return sql.SQL("DELETE FROM holdfast.entry WHERE {}").format(sql.SQL(condition))
