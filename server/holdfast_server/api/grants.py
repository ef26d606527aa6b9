"""GrantService: credits given and taken back."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import grant_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.form import Form
from holdfast_server.api.methods import Handler
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.room import fitting, last_of
from holdfast_server.api.submission import Submission
from holdfast_server.api.translate import grants as say
from holdfast_server.api.validate import grants as read
from holdfast_server.domain import reply
from holdfast_server.ledger.grants import Grants
from holdfast_server.ledger.records import GrantPlace


class GrantService:
    """Gives, takes back, lists. Each handler answers the RPC of its name, see the proto."""

    def __init__(self, submission: Submission, ledger: Grants, pages: PageTokens) -> None:
        self._submission = submission
        self._ledger = ledger
        self._pages = pages

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["GrantService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {"Grant": self.grant, "Revoke": self.revoke, "ListGrants": self.list_grants}

    async def grant(self, call: Call, request: messages.GrantRequest) -> messages.GrantResponse:
        operation = read.grant(call.tenant(request.tenant), request)
        return say.granted(await self._submission.one(call, operation, reply.GrantReply))

    async def revoke(self, call: Call, request: messages.RevokeRequest) -> messages.RevokeResponse:
        operation = read.revoke(call.tenant(request.tenant), request)
        return say.revoked(await self._submission.one(call, operation, reply.RevokeReply))

    async def list_grants(
        self, call: Call, request: messages.ListGrantsRequest
    ) -> messages.ListGrantsResponse:
        tenant = call.tenant(request.tenant)
        form = Form()
        account = form.identifier(request.account, "account")
        credit_type = form.optional_credit_type(request.credit_type, "credit_type") or None
        limit = form.page_size(request.page_size)
        form.settle()
        place = self._pages.read(tenant, request, request.page_token)
        before: GrantPlace | None = None if place is None else (int(place[0]), str(place[1]))
        found = await self._ledger.list_grants(
            tenant, account, credit_type=credit_type, limit=limit, before=before
        )
        grants = [say.recorded(each) for each in found]
        count = fitting(grants)
        last = last_of(found, count, limit)
        return messages.ListGrantsResponse(
            grants=grants[:count],
            next_page_token=self._pages.issue(tenant, request, last.place if last else None),
        )
