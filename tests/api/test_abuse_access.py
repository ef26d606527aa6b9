"""Who may do what, and for which tenant: rows A34, A38 to A40, A67, A68 and A71."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from holdfast.v1 import account_service_pb2 as accounts
from holdfast.v1 import balance_service_pb2 as balance
from holdfast.v1 import control_service_pb2 as control
from holdfast.v1 import grant_service_pb2 as grants
from holdfast.v1 import ledger_service_pb2 as ledger
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.auth.principal import Role
from holdfast_server.api.auth.roles import ROLES
from holdfast_server.errors import Reason
from tests.api.service import ROOT_TOKEN, TENANT, ApiService, token_of
from tests.api.world import World, eventually, uuid7
from tests.support.stubs import Stubs, stubs
from tests.support.wire import read_refusal, refused

Ask = Callable[[Stubs], Awaitable[object]]

#: One request of every method, in its emptiest form: only the role is to be judged.
REQUESTS: dict[str, Ask] = {
    "BalanceService/Reserve": lambda c: c.balance.Reserve(balance.ReserveRequest()),
    "BalanceService/Commit": lambda c: c.balance.Commit(balance.CommitRequest()),
    "BalanceService/Release": lambda c: c.balance.Release(balance.ReleaseRequest()),
    "BalanceService/Extend": lambda c: c.balance.Extend(balance.ExtendRequest()),
    "BalanceService/Burn": lambda c: c.balance.Burn(balance.BurnRequest()),
    "BalanceService/Refund": lambda c: c.balance.Refund(balance.RefundRequest()),
    "BalanceService/Balance": lambda c: c.balance.Balance(balance.BalanceRequest()),
    "BalanceService/ListHolds": lambda c: c.balance.ListHolds(balance.ListHoldsRequest()),
    "BalanceService/AwaitDurable": lambda c: c.balance.AwaitDurable(balance.AwaitDurableRequest()),
    "BalanceService/Session": lambda c: _first(c.session()),
    "BalanceService/Batch": lambda c: c.balance.Batch(balance.BatchRequest()),
    "AccountService/CreateAccount": lambda c: c.accounts.CreateAccount(
        accounts.CreateAccountRequest()
    ),
    "AccountService/UpdateAccount": lambda c: c.accounts.UpdateAccount(
        accounts.UpdateAccountRequest()
    ),
    "AccountService/GetAccount": lambda c: c.accounts.GetAccount(accounts.GetAccountRequest()),
    "AccountService/ListAccounts": lambda c: c.accounts.ListAccounts(
        accounts.ListAccountsRequest(page_size=-1)
    ),
    "AccountService/CreateCreditType": lambda c: c.accounts.CreateCreditType(
        accounts.CreateCreditTypeRequest()
    ),
    "AccountService/ListCreditTypes": lambda c: c.accounts.ListCreditTypes(
        accounts.ListCreditTypesRequest(tenant="other")
    ),
    "GrantService/Grant": lambda c: c.grants.Grant(grants.GrantRequest()),
    "GrantService/Revoke": lambda c: c.grants.Revoke(grants.RevokeRequest()),
    "GrantService/ListGrants": lambda c: c.grants.ListGrants(grants.ListGrantsRequest()),
    "ControlService/SetPolicy": lambda c: c.control.SetPolicy(control.SetPolicyRequest()),
    "ControlService/GetPolicy": lambda c: c.control.GetPolicy(control.GetPolicyRequest()),
    "ControlService/ListPolicies": lambda c: c.control.ListPolicies(
        control.ListPoliciesRequest(tenant="other")
    ),
    "ControlService/ListPolicyChanges": lambda c: c.control.ListPolicyChanges(
        control.ListPolicyChangesRequest(tenant="other")
    ),
    "ControlService/GetFleet": lambda c: c.control.GetFleet(control.GetFleetRequest()),
    "LedgerService/ListEntries": lambda c: c.ledger.ListEntries(ledger.ListEntriesRequest()),
    "LedgerService/GetBalanceAt": lambda c: c.ledger.GetBalanceAt(ledger.GetBalanceAtRequest()),
    "LedgerService/Explain": lambda c: c.ledger.Explain(ledger.ExplainRequest()),
    "LedgerService/Verify": lambda c: c.ledger.Verify(ledger.VerifyRequest(partitions=[-1])),
}


async def _first(stream: Any) -> object:
    """The first message of a stream that asks for nothing, or why it was refused."""
    await stream.done_writing()
    return await stream.read()


@pytest.fixture(params=list(Role))
async def with_role(
    request: pytest.FixtureRequest, service: ApiService
) -> AsyncIterator[tuple[Role, Stubs]]:
    role: Role = request.param
    async with stubs(service.port, token=token_of(TENANT, role)) as client:
        yield role, client


async def test_a34_no_token_and_a_wrong_one(service: ApiService, world: World) -> None:
    account = await world.create_account(credits=100)
    async with (
        stubs(service.port) as nobody,
        stubs(service.port, token="guess") as guesser,
        world.unchanged(account),
    ):
        for ask in REQUESTS.values():
            await refused(ask(nobody), Reason.TOKEN_MISSING)
            await refused(ask(guesser), Reason.TOKEN_INVALID)


async def test_a38_every_method_asks_for_its_role(with_role: tuple[Role, Stubs]) -> None:
    role, client = with_role
    assert REQUESTS.keys() == ROLES.keys()
    for path, ask in REQUESTS.items():
        reason = await reason_of(ask(client))
        assert (reason is not Reason.ROLE_REQUIRED) == (role in ROLES[path]), path


async def test_a38_the_refusal_names_the_role(service: ApiService) -> None:
    async with stubs(service.port, token=token_of(TENANT, Role.READER)) as reader:
        refusal = await refused(REQUESTS["GrantService/Grant"](reader), Reason.ROLE_REQUIRED)
    assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
    assert refusal.metadata == {"required": "granter"}


async def reason_of(call: Awaitable[object]) -> Reason | None:
    """Why a call was refused; None for one that was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error).reason
    return None


async def test_a39_another_tenant_in_the_body(service: ApiService, world: World) -> None:
    account = await world.create_account(credits=100)
    async with stubs(service.port, token=token_of(TENANT, Role.SPENDER)) as spender:
        calls: list[Any] = [
            spender.balance.Reserve(world.reserve(account)),
            spender.balance.Burn(world.burn(account)),
            spender.balance.Balance(balance.BalanceRequest(tenant=world.tenant, account=account)),
            spender.balance.Commit(world.commit("x")),
        ]
        for call in calls:
            refusal = await world.refuses(call, Reason.TENANT_MISMATCH, account)
            assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
            assert refusal.metadata == {"field": "tenant"}
        own = balance.BatchItem(burn=world.burn(account, tenant=""))
        theirs = balance.BatchItem(burn=world.burn(account))
        call = spender.balance.Batch(balance.BatchRequest(items=[own, theirs]))
        refusal = await world.refuses(call, Reason.TENANT_MISMATCH, account)
        assert refusal.metadata == {"field": "items[1].tenant"}


async def test_a39_the_global_policy_is_not_a_tenants(service: ApiService) -> None:
    async with stubs(service.port, token=token_of(TENANT, Role.SRE)) as operator:
        request = set_policy(control.Scope(kind=control.Scope.KIND_GLOBAL))
        await refused(operator.control.SetPolicy(request), Reason.TENANT_MISMATCH)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.SRE])
async def test_a39_verification_is_not_a_tenants(service: ApiService, role: Role) -> None:
    """A partition holds entries of many tenants, and what is wrong with them names them."""
    async with stubs(service.port, token=token_of(TENANT, role)) as client:
        for request in (ledger.VerifyRequest(), ledger.VerifyRequest(partitions=[0])):
            refusal = await refused(client.ledger.Verify(request), Reason.TENANT_MISMATCH)
            assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
            assert refusal.metadata == {"field": "partitions"}


async def test_a40_a_recorded_request_that_is_sent_again(world: World) -> None:
    account = await world.create_account(credits=100)
    payload = world.burn(account, 10).SerializeToString()
    answers = [
        balance.BurnResponse.FromString(await world.client.raw("BalanceService/Burn", payload))
        for _ in range(5)
    ]
    assert [answer.applied.replayed for answer in answers] == [False] + [True] * 4
    assert (await world.buckets(account)).burned == 10


def set_policy(
    scope: control.Scope, *, tenant: str = "", expected_version: int = 0, **policy: Any
) -> control.SetPolicyRequest:
    """A SetPolicy that is right, but for the changes."""
    fields = {"mode": types.MODE_ENFORCE, **policy}
    return control.SetPolicyRequest(
        tenant=tenant,
        policy=control.Policy(scope=scope, **fields),
        expected_version=expected_version,
        reason="a test",
        idempotency_key=uuid7(),
    )


async def policies(world: World) -> list[control.Policy]:
    """The tenant's own policies."""
    found = await world.client.control.ListPolicies(
        control.ListPoliciesRequest(tenant=world.tenant)
    )
    return [each for each in found.policies if each.scope.kind != control.Scope.KIND_GLOBAL]


TENANT_SCOPE = control.Scope(kind=control.Scope.KIND_TENANT)


@pytest.mark.parametrize("dial", ["evaluate_percent", "enforce_percent"])
@pytest.mark.parametrize("percent", [-5, -1, 101, 2**31 - 1, -(2**31)])
async def test_a67_a_dial_out_of_range(world: World, dial: str, percent: int) -> None:
    request = set_policy(TENANT_SCOPE, tenant=world.tenant, **{dial: percent})
    refusal = await refused(world.client.control.SetPolicy(request), Reason.ROLLOUT_OUT_OF_RANGE)
    assert refusal.metadata == {"field": f"policy.{dial}"}
    assert await policies(world) == []


async def test_a67_a_dial_that_moves_too_far(world: World) -> None:
    request = set_policy(TENANT_SCOPE, tenant=world.tenant, enforce_percent=0)
    await refused(world.client.control.SetPolicy(request), Reason.ROLLOUT_OUT_OF_RANGE)
    assert await policies(world) == []
    request.force = True
    await world.client.control.SetPolicy(request)
    (policy,) = await policies(world)
    assert (policy.enforce_percent, policy.version) == (0, 1)
    assert policy.changed_by == ROOT_TOKEN
    assert policy.reason == "a test"


@pytest.mark.parametrize(
    ("scope", "reason"),
    [
        (control.Scope(), Reason.ENUM_UNKNOWN),
        (control.Scope(kind=control.Scope.KIND_ACCOUNT), Reason.ID_INVALID),
        (control.Scope(kind=control.Scope.KIND_TENANT, value="x"), Reason.FIELD_INVALID),
        (control.Scope(kind=control.Scope.KIND_FEATURE, value="a:b"), Reason.ID_INVALID),
    ],
)
async def test_a67_a_policy_without_a_scope(
    world: World, scope: control.Scope, reason: Reason
) -> None:
    request = set_policy(scope, tenant=world.tenant)
    await refused(world.client.control.SetPolicy(request), reason)
    assert await policies(world) == []


async def test_a67_a_policy_without_mode_or_reason(world: World) -> None:
    request = set_policy(TENANT_SCOPE, tenant=world.tenant, mode=types.MODE_UNSPECIFIED)
    await refused(world.client.control.SetPolicy(request), Reason.ENUM_UNKNOWN)
    silent = set_policy(TENANT_SCOPE, tenant=world.tenant)
    silent.reason = ""
    await refused(world.client.control.SetPolicy(silent), Reason.FIELD_INVALID)
    assert await policies(world) == []


async def test_a68_two_changes_at_one_time(world: World) -> None:
    modes = (types.MODE_SHADOW, types.MODE_ENFORCE)
    requests = [set_policy(TENANT_SCOPE, tenant=world.tenant, mode=mode) for mode in modes]
    results = await asyncio.gather(
        *(reason_of(world.client.control.SetPolicy(request)) for request in requests)
    )
    assert sorted(results, key=bool) == [None, Reason.CONFIG_VERSION_CONFLICT]
    (policy,) = await policies(world)
    assert policy.mode == modes[results.index(None)]
    refusal = await refused(
        world.client.control.SetPolicy(requests[1 - results.index(None)]),
        Reason.CONFIG_VERSION_CONFLICT,
    )
    assert refusal.metadata == {"version": "1"}
    again = await world.client.control.SetPolicy(requests[results.index(None)])
    assert again.replayed


async def change_modes(world: World, times: int) -> None:
    """Sets the tenant's policy so many times."""
    for version in range(times):
        request = set_policy(TENANT_SCOPE, tenant=world.tenant, expected_version=version)
        await world.client.control.SetPolicy(request)


def pages_of(world: World, account: str) -> dict[str, Any]:
    """For every list, a request for pages of one."""
    tenant = world.tenant
    return {
        "holds": balance.ListHoldsRequest(tenant=tenant, account=account, page_size=1),
        "accounts": accounts.ListAccountsRequest(tenant=tenant, page_size=1),
        "grants": grants.ListGrantsRequest(tenant=tenant, account=account, page_size=1),
        "entries": ledger.ListEntriesRequest(tenant=tenant, account=account, page_size=1),
        "changes": control.ListPolicyChangesRequest(tenant=tenant, page_size=1),
    }


def lists_of(client: Stubs) -> dict[str, Any]:
    return {
        "holds": client.balance.ListHolds,
        "accounts": client.accounts.ListAccounts,
        "grants": client.grants.ListGrants,
        "entries": client.ledger.ListEntries,
        "changes": client.control.ListPolicyChanges,
    }


async def test_a71_page_tokens_are_for_one_tenant_and_one_request(world: World) -> None:
    account, other = [await world.create_account(credits=10) for _ in range(2)]
    await world.client.grants.Grant(world.grant(account))
    for _ in range(2):
        await world.hold(account, 1)
    await world.entries(account, at_least=5)
    await world.entries(other, at_least=2)
    await change_modes(world, 2)
    requests = pages_of(world, account)
    tokens = {}
    for name, ask in lists_of(world.client).items():
        tokens[name] = (await ask(requests[name])).next_page_token
        assert tokens[name]
    for name, ask in lists_of(world.client).items():
        token = tokens[name]
        forged = [
            *(token[:-1], token + "A", token[::-1], "x", "\u0430", "=" * 4, "A" * 5_000),
            *(tokens[each] for each in tokens if each != name),
        ]
        for text in forged:
            request = type(requests[name])()
            request.CopyFrom(requests[name])
            request.page_token = text
            await refused(ask(request), Reason.PAGE_TOKEN_INVALID)
        request.page_token = token
        if name not in {"accounts", "changes"}:
            request.account = other
            await refused(ask(request), Reason.PAGE_TOKEN_INVALID)
        request.CopyFrom(requests[name])
        request.page_token, request.tenant = token, f"{world.tenant}-b"
        await refused(ask(request), Reason.PAGE_TOKEN_INVALID)
        request.CopyFrom(requests[name])
        request.page_token, request.page_size = token, 2
        await ask(request)


@pytest.mark.parametrize("page_size", [-1, 1_001, 2**31 - 1])
async def test_a71_page_sizes_are_bounded(world: World, page_size: int) -> None:
    account = await world.create_account(credits=10)
    for name, request in pages_of(world, account).items():
        request.page_size = page_size
        refusal = await refused(lists_of(world.client)[name](request), Reason.FIELD_INVALID)
        assert refusal.metadata["field"] == "page_size"


async def test_a71_pages_are_complete_and_do_not_overlap(world: World) -> None:
    account = await world.create_account()
    for _ in range(5):
        await world.client.grants.Grant(world.grant(account, amount=1))
        await world.hold(account, 1)
    await world.entries(account, at_least=11)
    await change_modes(world, 5)
    requests = pages_of(world, account)
    for name, expected in (("holds", 5), ("grants", 5), ("entries", 11), ("changes", 5)):
        request, seen = requests[name], []
        request.page_size = 2
        while True:
            page = await lists_of(world.client)[name](request)
            seen += [each.SerializeToString() for each in getattr(page, name)]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert len(seen) == len(set(seen)) == expected


async def test_the_fleet_is_seen(world: World) -> None:
    async def is_seen() -> bool:
        found = await world.client.control.GetFleet(control.GetFleetRequest())
        return {process.role for process in found.processes} >= {"worker", "flusher", "sweeper"}

    await eventually(is_seen)


async def test_the_ledger_is_verified(world: World) -> None:
    account = await world.create_account(credits=10)
    await world.entries(account, at_least=2)
    verified = await world.client.ledger.Verify(ledger.VerifyRequest())
    assert verified.ok
    assert verified.entries >= 2
    refusal = await refused(
        world.client.ledger.Verify(ledger.VerifyRequest(partitions=[0, 64])), Reason.FIELD_INVALID
    )
    assert refusal.metadata["field"] == "partitions[1]"
