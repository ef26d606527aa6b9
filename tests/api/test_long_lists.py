"""Lists of what has many labels: callers that set nothing read 4 MiB."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as entries
from holdfast_server.api.accounts import AccountService
from holdfast_server.api.auth.principal import Principal, Role
from holdfast_server.api.call import Call, charged
from holdfast_server.api.grants import GrantService
from holdfast_server.api.ledger import LedgerService
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.room import LISTED_BYTES_MAX
from holdfast_server.domain.bounds import LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX
from holdfast_server.domain.entry import Entry, EntryKind
from holdfast_server.domain.reply import Buckets
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.tracing import Span
from tests.support.entries import Story
from tests.support.ledger import open_ledger, record

CALL = Call(Principal("auditor", "tenant", frozenset(Role)), Span(), charged)
PAGES = PageTokens(b"k" * 32)
#: As many as one page may have; together they are more than 4 MiB.
COUNT = 1_000
LABELS = {f"{n:0{LABEL_KEY_BYTES_MAX}}": "x" * LABEL_VALUE_BYTES_MAX for n in range(LABELS_MAX)}


@pytest.fixture
async def ledger(migrated_postgres_url: str) -> Any:
    """Accounts, grants and entries with as many labels as they may have."""
    story = Story()
    told = [story.account(f"account-{n:04}", labels=LABELS) for n in range(COUNT)]
    told += [story.grant("ada", 1, f"{n:032x}", labels=LABELS) for n in range(COUNT)]
    given = Buckets(granted=1, available=1)
    told += [labelled(story.write(EntryKind.GRANT_EFFECTIVE, "bob", given)) for _ in range(COUNT)]
    async with open_ledger(migrated_postgres_url) as opened:
        await record(migrated_postgres_url, *told)
        yield opened


def labelled(entry: Entry) -> Entry:
    return replace(entry, context=replace(entry.context, labels=LABELS))


async def test_lists_come_in_pages_that_callers_can_read(ledger: Ledger) -> None:
    lists: list[tuple[Any, Any, str]] = [
        (
            AccountService(None, None, ledger, None, PAGES).list_accounts,  # type: ignore[arg-type]
            accounts.ListAccountsRequest(page_size=COUNT),
            "accounts",
        ),
        (
            GrantService(None, ledger, PAGES).list_grants,  # type: ignore[arg-type]
            grants.ListGrantsRequest(account="ada", page_size=COUNT),
            "grants",
        ),
        (
            LedgerService(ledger, PAGES, 4).list_entries,
            entries.ListEntriesRequest(account="bob", page_size=COUNT),
            "entries",
        ),
    ]
    for ask, request, listed in lists:
        pages = list[list[str]]()
        while not pages or request.page_token:
            answer = await ask(CALL, request)
            assert answer.ByteSize() < 1.1 * LISTED_BYTES_MAX
            pages.append([str(each) for each in getattr(answer, listed)])
            request.page_token = answer.next_page_token
        assert len(pages) > 1
        assert len({each for page in pages for each in page}) == sum(map(len, pages)) == COUNT


async def test_an_explanation_has_the_newest_that_callers_can_read(ledger: Ledger) -> None:
    subject = entries.BalanceSubject(account="bob", credit_type="ai")
    request = entries.ExplainRequest(balance=subject, maximum_entries=COUNT)
    answer = await LedgerService(ledger, PAGES, 4).explain(CALL, request)
    assert answer.ByteSize() < 1.1 * LISTED_BYTES_MAX
    versions = [each.version for each in answer.entries]
    assert answer.opening.available == versions[0] - 1 > 0
    assert versions == list(range(versions[0], COUNT + 1))
