"""Tenants that share every name and every key cannot see or touch each other (invariant I20)."""

from __future__ import annotations

import base64
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast_server.domain.token import HOLD_ID_BYTES
from holdfast_server.errors import Reason
from tests.api.service import ROOT_TOKEN, ApiService
from tests.api.world import World, eventually
from tests.support.stubs import Stubs, stubs
from tests.support.wire import refused

TENANTS = 4
STEPS = 60
ACCOUNTS = ("shared-1", "shared-2")
CREDITS = 1_000
#: Keys that every tenant uses for the same steps.
KEYS = [f"key-{number}" for number in range(STEPS)]


@dataclass
class Book:
    """What a tenant should have, kept beside the service."""

    world: World
    burned: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    holds: dict[str, tuple[str, int]] = field(default_factory=dict)

    def expected(self, account: str) -> tuple[int, int, int]:
        """Available, held and burned."""
        burned, held = self.burned[account], self.held[account]
        return CREDITS - burned - held, held, burned


@pytest.mark.parametrize("seed", range(3))
async def test_tenants_with_the_same_names_and_keys_do_not_touch(
    service: ApiService, seed: int
) -> None:
    rng, run = random.Random(seed), uuid4().hex[:8]
    async with stubs(service.port, token=ROOT_TOKEN) as client:
        books = [await opened(service, client, f"{run}-{number}") for number in range(TENANTS)]
        for key in KEYS:
            for book in rng.sample(books, 2):
                await step(rng, book, books, key)
        for book, other in zip(books, [*books[1:], books[0]], strict=True):
            await agrees(book, other.world.tenant)


async def opened(service: ApiService, client: Stubs, tenant: str) -> Book:
    """A tenant with the same accounts as every other."""
    world = World(service, client, tenant)
    await world.create_credit_type("ai")
    for account in ACCOUNTS:
        await world.create_account(credits=CREDITS, account=account)
    return Book(world)


async def step(rng: random.Random, book: Book, books: list[Book], key: str) -> None:
    """One random operation of one tenant; sometimes with something of another tenant's."""
    account, amount = rng.choice(ACCOUNTS), rng.randint(1, 5)
    act = rng.choice(["burn", "reserve", "commit", "release", "steal"])
    client, world = book.world.client.balance, book.world
    if act == "burn":
        answer = await client.Burn(world.burn(account, amount, idempotency_key=key))
        assert not answer.applied.replayed
        book.burned[account] += amount
    elif act == "reserve":
        hold = await world.hold(account, amount, idempotency_key=key)
        book.holds[hold] = account, amount
        book.held[account] += amount
    elif act == "steal":
        await steal(rng, book, books, key)
    elif book.holds:
        hold, (account, amount) = book.holds.popitem()
        book.held[account] -= amount
        if act == "commit":
            await client.Commit(world.commit(hold, idempotency_key=key))
            book.burned[account] += amount
        else:
            await client.Release(world.release(hold, idempotency_key=key))


async def steal(rng: random.Random, book: Book, books: list[Book], key: str) -> None:
    """Settling another tenant's hold is as impossible as settling one that never was."""
    others = [hold for other in books if other is not book for hold in other.holds]
    if not others:
        return
    client, world, hold = book.world.client.balance, book.world, rng.choice(others)
    calls: list[Any] = [
        client.Commit(world.commit(hold, idempotency_key=key)),
        client.Release(world.release(hold, idempotency_key=key)),
    ]
    for call in calls:
        await refused(call, Reason.HOLD_NOT_FOUND)


async def agrees(book: Book, stranger: str) -> None:
    """Every read of a tenant shows what that tenant did, and nothing else."""
    world, tenant = book.world, book.world.tenant
    found = await world.client.accounts.ListCreditTypes(
        accounts.ListCreditTypesRequest(tenant=tenant)
    )
    assert [each.credit_type for each in found.credit_types] == ["ai"]
    for account in ACCOUNTS:
        buckets = await world.buckets(account)
        assert (buckets.available, buckets.held, buckets.burned) == book.expected(account)
        listed = await world.client.balance.ListHolds(
            balance.ListHoldsRequest(tenant=tenant, account=account, page_size=1_000)
        )
        own = {bare_id(hold) for hold, (owner, _) in book.holds.items() if owner == account}
        assert {bare_id(each.hold_id) for each in listed.holds} == own
        version = (await world.balance(account)).credits[0].version
        newest = await newest_entry(world, account, version)
        assert newest.after == buckets
        assert newest.caller == ROOT_TOKEN
        await agree_in_the_ledger(world, newest, stranger)


async def agree_in_the_ledger(world: World, newest: ledger.Entry, stranger: str) -> None:
    """A balance at an instant, and an explanation that is nobody else's: names of transactions say
    no tenant.
    """
    client, account = world.client.ledger, newest.account
    at = await client.GetBalanceAt(ledger.GetBalanceAtRequest(tenant=world.tenant, account=account))
    assert [each.buckets for each in at.credits] == [newest.after]
    name = newest.transaction_id
    why = await client.Explain(ledger.ExplainRequest(tenant=world.tenant, transaction_id=name))
    assert newest.hash in {each.hash for each in why.entries}
    theirs = ledger.ExplainRequest(tenant=stranger, transaction_id=name)
    await refused(client.Explain(theirs), Reason.TRANSACTION_NOT_FOUND)


def bare_id(hold_id: str) -> bytes:
    """What two spellings of a hold's name share: its id, behind kind and key."""
    return base64.urlsafe_b64decode(hold_id + "=" * (-len(hold_id) % 4))[2 : 2 + HOLD_ID_BYTES]


async def newest_entry(world: World, account: str, version: int) -> ledger.Entry:
    """The ledger's entry that brought the account to a version, once it is there."""
    found: list[ledger.Entry] = []

    async def is_there() -> bool:
        entries = await world.entries(account, at_least=1)
        found[:] = [each for each in entries if each.credit_type and each.version == version]
        return bool(found)

    await eventually(is_there)
    return found[0]
