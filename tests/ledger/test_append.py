"""Appending: compare-and-set, forks, months, and what is derived in the same transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast_server.domain.entry import Context, EntryKind, GrantPosting
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.append import CursorsMoved, QuarantinedEntry
from holdfast_server.ledger.encoding import ENTRY_COLUMNS, OPERATION_COLUMNS
from holdfast_server.ledger.prepare import EntriesRefused, Fault
from holdfast_server.ledger.store import Ledger
from tests.support.entries import GRANT, HOLD, Story, grant_detail
from tests.support.ledger import begin_epoch, open_appender, prepared, query, record
from tests.support.waiting import until


async def test_rows_have_every_column_of_their_tables(migrated_postgres_url: str) -> None:
    found = query(
        migrated_postgres_url,
        "SELECT table_name, array_agg(column_name::text) AS columns "
        "FROM information_schema.columns WHERE table_schema = 'holdfast' GROUP BY 1",
    )
    columns = {row["table_name"]: set(row["columns"]) for row in found}

    assert columns["entry"] == {*ENTRY_COLUMNS, "recorded_at"}
    assert columns["operation"] == set(OPERATION_COLUMNS)


async def test_what_is_recorded_reads_back_as_it_was(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    written = [
        replace(story.grant("ada", 100), refund_of="3-1-9", actor="ada.key"),
        story.hold("ada", 10),
        replace(
            story.commit("ada", 10),
            context=Context(
                "Commit", "k", b"\x00\xff", "chat", {"ä": '"\\'}, "till", "a" * 32, "b" * 16, "why"
            ),
        ),
        story.account("ada"),
    ]
    await record(migrated_postgres_url, *written)

    found = await ledger.list_entries("tenant", "ada", limit=10)

    assert [recorded.entry for recorded in reversed(found)] == [
        replace(entry, answer=b"") for entry in written
    ]
    assert all(recorded.recorded_ms > written[0].event_ms for recorded in found)


async def test_of_two_appenders_at_one_cursor_one_wins_and_the_other_writes_nothing(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I10: sequence numbers are used once, since cursors are compared and set."""
    async with (
        open_appender(migrated_postgres_url) as one,
        open_appender(migrated_postgres_url) as two,
    ):
        first = await prepared(one, [Story().grant("ada", 100)])
        second = await prepared(two, [Story().grant("eve", 100)])
        await one.append(first)
        with pytest.raises(CursorsMoved):
            await two.append(second)

    assert [
        row["account"] for row in query(migrated_postgres_url, "SELECT * FROM holdfast.entry")
    ] == ["ada"]


async def test_one_cursor_that_moved_holds_the_whole_batch_back(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    async with open_appender(migrated_postgres_url) as appender:
        batches = await prepared(
            appender, [Story(0).grant("ada", 1, "01" * 16), Story(1).grant("bob", 1, "02" * 16)]
        )
        await appender.append(batches[:1])
        with pytest.raises(CursorsMoved, match="1 cursors"):
            await appender.append(batches)

    assert await ledger.flushed([0, 1]) == {0: (1, 1), 1: (1, 0)}


@pytest.mark.parametrize("other", [{"hash": b"x" * 32}, {"seq": 1}])
async def test_a_cursor_counts_only_if_number_and_hash_are_those_of_the_ledger(
    ledger: Ledger, migrated_postgres_url: str, other: dict[str, Any]
) -> None:
    """A standby that took over may have another entry under the same number."""
    async with open_appender(migrated_postgres_url) as appender:
        (batch,) = await prepared(appender, [Story().grant("ada", 1)])
        with pytest.raises(CursorsMoved):
            await appender.append([replace(batch, before=replace(batch.before, **other))])

    assert await ledger.flushed([0]) == {0: (1, 0)}


async def test_an_epoch_that_began_fences_the_appenders_of_the_one_before(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I19: whoever was stopped in an old epoch cannot append when it goes on."""
    story = Story()
    await record(migrated_postgres_url, story.grant("ada", 100))
    async with open_appender(migrated_postgres_url) as zombie:
        batch = await prepared(zombie, [story.hold("ada", 10)])

        assert await begin_epoch(ledger, 0, 1)
        with pytest.raises(CursorsMoved):
            await zombie.append(batch)
        cursor = (await zombie.cursors())[0]

    assert (cursor.epoch, cursor.seq, cursor.start_seq, cursor.has_begun) == (2, 1, 1, False)
    assert not await begin_epoch(ledger, 0, 1)


async def test_a_sequence_number_that_is_there_already_is_a_fork(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """Even if the cursor were wound back: rows are never skipped, the unique index alarms."""
    await record(migrated_postgres_url, Story().grant("ada", 100))
    query(
        migrated_postgres_url,
        "UPDATE holdfast.flush_cursor SET last_seq = 0, last_hash = %s WHERE partition = 0",
        bytes(32),
    )

    with pytest.raises(EntriesRefused) as caught:
        await record(migrated_postgres_url, Story().grant("eve", 100, "0e" * 16))

    assert caught.value.fault is Fault.FORK
    assert "_seq" in caught.value.explanation


async def test_a_key_is_used_once_per_tenant_and_method(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I7: what the ledger protects is applied once; other tenants and methods are free."""
    story = Story()
    first = story.grant("ada", 100)
    await record(migrated_postgres_url, first)
    again = replace(story.grant("ada", 100, "0e" * 16), context=first.context)
    again = replace(again, context=replace(again.context, detail=grant_detail("0e" * 16, 100)))

    with pytest.raises(EntriesRefused, match="operation_once") as caught:
        await record(migrated_postgres_url, again)
    assert caught.value.fault is Fault.FORK
    await record(
        migrated_postgres_url, replace(again, context=replace(again.context, method="Revoke"))
    )
    elsewhere = replace(Story(1, "other").grant("ada", 1), context=first.context)
    await record(migrated_postgres_url, elsewhere)


async def test_a_hold_ends_once(ledger: Ledger, migrated_postgres_url: str) -> None:
    """I6: exactly one of commit, release and expiry ends a hold, whatever raced before."""
    story = Story()
    await record(
        migrated_postgres_url,
        story.grant("ada", 100),
        story.hold("ada", 10),
        story.commit("ada", 10),
    )
    ends_again = replace(
        story.write(EntryKind.RELEASE, "ada", Buckets(held=-10, available=10)),
        after=story.states["ada", "ai"][1],
        delta=Buckets(),
        hold=HOLD,
        ends_hold=HoldState.RELEASED,
        answer=b"released",
    )
    ends_again = replace(ends_again, after=Buckets(granted=100, available=90, burned=10))

    for entry in (ends_again, replace(ends_again, answer=b"", ends_hold=HoldState.EXPIRED)):
        with pytest.raises(EntriesRefused, match="operation_hold_ends_once") as caught:
            await record(migrated_postgres_url, entry)
        assert caught.value.fault is Fault.FORK


async def test_an_expiry_is_kept_under_the_hold(ledger: Ledger, migrated_postgres_url: str) -> None:
    story = Story()
    await record(
        migrated_postgres_url,
        story.grant("ada", 100),
        story.hold("ada", 10),
        story.expire("ada", 10),
    )

    (expiry,) = query(
        migrated_postgres_url, "SELECT * FROM holdfast.operation WHERE method = 'Expire'"
    )

    assert (expiry["idempotency_key"], expiry["hold_ended"].hex, expiry["answer"]) == (
        HOLD,
        HOLD,
        b"",
    )


async def test_a_grant_is_made_once(ledger: Ledger, migrated_postgres_url: str) -> None:
    story = Story()
    await record(migrated_postgres_url, story.grant("ada", 100))

    with pytest.raises(EntriesRefused) as caught:
        await record(migrated_postgres_url, story.grant("ada", 100))

    assert caught.value.fault is Fault.FORK


async def test_terms_that_lack_something_are_refused(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    grant, account = Story().grant("ada", 100), Story().account("ada")
    for entry, missing in ((grant, "priority"), (account, "limits"), (account, "version")):
        detail = {name: value for name, value in entry.context.detail.items() if name != missing}
        with pytest.raises(EntriesRefused, match=missing) as caught:
            await record(
                migrated_postgres_url, replace(entry, context=replace(entry.context, detail=detail))
            )
        assert caught.value.fault is Fault.INVALID


async def test_the_newest_terms_of_an_account_win(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    await record(
        migrated_postgres_url,
        story.account("ada", 1),
        story.account("ada", 3, display_name="Countess"),
        story.account("ada", 2, display_name="Late"),
    )

    account = await ledger.get_account("tenant", "ada")

    assert account is not None
    assert (account.version, account.terms.display_name) == (3, "Countess")


async def test_a_goodwill_grant_comes_from_the_entry_that_posts_to_it(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    goodwill = {"goodwill": [{"grant_id": "0e" * 16, "ttl_ms": 60_000, "issuer": "till"}]}
    refund = replace(
        story.write(EntryKind.REFUND, "ada", Buckets(granted=5, available=5)),
        context=Context("Refund", "r", reason="apology", detail=goodwill),
        grants=(GrantPosting("0e" * 16, remaining=5),),
    )
    other = replace(
        story.write(EntryKind.REFUND, "ada", Buckets(granted=1, available=1)),
        context=refund.context,
        grants=(GrantPosting(GRANT, remaining=1),),
    )
    await record(migrated_postgres_url, refund, other)

    (grant,) = await ledger.list_grants("tenant", "ada", limit=10)

    assert (grant.grant_id, grant.terms.amount, grant.remaining) == ("0e" * 16, 5, 5)
    assert grant.terms.expires_at_ms == refund.event_ms + 60_000


async def test_a_month_without_a_table_gets_one_in_the_transaction_that_needs_it(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """The change of month cannot stop the flusher: nothing has to be made ahead of time."""
    tables = (
        "SELECT count(*)::int AS n FROM pg_inherits WHERE inhparent = 'holdfast.entry'::regclass"
    )
    assert query(migrated_postgres_url, tables) == [{"n": 0}]

    await record(migrated_postgres_url, Story().grant("ada", 100))
    assert query(migrated_postgres_url, tables) == [{"n": 1}]

    async with open_appender(migrated_postgres_url) as appender:
        await appender.ensure_partitions()
        await appender.ensure_partitions()
    assert query(migrated_postgres_url, tables) == [{"n": 3}]


async def test_months_follow_each_other_without_gaps_in_any_time_zone(
    migrated_postgres_url: str,
) -> None:
    instants = ("2026-01-31 23:59:59.999999+00", "2026-02-01 00:00:00+00", "2026-02-01 00:30+14")
    names = [
        query(
            migrated_postgres_url,
            "SELECT holdfast.ensure_entry_partition(%s::timestamptz) AS name "
            "FROM (SELECT set_config('timezone', 'Pacific/Kiritimati', true)) AS zone",
            instant,
        )[0]["name"]
        for instant in instants
    ]

    assert names == ["entry_2026_01", "entry_2026_02", "entry_2026_01"]


async def test_quarantine_keeps_the_bytes_and_the_same_once(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    """I23: what could not be recorded is not lost."""
    poison = QuarantinedEntry(0, 1, 7, b"\x00\xffpoison", "unreadable", "why")
    async with open_appender(migrated_postgres_url) as appender:
        for entry in (poison, poison, replace(poison, raw=b"other")):
            await appender.quarantine(entry)

    found = query(migrated_postgres_url, "SELECT raw FROM holdfast.quarantine ORDER BY raw")
    assert [row["raw"] for row in found] == [b"\x00\xffpoison", b"other"]


async def test_one_appender_leads_until_its_connection_ends(migrated_postgres_url: str) -> None:
    async with (
        open_appender(migrated_postgres_url) as one,
        open_appender(migrated_postgres_url) as two,
    ):
        assert (await one.lead(), await two.lead(), await one.lead()) == (True, False, True)
        await one.close()
        # Postgres hears of it a little later.
        await until(two.lead)


async def test_an_appender_that_is_silent_for_long_loses_the_lead(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F40: a flusher that was stopped must not keep the others waiting for ever."""
    monkeypatch.setattr("holdfast_server.ledger.append.SILENT_MS_MAX", 200)
    async with (
        open_appender(migrated_postgres_url) as stopped,
        open_appender(migrated_postgres_url) as waiting,
    ):
        assert await stopped.lead()
        await until(waiting.lead)
        with pytest.raises(HoldfastError) as caught:
            await stopped.lead()
        assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
        assert not await stopped.lead()


async def test_a_database_that_is_away_is_unavailable() -> None:
    async with open_appender("postgresql://nobody@127.0.0.1:1/none") as appender:
        with pytest.raises(HoldfastError) as caught:
            await appender.cursors()

    assert caught.value.reason is Reason.LEDGER_UNAVAILABLE
