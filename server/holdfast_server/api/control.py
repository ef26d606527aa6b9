"""ControlService: enforcement modes and the state of the fleet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import control_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.methods import Handler
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.room import fitting, last_of
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
        pages: PageTokens,
        outbox_entries: Callable[[], Awaitable[int]],
    ) -> None:
        """`outbox_entries` counts the entries that wait for the ledger, in all partitions."""
        self._policies = policies
        self._ledger = ledger
        self._pages = pages
        self._outbox_entries = outbox_entries

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["ControlService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "SetPolicy": self.set_policy,
            "GetPolicy": self.get_policy,
            "ListPolicies": self.list_policies,
            "ListPolicyChanges": self.list_policy_changes,
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

    async def list_policy_changes(
        self, call: Call, request: messages.ListPolicyChangesRequest
    ) -> messages.ListPolicyChangesResponse:
        tenant = call.tenant(request.tenant)
        limit = read.changes(request)
        place = self._pages.read(tenant, request, request.page_token)
        before = None if place is None else int(place[0])
        found = await self._ledger.list_policy_changes(tenant, limit=limit, before=before)
        changes = [say.change(each) for each in found]
        count = fitting(changes)
        last = last_of(found, count, limit)
        next_place = (last.config_version,) if last else None
        return messages.ListPolicyChangesResponse(
            changes=changes[:count],
            next_page_token=self._pages.issue(tenant, request, next_place),
        )

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
