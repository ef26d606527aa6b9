"""Requests of a wrong form: rows A1 to A18, A31, A32 and A54 of the abuse matrix.

Each is refused with its exact reason and field, and changes nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import types_pb2 as types
from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.errors import Reason
from tests.api.world import World, uuid7
from tests.support.wire import refused

#: Ids that are longer, emptier or stranger than any of ours.
WRONG_IDS = [
    pytest.param("", id="empty"),
    pytest.param("a" * 129, id="129 bytes"),
    pytest.param("a" * 900_000, id="900 kB"),
    *("a b", "a\0b", "a\nb", "a\x1b[31mb", "a\u202eb", "a\u200bb", "a\tb", "a\x7fb", "\uff41"),
    *("a:b", "a/b", "{p07}", "{}", "}", "{evil}{p07}", "a\r\nDEL x", "*", "a%2fb", "a@b"),
    pytest.param("\u0430ccount", id="Cyrillic a"),
    pytest.param("caf\u00e9", id="NFC"),
    pytest.param("cafe\u0301", id="NFD"),
]
LABEL_FAULTS = [
    pytest.param({f"k{number}": "v" for number in range(17)}, id="17 pairs"),
    pytest.param({f"k{number}": "" for number in range(10_000)}, id="10,000 pairs"),
    pytest.param({"k" * 65: "v"}, id="long key"),
    pytest.param({"k": "v" * 257}, id="long value"),
    pytest.param({"k": "v" * 900_000}, id="900 kB value"),
    pytest.param({"k": "\u00e9" * 129}, id="258 bytes in 129 characters"),
]


def line(amount: int, credit_type: str = "ai", **changes: Any) -> types.Line:
    return types.Line(credit_type=credit_type, amount=amount, **changes)


@pytest.mark.parametrize("amount", [-1, -(2**63)])
async def test_a01_negative_amount(world: World, amount: int) -> None:
    account = await world.create_account(credits=100)
    client = world.client
    for call, name in (
        (client.balance.Reserve(world.reserve(account, amount)), "lines[0].amount"),
        (client.balance.Burn(world.burn(account, amount)), "lines[0].amount"),
        (client.grants.Grant(world.grant(account, amount=amount)), "terms.amount"),
    ):
        refusal = await world.refuses(call, Reason.AMOUNT_NOT_POSITIVE, account)
        assert refusal.metadata == {"field": name}


async def test_a01_negative_amount_of_a_commit(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    request = world.commit(hold, lines=[balance.CommitLine(credit_type="ai", amount=-1)])
    await world.refuses(world.client.balance.Commit(request), Reason.AMOUNT_NOT_POSITIVE, account)


async def test_a02_zero_amount(world: World) -> None:
    account = await world.create_account(credits=100)
    client = world.client
    for call in (
        client.balance.Reserve(world.reserve(account, 0)),
        client.balance.Burn(world.burn(account, 0)),
        client.grants.Grant(world.grant(account, amount=0)),
        client.balance.Reserve(world.reserve(account, lines=[line(5, minimum_amount=0)])),
    ):
        await world.refuses(call, Reason.AMOUNT_NOT_POSITIVE, account)


async def test_a02_a_commit_of_nothing_is_a_release(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account, 30)
    request = world.commit(hold, lines=[balance.CommitLine(credit_type="ai", amount=0)])
    answer = await world.client.balance.Commit(request)
    assert answer.state == types.HOLD_STATE_RELEASED
    assert (await world.buckets(account)).available == 100
    assert (await world.buckets(account)).burned == 0


@pytest.mark.parametrize("amount", [AMOUNT_MAX + 1, 2**63 - 1])
async def test_a03_amount_above_what_a_double_holds(world: World, amount: int) -> None:
    account = await world.create_account(credits=100)
    client = world.client
    for call in (
        client.balance.Reserve(world.reserve(account, amount)),
        client.balance.Burn(world.burn(account, amount)),
        client.grants.Grant(world.grant(account, amount=amount)),
    ):
        refusal = await world.refuses(call, Reason.AMOUNT_TOO_LARGE, account)
        assert refusal.metadata["maximum"] == str(AMOUNT_MAX)


async def test_a04_a_sum_above_what_a_double_holds(world: World) -> None:
    account = await world.create_account(credits=AMOUNT_MAX)
    call = world.client.grants.Grant(world.grant(account, amount=1))
    refusal = await world.refuses(call, Reason.BALANCE_LIMIT_EXCEEDED, account)
    assert refusal.metadata == {"credit_type": "ai"}
    assert (await world.buckets(account)).available == AMOUNT_MAX


async def test_a05_a_varint_that_overflows_to_a_negative_number(world: World) -> None:
    account = await world.create_account(credits=100)
    good = world.reserve(account, 1).SerializeToString()
    # The amount's one byte becomes ten bytes of ones: two to the 64th, less one.
    nested = line(1).SerializeToString()
    overflowing = nested.replace(b"\x10\x01", b"\x10" + b"\xff" * 9 + b"\x01")
    bad = good.replace(
        b"\x1a" + bytes([len(nested)]) + nested, b"\x1a" + bytes([len(overflowing)]) + overflowing
    )
    assert len(bad) == len(good) + 9
    call = world.client.raw("BalanceService/Reserve", bad)
    await world.refuses(call, Reason.AMOUNT_NOT_POSITIVE, account)


@pytest.mark.parametrize("amount", [123_456_789_012_345, AMOUNT_MAX - 1, AMOUNT_MAX])
async def test_a07_large_amounts_stay_exact_to_the_ledger(world: World, amount: int) -> None:
    account = await world.create_account(credits=amount)
    assert (await world.buckets(account)).available == amount
    assert (await world.client.balance.Burn(world.burn(account, amount))).lines[0].burned == amount
    newest = (await world.entries(account, at_least=3))[0]
    assert newest.after.burned == newest.delta.burned == amount
    assert newest.grants[0].burned == amount


@pytest.mark.parametrize("identifier", WRONG_IDS)
async def test_a08_a09_a10_a11_a12_a14_wrong_ids(world: World, identifier: str) -> None:
    account = await world.create_account(credits=100)
    client, key, tenant = world.client, uuid7(), world.tenant
    calls: dict[str, list[Any]] = {
        "account": [
            client.balance.Reserve(world.reserve(identifier)),
            client.balance.Burn(world.burn(identifier)),
            client.balance.Balance(balance.BalanceRequest(tenant=tenant, account=identifier)),
            client.balance.ListHolds(balance.ListHoldsRequest(tenant=tenant, account=identifier)),
            client.grants.Grant(world.grant(identifier)),
            client.grants.ListGrants(grants.ListGrantsRequest(tenant=tenant, account=identifier)),
            client.accounts.GetAccount(
                accounts.GetAccountRequest(tenant=tenant, account=identifier)
            ),
            client.ledger.ListEntries(ledger.ListEntriesRequest(tenant=tenant, account=identifier)),
        ],
        "account.account": [
            client.accounts.CreateAccount(
                accounts.CreateAccountRequest(
                    tenant=tenant,
                    account=accounts.Account(account=identifier),
                    idempotency_key=key,
                )
            )
        ],
        "lines[0].credit_type": [
            client.balance.Reserve(world.reserve(account, lines=[line(1, identifier)]))
        ],
    }
    if identifier:
        calls["feature"] = [client.balance.Reserve(world.reserve(account, feature=identifier))]
        calls["account.parent"] = [
            client.accounts.CreateAccount(
                accounts.CreateAccountRequest(
                    tenant=tenant,
                    account=accounts.Account(account="child", parent=identifier),
                    idempotency_key=key,
                )
            )
        ]
    async with world.unchanged(account):
        for name, each in calls.items():
            for call in each:
                refusal = await refused(call, Reason.ID_INVALID)
                assert refusal.metadata == {"field": name}


@pytest.mark.parametrize("tenant", ["", "a" * 129, "a:b", "\u0430", "*", "{p07}"])
async def test_a08_a09_wrong_tenants(world: World, tenant: str) -> None:
    account = await world.create_account(credits=100)
    call = world.client.balance.Reserve(world.reserve(account, tenant=tenant))
    refusal = await world.refuses(call, Reason.ID_INVALID, account)
    assert refusal.metadata == {"field": "tenant"}


async def test_a09_a_lone_surrogate_is_no_text(world: World) -> None:
    account = await world.create_account(credits=100)
    good = world.reserve(account, feature="xyz").SerializeToString()
    bad = good.replace(b"xyz", b"\xed\xa0\x80")
    call = world.client.raw("BalanceService/Reserve", bad)
    await world.refuses(call, Reason.MALFORMED_REQUEST, account)


@pytest.mark.parametrize("number", [99, -1, 2**31 - 1])
async def test_a16_unknown_enum_numbers(world: World, number: int) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    client = world.client
    calls: dict[str, Any] = {
        "fit": client.balance.Reserve(world.reserve(account, fit=number)),
        "durability": client.balance.Burn(world.burn(account, durability=number)),
        "overage": client.balance.Commit(world.commit(hold, overage=number)),
        "terms.source": client.grants.Grant(world.grant(account, source=number)),
    }
    for name, call in calls.items():
        refusal = await world.refuses(call, Reason.ENUM_UNKNOWN, account)
        assert refusal.metadata == {"field": name}


async def test_a16_a_choice_that_is_required(world: World) -> None:
    account = await world.create_account(credits=100)
    call = world.client.grants.Grant(world.grant(account, source=types.GRANT_SOURCE_UNSPECIFIED))
    await world.refuses(call, Reason.ENUM_UNKNOWN, account)


def mutations(world: World, account: str, hold: str, key: str) -> list[Any]:
    """Every mutation of the hot path and of grants under one key."""
    client = world.client
    extend = balance.ExtendRequest(
        tenant=world.tenant, hold_id=hold, ttl_ms=60_000, idempotency_key=key
    )
    refund = balance.RefundRequest(tenant=world.tenant, transaction_id="1-1-1", idempotency_key=key)
    grant = world.grant(account)
    grant.idempotency_key = key
    revoke = grants.RevokeRequest(
        tenant=world.tenant, account=account, grant_id="0" * 32, idempotency_key=key
    )
    create = accounts.CreateAccountRequest(
        tenant=world.tenant, account=accounts.Account(account="b"), idempotency_key=key
    )
    return [
        client.balance.Reserve(world.reserve(account, idempotency_key=key)),
        client.balance.Burn(world.burn(account, idempotency_key=key)),
        client.balance.Commit(world.commit(hold, idempotency_key=key)),
        client.balance.Release(world.release(hold, idempotency_key=key)),
        client.balance.Extend(extend),
        client.balance.Refund(refund),
        client.grants.Grant(grant),
        client.grants.Revoke(revoke),
        client.accounts.CreateAccount(create),
    ]


async def test_a17_missing_idempotency_key(world: World) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    async with world.unchanged(account):
        for call in mutations(world, account, hold, ""):
            refusal = await refused(call, Reason.IDEMPOTENCY_KEY_REQUIRED)
            assert refusal.metadata == {"field": "idempotency_key"}


@pytest.mark.parametrize("key", ["k" * 129, "k\n", "k\0", "clé", "\u200b", "k\x7f"])
async def test_a18_wrong_idempotency_key(world: World, key: str) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    async with world.unchanged(account):
        for call in mutations(world, account, hold, key):
            await refused(call, Reason.IDEMPOTENCY_KEY_INVALID)


async def test_a18_a_key_of_little_entropy_is_the_callers_matter(world: World) -> None:
    account = await world.create_account(credits=100)
    for key in ("1", " ", "~", "k" * 128):
        await world.client.balance.Burn(world.burn(account, 1, idempotency_key=key))
    assert (await world.buckets(account)).burned == 4


@pytest.mark.parametrize("ttl_ms", [0, -1, 999, 86_400_001, 10 * 365 * 86_400_000, -(2**63)])
async def test_a31_time_to_live_out_of_range(world: World, ttl_ms: int) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    extend = balance.ExtendRequest(
        tenant=world.tenant, hold_id=hold, ttl_ms=ttl_ms, idempotency_key=uuid7()
    )
    calls: list[Any] = [
        world.client.balance.Reserve(world.reserve(account, ttl_ms=ttl_ms)),
        world.client.balance.Extend(extend),
    ]
    if ttl_ms:
        calls.append(world.client.balance.Commit(world.commit(hold, final=False, ttl_ms=ttl_ms)))
    for call in calls:
        refusal = await world.refuses(call, Reason.TTL_OUT_OF_RANGE, account)
        assert refusal.metadata == {
            "field": "ttl_ms",
            "minimum_ms": "1000",
            "maximum_ms": "86400000",
        }


def test_a32_no_request_for_a_hold_carries_an_instant() -> None:
    requests = [
        method.input_type
        for method in balance.DESCRIPTOR.services_by_name["BalanceService"].methods
    ]
    names = [
        field.message_type.full_name
        for request in requests
        for field in request.fields
        if field.message_type is not None
    ]
    assert requests
    assert "google.protobuf.Timestamp" not in names


@pytest.mark.parametrize("labels", LABEL_FAULTS)
async def test_a54_labels_beyond_their_limits(world: World, labels: dict[str, str]) -> None:
    account = await world.create_account(credits=100)
    hold = await world.hold(account)
    client = world.client
    for call, name in (
        (client.balance.Reserve(world.reserve(account, labels=labels)), "labels"),
        (client.balance.Burn(world.burn(account, labels=labels)), "labels"),
        (client.balance.Commit(world.commit(hold, labels=labels)), "labels"),
        (client.grants.Grant(world.grant(account, labels=labels)), "terms.labels"),
    ):
        refusal = await world.refuses(call, Reason.METADATA_LIMIT, account)
        assert refusal.metadata["field"] == name


async def test_a54_a_label_that_the_ledger_cannot_store(world: World) -> None:
    account = await world.create_account(credits=100)
    call = world.client.balance.Burn(world.burn(account, labels={"k": "a\0b"}))
    await world.refuses(call, Reason.FIELD_INVALID, account)


async def test_the_fault_of_highest_precedence_is_named(world: World) -> None:
    account = await world.create_account(credits=100)
    request = world.reserve("a:b", -1, ttl_ms=0, fit=99, labels={"k" * 65: ""}, idempotency_key="")
    order: list[tuple[Reason, dict[str, Any]]] = [
        (Reason.ID_INVALID, {"account": account}),
        (Reason.ENUM_UNKNOWN, {"fit": types.FIT_EXACT}),
        (Reason.IDEMPOTENCY_KEY_REQUIRED, {"idempotency_key": uuid7()}),
        (Reason.AMOUNT_NOT_POSITIVE, {"lines": [line(AMOUNT_MAX + 1), line(1)]}),
        (Reason.AMOUNT_TOO_LARGE, {"lines": [line(1), line(1)]}),
        (Reason.LINES_INVALID, {"lines": [line(1)]}),
        (Reason.TTL_OUT_OF_RANGE, {"ttl_ms": 1_000}),
        (Reason.METADATA_LIMIT, {"labels": {}}),
    ]
    for reason, cure in order:
        await world.refuses(world.client.balance.Reserve(request), reason, account)
        cured = balance.ReserveRequest(**cure)
        for field in [each for each in request.DESCRIPTOR.fields if each.name in cure]:
            request.ClearField(field.name)  # type: ignore[arg-type]  # any of its own fields
        request.MergeFrom(cured)
    assert (await world.client.balance.Reserve(request)).hold_id
