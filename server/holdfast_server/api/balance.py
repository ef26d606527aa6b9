"""BalanceService: the hot path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Final, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as messages
from holdfast.v1 import types_pb2 as types
from holdfast_server.api.call import Call
from holdfast_server.api.form import Form
from holdfast_server.api.kinds import KINDS, Kind, asked_by
from holdfast_server.api.methods import Attempt, Handler
from holdfast_server.api.page_token import PageTokens, Place
from holdfast_server.api.submission import Submission
from holdfast_server.api.translate import spending as say
from holdfast_server.api.validate import batches
from holdfast_server.api.validate import spending as read
from holdfast_server.domain import reply
from holdfast_server.domain.operation import Caller, Durability
from holdfast_server.domain.submit import Answer
from holdfast_server.engine.accounts import HoldCursor
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.telemetry.tracing import TraceContext, parse_traceparent

#: Bytes of the answers to a batch: most callers read 4 MiB. What has no room is told to ask again.
BATCH_ANSWER_BYTES_MAX: Final = 3_500_000


class HoldReader(Protocol):
    """Lists open holds."""

    async def list_holds(
        self,
        tenant: str,
        account: str,
        include_descendants: bool,
        limit: int,
        after: HoldCursor | None,
    ) -> tuple[list[reply.OpenHold], HoldCursor | None]:
        """A page of open holds, sooner expiry first, and where the next page begins, if any."""
        ...


class Awaiter(Protocol):
    """Waits until what was applied will last."""

    async def await_durable(self, transaction_id: str, seq: int, level: Durability) -> Durability:
        """What has been reached of a transaction and all up to `seq` in its partition."""
        ...


class BalanceService:
    """Reserve, settle, look. Each handler answers the RPC of its name, see the proto."""

    def __init__(
        self, submission: Submission, holds: HoldReader, awaiter: Awaiter, pages: PageTokens
    ) -> None:
        self._submission = submission
        self._holds = holds
        self._awaiter = awaiter
        self._pages = pages

    @property
    def descriptor(self) -> ServiceDescriptor:
        return messages.DESCRIPTOR.services_by_name["BalanceService"]

    def handlers(self) -> Mapping[str, Handler]:
        return {
            **{name.title(): partial(self._answer, kind) for name, kind in KINDS.items()},
            "ListHolds": self.list_holds,
            "AwaitDurable": self.await_durable,
            "Batch": self.batch,
            "Session": self.session,
        }

    def attempts(self) -> Mapping[str, Attempt]:
        hot = dict.fromkeys(map(str.title, KINDS), self.attempt)
        return {**hot, "Session": self.attempt_session}

    async def _answer(self, kind: Kind, call: Call, request: Message) -> Message:
        operation = kind.operation(request, call.tenant)
        return kind.said(await self._submission.one(call, operation, kind.reply))

    async def attempt(
        self, call: Call, asked: Sequence[tuple[str, Message, TraceContext]]
    ) -> list[Message | HoldfastError | None]:
        """The answers to independent calls of the methods named; see `Attempter.attempt`."""
        kinds = [KINDS[name.lower()] for name, _, _ in asked]
        operations = [
            kind.asked(request, call.tenant)
            for kind, (_, request, _) in zip(kinds, asked, strict=True)
        ]
        callers = [call.caller_at(place) for _, _, place in asked]
        answers = await self._submission.attempt(call, callers, operations)
        return [kind.attempted(each) for kind, each in zip(kinds, answers, strict=True)]

    async def list_holds(
        self, call: Call, request: messages.ListHoldsRequest
    ) -> messages.ListHoldsResponse:
        tenant = call.tenant(request.tenant)
        form = Form()
        account = form.identifier(request.account, "account")
        limit = form.page_size(request.page_size)
        form.settle()
        after = _cursor(self._pages.read(tenant, request, request.page_token))
        holds, cursor = await self._holds.list_holds(
            tenant, account, request.include_descendants, limit, after
        )
        place = None if cursor is None else (cursor.expires_ms, cursor.hold.hex())
        return messages.ListHoldsResponse(
            holds=map(say.hold, holds), next_page_token=self._pages.issue(tenant, request, place)
        )

    async def await_durable(
        self, call: Call, request: messages.AwaitDurableRequest
    ) -> messages.AwaitDurableResponse:
        call.tenant(request.tenant)
        reached = await self._awaiter.await_durable(*read.awaited(request))
        return messages.AwaitDurableResponse(durability=types.Durability.ValueType(reached))

    async def batch(self, call: Call, request: messages.BatchRequest) -> messages.BatchResponse:
        named = batches.named_tenants(request.items)
        tenants = {
            index: call.principal.tenant_of(name, f"items[{index}].tenant")
            for index, name in named.items()
        }
        batches.check_size(request.items)
        batches.check_distinct(request.items)
        tenant = batches.one_tenant(tenants)
        call.charge(tenant, len(request.items))
        read_items = [asked_by(item, lambda _: tenant) for item in request.items]
        response, room = messages.BatchResponse(), BATCH_ANSWER_BYTES_MAX
        callers = repeat(call.caller, len(read_items))
        for answer in await self._submission.many(call, callers, read_items):
            result = response.results.add()
            say.put_result(result, answer)
            room -= result.ByteSize()
            if room < 0:
                say.put_result(result, _too_long())
        return response

    async def session(
        self, call: Call, items: Sequence[messages.BatchItem]
    ) -> messages.SessionResponse:
        """The answers to some independent operations of a stream, in order, each with its id."""
        asked = [asked_by(item, call.tenant) for item in items]
        answers = await self._submission.many(call, _callers(call, items), asked)
        return _results(items, answers)

    async def attempt_session(
        self, call: Call, items: Sequence[messages.BatchItem]
    ) -> messages.SessionResponse:
        """The same of those that are answered at once; see `Attempter.attempt`."""
        asked = [asked_by(item, call.tenant) for item in items]
        answers = await self._submission.attempt(call, _callers(call, items), asked)
        self._submission.count_refused(asked, answers)
        return _results(items, answers)


def _callers(call: Call, items: Sequence[messages.BatchItem]) -> Iterable[Caller]:
    """Who asks for each item. Where the call has no place in a trace, each may have its own."""
    caller = call.caller
    if caller.trace_id or not any(item.traceparent for item in items):
        return repeat(caller, len(items))
    return [call.caller_at(parse_traceparent(item.traceparent)) for item in items]


def slowness(item: messages.BatchItem) -> tuple[int, int] | None:
    """Why an operation is answered late for what it is, so that others must not wait for it; None
    where it is not. Those of one reason wait for the same, and may wait together; a Refund reads
    the ledger for itself alone.
    """
    kind = item.WhichOneof("operation")
    if kind in (None, "extend", "balance"):
        return None
    durability: int = getattr(item, kind).durability
    if kind == "refund":
        return durability, item.id
    return (durability, 0) if durability > types.DURABILITY_MEMORY else None


def _results(
    items: Sequence[messages.BatchItem], answers: Sequence[Answer | None]
) -> messages.SessionResponse:
    response = messages.SessionResponse()
    results = response.results
    for item, answer in zip(items, answers, strict=True):
        if answer is not None:
            result = results.add()
            result.id = item.id
            say.put_result(result, answer)
    return response


def _too_long() -> HoldfastError:
    """In place of an answer for which there is no room, to an operation that may be applied."""
    message = "the answers to the batch are too long for one message; retry with the same key alone"
    return HoldfastError(Reason.RESULT_UNKNOWN, message)


def _cursor(place: Place | None) -> HoldCursor | None:
    return None if place is None else HoldCursor(int(place[0]), bytes.fromhex(str(place[1])))
