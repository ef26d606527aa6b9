"""Reading the ledger: pages, balances at instants, explanations, holds, transactions, refunds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from holdfast_server.control.refunds import plan_refund
from holdfast_server.domain.entry import Entry, EntryKind, GrantPosting
from holdfast_server.domain.operation import Refund, RefundLine
from holdfast_server.domain.reply import Buckets, HoldState
from holdfast_server.domain.twin.state import DEBT, UNENFORCED
from holdfast_server.errors import HoldfastError
from holdfast_server.ledger.records import EntryFilter
from holdfast_server.ledger.store import Ledger
from tests.support.entries import GRANT, HOLD, START_MS, Story
from tests.support.ledger import open_ledger, query, record

OTHER_GRANT = "0e" * 16
#: The last second of the year 9999, by which many mean never. Tokyo is a year further by then.
LAST_SECOND_MS = 253_402_300_799_000


@dataclass
class Past:
    """What happened in the ledger that the tests read."""

    ledger: Ledger
    entries: list[Entry]

    def versions(self, credit_type: str = "ai") -> list[int]:
        return [each.version for each in self.entries if each.credit_type == credit_type]


@pytest.fixture
async def past(ledger: Ledger, migrated_postgres_url: str) -> Past:
    """Ada has 100 ai and 40 video; holds 30 and commits them; somebody else has the same names."""
    story, other = Story(0), Story(1, "other")
    entries = [
        story.account("ada"),
        story.grant("ada", 100),
        story.write(EntryKind.REVOKE, "ada", Buckets(), credit_type="video"),
        story.hold("ada", 30),
        story.commit("ada", 30),
        story.hold("ada", 20, "0c" * 16),
    ]
    await record(migrated_postgres_url, *entries, other.account("ada"), other.grant("ada", 7))
    return Past(ledger, entries)


async def test_pages_run_from_newest_to_oldest_over_all_credit_types(past: Past) -> None:
    pages = []
    before = None
    while page := await past.ledger.list_entries("tenant", "ada", limit=2, before=before):
        before = page[-1].place
        pages.append([recorded.entry.seq for recorded in page])

    assert pages == [[6, 5], [4, 3], [2, 1]]


async def test_pages_can_be_of_one_credit_type_and_of_a_time(past: Past) -> None:
    async def seqs(wanted: EntryFilter) -> list[int]:
        page = await past.ledger.list_entries("tenant", "ada", wanted, limit=10)
        return [recorded.entry.seq for recorded in page]

    second = 1_000
    assert await seqs(EntryFilter("ai")) == [6, 5, 4, 2]
    assert await seqs(EntryFilter("video")) == [3]
    assert await seqs(EntryFilter("")) == [1]
    assert await seqs(EntryFilter(from_ms=START_MS + 5 * second)) == [6, 5]
    assert await seqs(EntryFilter(to_ms=START_MS + 3 * second)) == [2, 1]
    assert await seqs(
        EntryFilter("ai", from_ms=START_MS + 2 * second, to_ms=START_MS + 5 * second)
    ) == [4, 2]


@pytest.mark.parametrize(
    ("after_seconds", "ai", "video"),
    [
        (-1, None, None),
        (1.999, None, None),
        (2, Buckets(granted=100, available=100), None),
        (3, Buckets(granted=100, available=100), Buckets()),
        (4, Buckets(granted=100, available=70, held=30), Buckets()),
        (5.5, Buckets(granted=100, available=70, burned=30), Buckets()),
        (None, Buckets(granted=100, available=50, held=20, burned=30), Buckets()),
    ],
)
async def test_balance_at_an_instant_is_the_last_entry_before_it(
    past: Past, after_seconds: float | None, ai: Buckets | None, video: Buckets | None
) -> None:
    instant_ms = None if after_seconds is None else START_MS + int(after_seconds * 1_000)

    balance = await past.ledger.balance_at("tenant", "ada", instant_ms)

    found = {code: buckets for code, (buckets, _) in balance.credits.items()}
    expected = {"ai": ai, "video": video}
    assert found == {code: buckets for code, buckets in expected.items() if buckets is not None}
    assert balance.as_of_ms == past.entries[-1].event_ms


async def test_balance_of_an_unknown_account_is_empty(past: Past) -> None:
    balance = await past.ledger.balance_at("tenant", "nobody")

    assert (balance.credits, balance.as_of_ms) == ({}, 0)


async def test_explanation_leads_from_the_opening_to_the_closing_balance(past: Past) -> None:
    whole = await past.ledger.explain_balance("tenant", "ada", "ai", None, 100)
    newest = await past.ledger.explain_balance("tenant", "ada", "ai", None, 2)
    then = await past.ledger.explain_balance("tenant", "ada", "ai", START_MS + 4_000, 100)
    none = await past.ledger.explain_balance("tenant", "ada", "music", None, 100)

    assert [each.entry.seq for each in whole.entries] == [2, 4, 5, 6]
    assert whole.opening == Buckets()
    assert whole.closing == Buckets(granted=100, available=50, held=20, burned=30)
    assert [each.entry.seq for each in newest.entries] == [5, 6]
    assert newest.opening == Buckets(granted=100, available=70, held=30)
    assert [each.entry.seq for each in then.entries] == [2, 4]
    assert (none.opening, none.entries, none.closing) == (Buckets(), (), Buckets())


async def test_tenants_do_not_see_each_other(past: Past) -> None:
    """I20: the same names in two tenants are two accounts."""
    ledger, commit = past.ledger, past.entries[4]

    assert [
        each.entry.partition for each in await ledger.list_entries("other", "ada", limit=9)
    ] == [1, 1]
    assert await ledger.hold_entries("other", HOLD) == []
    assert await ledger.transaction_entries("other", 0, 1, 1) == []
    assert await ledger.find_hold("other", HOLD) is None
    assert await ledger.find_operation("other", "Commit", commit.context.key) is None
    assert await ledger.burned_by("other", commit.transaction_id) is None
    assert [grant.terms.amount for grant in await ledger.list_grants("other", "ada", limit=9)] == [
        7
    ]


async def test_what_was_answered_is_found_under_its_key(past: Past) -> None:
    commit = past.entries[4]

    operation = await past.ledger.find_operation("tenant", "Commit", commit.context.key)

    assert operation is not None
    assert (operation.answer, operation.fingerprint) == (b"committed", b"f")
    assert (operation.partition, operation.epoch, operation.first_seq) == (0, 1, 5)
    assert await past.ledger.find_operation("tenant", "Release", commit.context.key) is None
    assert (
        await past.ledger.find_operation("tenant", "Reserve", past.entries[3].context.key) is None
    )


async def test_what_became_of_a_hold(past: Past) -> None:
    settled = await past.ledger.find_hold("tenant", HOLD)
    still_open = await past.ledger.find_hold("tenant", "0c" * 16)

    assert settled is not None
    assert (settled.state, settled.ended_by) == (HoldState.COMMITTED, "0-1-5")
    assert (settled.burned, settled.account) == ({"ai": 30}, "ada")
    assert still_open is not None
    assert (still_open.state, still_open.ended_by, still_open.burned) == (HoldState.OPEN, "", {})
    assert await past.ledger.find_hold("tenant", "0d" * 16) is None


async def test_a_late_commit_of_an_expired_hold_shows(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    late = [
        story.grant("ada", 100),
        story.hold("ada", 30),
        story.expire("ada", 30),
        story.write(EntryKind.LATE_COMMIT, "ada", Buckets(available=-30, burned=30), hold=HOLD),
    ]
    await record(migrated_postgres_url, *late)

    hold = await ledger.find_hold("tenant", HOLD)

    assert hold is not None
    assert (hold.state, hold.ended_by) == (HoldState.COMMITTED, "0-1-4")
    assert hold.burned == {"ai": 30}


@pytest.fixture
async def in_parts(
    ledger: Ledger, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> list[Entry]:
    """A hold of 5 that are owed and 20 that are not, committed in 6 parts: twice what is read."""
    monkeypatch.setattr("holdfast_server.ledger.entries.HOLD_ENTRIES_MAX", 3)
    story = Story()
    held = Buckets(debt=5, unenforced=20, held=25)
    entries = [story.write(EntryKind.HOLD, "ada", held, hold=HOLD)]
    part = Buckets(held=-1, burned=1)
    entries += [story.write(EntryKind.COMMIT, "ada", part, hold=HOLD) for _ in range(5)]
    entries.append(replace(story.commit("ada", 20), grants=()))
    await record(migrated_postgres_url, *entries)
    return entries


async def test_a_hold_has_ended_however_many_parts_were_committed_before(
    ledger: Ledger, in_parts: list[Entry]
) -> None:
    hold = await ledger.find_hold("tenant", HOLD)

    assert hold is not None
    assert (hold.state, hold.ended_by) == (HoldState.COMMITTED, "0-1-7")
    assert (hold.burned, hold.account, hold.seq) == ({"ai": 25}, "ada", 7)
    newest = [found.entry.seq for found in await ledger.hold_entries("tenant", HOLD)]
    assert newest == [5, 6, 7]


async def test_what_is_owed_is_known_however_many_parts_were_committed_before(
    ledger: Ledger, in_parts: list[Entry]
) -> None:
    first, last = in_parts[1].transaction_id, in_parts[-1].transaction_id

    async def parts(name: str) -> list[tuple[str, int]]:
        burned = await ledger.burned_by("tenant", name)
        assert burned is not None
        plan = plan_refund(Refund("tenant", name, "key"), burned)
        return [(part.source, part.amount) for part in plan.parts]

    assert await parts(first) == [(DEBT, 1)]
    assert await parts(last) == [(UNENFORCED, 20)]


async def test_entries_of_a_transaction_stay_together(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    first = story.grant("ada", 100)
    second = story.write(EntryKind.HOLD, "ada", Buckets(), credit_type="ai")
    third = replace(story.write(EntryKind.HOLD, "team", Buckets()), first_seq=second.seq)
    await record(migrated_postgres_url, first, second, third, story.hold("ada", 1))

    found = await ledger.transaction_entries("tenant", 0, 1, 2)

    assert [each.entry.seq for each in found] == [2, 3]
    assert await ledger.transaction_entries("tenant", 0, 1, 3) == []
    assert await ledger.transaction_entries("tenant", 0, 2, 2) == []


async def test_what_a_transaction_burned_and_what_came_back(
    past: Past, migrated_postgres_url: str
) -> None:
    commit = past.entries[4]
    story = Story(seq=6, now_ms=past.entries[-1].event_ms)
    story.states["ada", "ai"] = past.entries[-1].version, past.entries[-1].after
    refund = story.write(
        EntryKind.REFUND,
        "ada",
        Buckets(burned=-10, available=10),
        grants=(GrantPosting(GRANT, burned=-10, remaining=10),),
        refund_of=commit.transaction_id,
    )
    await record(migrated_postgres_url, refund)

    burned = await past.ledger.burned_by("tenant", commit.transaction_id)

    assert burned is not None
    assert [each.entry.seq for each in burned.burns] == [5]
    assert burned.refunded == {"ai": 10}
    assert (burned.partition, burned.epoch, burned.as_of_seq) == (0, 1, 7)
    assert burned.grants[GRANT].credit_type == "ai"
    assert burned.revoked == frozenset()
    for other in ("0-1-4", "0-1-99", "nonsense", ""):
        assert await past.ledger.burned_by("tenant", other) is None


async def test_any_number_of_refunds_gives_back_no_more_than_was_burned(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story, count = Story(), 10_001
    burn = [story.grant("ada", count), story.hold("ada", count), story.commit("ada", count)]
    name = burn[-1].transaction_id
    refunds = [
        story.write(
            EntryKind.REFUND,
            "ada",
            Buckets(burned=-1, available=1),
            grants=(GrantPosting(GRANT, burned=-1, remaining=1),),
            refund_of=name,
        )
        for _ in range(count)
    ]
    await record(migrated_postgres_url, *burn, *refunds)

    burned = await ledger.burned_by("tenant", name)

    assert burned is not None
    with pytest.raises(HoldfastError) as caught:
        plan_refund(Refund("tenant", name, "key", (RefundLine("ai", 1),)), burned)
    assert caught.value.metadata == {"refundable": "0"}


async def test_grants_show_what_became_of_them(past: Past, migrated_postgres_url: str) -> None:
    story = Story(seq=6, now_ms=past.entries[-1].event_ms)
    story.states["ada", "ai"] = past.entries[-1].version, past.entries[-1].after
    expires_at_ms = START_MS + 86_400_000
    await record(
        migrated_postgres_url,
        story.grant("ada", 5, OTHER_GRANT, expires_at_ms=expires_at_ms, source=2, cost_amount=0),
    )

    newest, oldest = await past.ledger.list_grants("tenant", "ada", limit=10)

    assert (newest.grant_id, newest.remaining) == (OTHER_GRANT, 5)
    assert newest.terms.expires_at_ms == expires_at_ms
    assert newest.terms.effective_at_ms == newest.granted_at_ms
    assert (oldest.grant_id, oldest.terms.amount, oldest.issuer) == (GRANT, 100, "till")
    assert (oldest.remaining, oldest.held, oldest.burned) == (50, 20, 30)
    assert (oldest.terms.cost_amount, oldest.terms.labels) == (990, {"order": "4711"})
    assert oldest.transaction_id == "0-1-2"
    page = await past.ledger.list_grants("tenant", "ada", limit=1, before=newest.place)
    assert [grant.grant_id for grant in page] == [GRANT]
    assert await past.ledger.list_grants("tenant", "ada", credit_type="video", limit=9) == []


async def test_a_grant_that_is_not_effective_yet_has_all_of_its_amount(
    ledger: Ledger, migrated_postgres_url: str
) -> None:
    story = Story()
    pending = story.grant("ada", 5, effective_at_ms=START_MS + 86_400_000)
    await record(
        migrated_postgres_url, replace(pending, delta=Buckets(), after=Buckets(), grants=())
    )

    (grant,) = await ledger.list_grants("tenant", "ada", limit=10)

    assert (grant.terms.amount, grant.remaining) == (5, 5)


async def test_accounts_are_listed_by_id(ledger: Ledger, migrated_postgres_url: str) -> None:
    story = Story()
    await record(
        migrated_postgres_url,
        *(story.account(name, parent="org") for name in ("cleo", "ada", "bob")),
        story.account("org"),
    )

    everyone = [each.account for each in await ledger.list_accounts("tenant", limit=3)]
    rest = [each.account for each in await ledger.list_accounts("tenant", limit=3, after="cleo")]
    below = [each.account for each in await ledger.list_accounts("tenant", parent="org", limit=9)]

    assert (everyone, rest, below) == (["ada", "bob", "cleo"], ["org"], ["ada", "bob", "cleo"])
    assert await ledger.get_account("tenant", "nobody") is None


async def test_an_account_has_all_its_terms(ledger: Ledger, migrated_postgres_url: str) -> None:
    await record(migrated_postgres_url, Story().account("ada"))

    account = await ledger.get_account("tenant", "ada")

    assert account is not None
    assert (account.root, account.version, account.created_at_ms) == ("ada", 1, START_MS)
    assert account.terms.overdraft_limits == {"ai": 500}
    assert [limit.limit_id for limit in account.terms.limits] == ["daily"]
    assert account.terms.limits[0].warn_percents == (80, 95)
    assert account.terms.zone == "Europe/Berlin"


async def test_the_end_of_the_last_year_is_read_wherever_the_server_is(
    migrated_postgres_url: str,
) -> None:
    url = migrated_postgres_url
    query(
        url,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET timezone = %L', current_database(), 'Asia/Tokyo'); END $$",
    )
    story = Story()
    given = story.account("ada"), story.grant("ada", 100, expires_at_ms=LAST_SECOND_MS)
    burn = story.write(
        EntryKind.BURN,
        "ada",
        Buckets(available=-30, burned=30),
        grants=(GrantPosting(GRANT, remaining=-30, burned=30),),
    )
    async with open_ledger(url) as ledger:
        await record(url, *given, burn)
        (grant,) = await ledger.list_grants("tenant", "ada", limit=10)
        burned = await ledger.burned_by("tenant", burn.transaction_id)
        (due,) = await ledger.due_between(0, 1, 10)

    assert burned is not None
    expiries = grant.terms.expires_at_ms, burned.grants[GRANT].expires_at_ms, due.due_ms
    assert set(expiries) == {LAST_SECOND_MS}
