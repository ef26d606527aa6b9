"""ControlService: enforcement modes and the state of the fleet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import control_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.methods import Handler
from holdfast_server.api.translate import policies as say
from holdfast_server.api.validate import policies as read
from holdfast_server.control.policies import Policies
from holdfast_server.ledger.store import Ledger


class ControlService:
    """Sets and shows. Each handler answers the RPC of its name, see the proto."""

    def __init__(
        self,
        policies: Policies,
        ledger: Ledger,
        outbox_entries: Callable[[], Awaitable[int]],
    ) -> None:
        """`outbox_entries` counts the entries that wait for the ledger, in all partitions."""
        self._policies = policies
        self._ledger = ledger
        self._outbox_entries = outbox_entries

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["ControlService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "SetPolicy": self.set_policy,
            "GetPolicy": self.get_policy,
            "ListPolicies": self.list_policies,
            "GetFleet": self.get_fleet,
        }

    async def set_policy(
        self, call: Call, request: messages.SetPolicyRequest
    ) -> messages.SetPolicyResponse:
        tenant = _tenant(call, request.tenant, request.policy.scope)
        asked = read.set_policy(tenant, request)
        policy, replayed = await self._policies.set_policy(call.principal.subject, asked)
        return messages.SetPolicyResponse(policy=say.policy(policy), replayed=replayed)

    async def get_policy(
        self, call: Call, request: messages.GetPolicyRequest
    ) -> messages.GetPolicyResponse:
        # Whoever reads policies may read the global one, which counts for every tenant.
        tenant = "" if read.is_global(request.scope) else call.tenant(request.tenant)
        found = await self._policies.get_policy(read.scope(tenant, request.scope))
        return messages.GetPolicyResponse(policy=say.policy(found))

    async def list_policies(
        self, call: Call, request: messages.ListPoliciesRequest
    ) -> messages.ListPoliciesResponse:
        found = await self._policies.list_policies(call.tenant(request.tenant))
        return messages.ListPoliciesResponse(policies=map(say.policy, found))

    async def get_fleet(
        self, call: Call, request: messages.GetFleetRequest
    ) -> messages.GetFleetResponse:
        processes = await self._ledger.list_processes()
        config_version = await self._ledger.config_version()
        return say.fleet(processes, config_version, await self._outbox_entries())


def _tenant(call: Call, named: str, scope: messages.Scope) -> str:
    """The tenant whose policy is set; empty for the global scope, where none is named."""
    if not read.is_global(scope):
        return call.tenant(named)
    call.principal.require_every_tenant("The global scope", "policy.scope.kind")
    return ""
