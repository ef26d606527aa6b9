"""Every method has a role, a handler and a request type, or the server does not start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import (
    account_service_pb2,
    balance_service_pb2,
    control_service_pb2,
    grant_service_pb2,
    ledger_service_pb2,
)
from holdfast_server.api.auth.principal import Role
from holdfast_server.api.auth.roles import ROLES
from holdfast_server.api.control import ControlService
from holdfast_server.api.kinds import KINDS
from holdfast_server.api.methods import Handler, Service, bind
from holdfast_server.api.page_token import PageTokens
from holdfast_server.control.config import ConfigCache
from holdfast_server.control.policies import Policies
from holdfast_server.ledger.store import Ledger
from holdfast_server.telemetry.recorder import Recorder
from tests.api.recording import NO_POSTGRES, Recording, services

FILES = (
    account_service_pb2,
    balance_service_pb2,
    control_service_pb2,
    grant_service_pb2,
    ledger_service_pb2,
)
METHODS = {
    f"{service.name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@pytest.fixture
async def every_service(tmp_path: Path) -> AsyncIterator[list[Service]]:
    async def nothing() -> int:
        return 0

    ledger = await Ledger.open(NO_POSTGRES, pool_size=1)
    policies = Policies(ledger, ConfigCache(ledger, tmp_path, Recorder()))
    control = ControlService(policies, ledger, PageTokens(bytes(32)), nothing)
    yield [*services(Recording(), ledger), control]
    await ledger.close()


def test_every_rpc_has_a_role_and_no_role_is_left_over() -> None:
    assert ROLES.keys() == METHODS.keys()
    assert all(ROLES.values())


async def test_every_rpc_has_a_handler_for_its_request(every_service: list[Service]) -> None:
    bound = [method for service in every_service for method in bind(service, ROLES)]
    assert {f"{m.service.rsplit('.', 1)[1]}/{m.name}" for m in bound} == METHODS.keys()
    for method in bound:
        descriptor = METHODS[f"{method.service.rsplit('.', 1)[1]}/{method.name}"]
        assert method.parse(b"").DESCRIPTOR is descriptor.input_type


def test_whoever_may_send_a_batch_may_call_each_method_it_can_carry() -> None:
    carried = balance_service_pb2.BatchItem.DESCRIPTOR.oneofs_by_name["operation"].fields
    assert KINDS.keys() == {field.name for field in carried}
    for field in carried:
        assert ROLES["BalanceService/Batch"] <= ROLES[f"BalanceService/{field.name.title()}"]


@pytest.mark.parametrize("role", Role)
def test_every_role_is_good_for_something(role: Role) -> None:
    assert any(role in allowed for allowed in ROLES.values())


class Incomplete:
    """GrantService without one of its handlers, or with one too many."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    @property
    def descriptor(self) -> ServiceDescriptor:
        return grant_service_pb2.DESCRIPTOR.services_by_name["GrantService"]

    def handlers(self) -> Mapping[str, Handler]:
        return self._handlers


async def test_a38_a_method_without_role_or_handler_keeps_the_server_from_starting(
    every_service: list[Service],
) -> None:
    grants = next(each for each in every_service if each.descriptor.name == "GrantService")
    for missing in grants.handlers():
        roles = {
            path: allowed for path, allowed in ROLES.items() if path != f"GrantService/{missing}"
        }
        with pytest.raises(ValueError, match=f"no role for {missing}"):
            bind(grants, roles)
        with pytest.raises(ValueError, match="needs handlers"):
            bind(Incomplete({n: h for n, h in grants.handlers().items() if n != missing}), ROLES)
    with pytest.raises(ValueError, match="no role for Grant"):
        bind(grants, {**ROLES, "GrantService/Grant": frozenset()})
