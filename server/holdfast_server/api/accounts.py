"""AccountService: accounts and credit types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from google.protobuf.descriptor import ServiceDescriptor

from holdfast.v1 import account_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.form import Form
from holdfast_server.api.methods import Handler
from holdfast_server.api.page_token import PageTokens
from holdfast_server.api.room import fitting, last_of
from holdfast_server.api.submission import Submission
from holdfast_server.api.translate import accounts as say
from holdfast_server.api.validate import accounts as read
from holdfast_server.domain import reply
from holdfast_server.ledger.accounts import Accounts
from holdfast_server.ledger.records import CreditType


class AccountReader(Protocol):
    """Reads an account as the hot store has it."""

    async def get_account(self, tenant: str, account: str) -> reply.Account:
        """The account. Raises ACCOUNT_NOT_FOUND."""
        ...


class CreditTypes(Protocol):
    """Defines and lists credit types."""

    async def create_credit_type(
        self, tenant: str, credit_type: CreditType, created_by: str
    ) -> CreditType:
        """Defines one, for use at once. Raises CREDIT_TYPE_ALREADY_EXISTS for other content."""
        ...

    async def list_credit_types(self, tenant: str) -> list[CreditType]:
        """Those of a tenant, by code."""
        ...


class AccountService:
    """Creates, changes, reads. Each handler answers the RPC of its name, see the proto."""

    def __init__(
        self,
        submission: Submission,
        reader: AccountReader,
        ledger: Accounts,
        credit_types: CreditTypes,
        pages: PageTokens,
    ) -> None:
        self._submission = submission
        self._reader = reader
        self._ledger = ledger
        self._credit_types = credit_types
        self._pages = pages

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["AccountService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "CreateAccount": self.create_account,
            "UpdateAccount": self.update_account,
            "GetAccount": self.get_account,
            "ListAccounts": self.list_accounts,
            "CreateCreditType": self.create_credit_type,
            "ListCreditTypes": self.list_credit_types,
        }

    async def create_account(
        self, call: Call, request: messages.CreateAccountRequest
    ) -> messages.CreateAccountResponse:
        operation = read.create_account(call.tenant(request.tenant), request)
        return say.created(await self._submission.one(call, operation, reply.AccountReply))

    async def update_account(
        self, call: Call, request: messages.UpdateAccountRequest
    ) -> messages.UpdateAccountResponse:
        operation = read.update_account(call.tenant(request.tenant), request)
        return say.updated(await self._submission.one(call, operation, reply.AccountReply))

    async def get_account(
        self, call: Call, request: messages.GetAccountRequest
    ) -> messages.GetAccountResponse:
        tenant = call.tenant(request.tenant)
        form = Form()
        account = form.identifier(request.account, "account")
        form.settle()
        found = await self._reader.get_account(tenant, account)
        return messages.GetAccountResponse(account=say.account(found))

    async def list_accounts(
        self, call: Call, request: messages.ListAccountsRequest
    ) -> messages.ListAccountsResponse:
        tenant = call.tenant(request.tenant)
        form = Form()
        parent = form.optional_identifier(request.parent, "parent") or None
        limit = form.page_size(request.page_size)
        form.settle()
        place = self._pages.read(tenant, request, request.page_token)
        after = "" if place is None else str(place[0])
        found = await self._ledger.list_accounts(tenant, parent=parent, limit=limit, after=after)
        accounts = [say.account(each) for each in found]
        count = fitting(accounts)
        last = last_of(found, count, limit)
        return messages.ListAccountsResponse(
            accounts=accounts[:count],
            next_page_token=self._pages.issue(tenant, request, (last.account,) if last else None),
        )

    async def create_credit_type(
        self, call: Call, request: messages.CreateCreditTypeRequest
    ) -> messages.CreateCreditTypeResponse:
        tenant = call.tenant(request.tenant)
        code, display_name, scale = read.credit_type(request)
        created = await self._credit_types.create_credit_type(
            tenant, CreditType(code, display_name, scale), call.principal.subject
        )
        return messages.CreateCreditTypeResponse(credit_type=say.credit_type(created))

    async def list_credit_types(
        self, call: Call, request: messages.ListCreditTypesRequest
    ) -> messages.ListCreditTypesResponse:
        found = await self._credit_types.list_credit_types(call.tenant(request.tenant))
        return messages.ListCreditTypesResponse(credit_types=map(say.credit_type, found))
