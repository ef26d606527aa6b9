"""What is told of changes of modes, long after they were made."""

from __future__ import annotations

from holdfast.v1 import control_service_pb2 as control
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.auth.principal import Role
from tests.api.service import ROOT_TOKEN, TENANT, ApiService, token_of
from tests.api.world import World, uuid7
from tests.support.stubs import stubs

THE_TENANT = control.Scope(kind=control.Scope.KIND_TENANT)
CHAT = control.Scope(kind=control.Scope.KIND_FEATURE, value="chat")


def setting(
    world: World, scope: control.Scope, mode: types.Mode.ValueType, version: int = 0
) -> control.SetPolicyRequest:
    """A change of the tenant's policies."""
    return control.SetPolicyRequest(
        tenant=world.tenant,
        policy=control.Policy(scope=scope, mode=mode),
        expected_version=version,
        reason="a test",
        idempotency_key=uuid7(),
    )


async def test_every_change_of_a_mode_is_told_with_who_why_when_and_what_counted_before(
    service: ApiService, world: World
) -> None:
    settings = [
        setting(world, THE_TENANT, types.MODE_SHADOW),
        setting(world, CHAT, types.MODE_OFF),
        setting(world, THE_TENANT, types.MODE_OFF, version=1),
    ]
    answers = [(await world.client.control.SetPolicy(each)).policy for each in settings]
    await world.client.control.SetPolicy(settings[0])  # Once more under its key: no change.
    asked = control.ListPolicyChangesRequest(tenant=world.tenant)
    changes = (await world.client.control.ListPolicyChanges(asked)).changes

    assert [each.policy for each in changes] == answers[::-1]
    assert [each.version_before for each in changes] == [1, 0, 0]
    numbers = [each.config_version for each in changes]
    assert numbers == sorted(numbers, reverse=True)
    policy = changes[0].policy
    assert (policy.changed_by, policy.reason, policy.version) == (ROOT_TOKEN, "a test", 2)
    async with stubs(service.port, token=token_of(TENANT, Role.SRE)) as other:
        theirs = await other.control.ListPolicyChanges(control.ListPolicyChangesRequest())
    assert not {each.config_version for each in theirs.changes} & set(numbers)
