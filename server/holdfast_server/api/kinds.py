"""The kinds of operation of the hot path: how each is read, and how its answer is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.translate.spending import put_reply
from holdfast_server.api.validate import spending as read
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.reply import (
    BalanceReply,
    BurnReply,
    CommitReply,
    ExtendReply,
    RefundReply,
    ReleaseReply,
    Reply,
    ReserveReply,
)
from holdfast_server.domain.submit import Answer
from holdfast_server.errors import HoldfastError, Reason

#: The tenant of a request that names one, or none. May raise HoldfastError.
TenantOf = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Kind:
    """What requests of one kind have in common. `Any`: the messages of each kind are its own."""

    read: Callable[[str, Any], Operation]
    reply: type[Reply]
    response: Callable[[], Message]

    def operation(self, request: Any, tenant_of: TenantOf) -> Operation:
        """What a request asks for. Raises HoldfastError."""
        return self.read(tenant_of(request.tenant), request)

    def asked(self, request: Any, tenant_of: TenantOf) -> Operation | HoldfastError:
        """The same, or why it cannot be asked."""
        try:
            return self.read(tenant_of(request.tenant), request)
        except HoldfastError as error:
            return error

    def said(self, answer: Reply) -> Message:
        """An answer as its message."""
        response = self.response()
        put_reply(response, answer)
        return response

    def attempted(self, answer: Answer | None) -> Message | HoldfastError | None:
        """What came of an attempt, as far as it is a message."""
        if answer is None or isinstance(answer, HoldfastError):
            return answer
        return self.said(answer)


#: By their names in `BatchItem.operation`; a method has the same name with a capital letter.
KINDS: Final[Mapping[str, Kind]] = {
    "reserve": Kind(read.reserve, ReserveReply, messages.ReserveResponse),
    "commit": Kind(read.commit, CommitReply, messages.CommitResponse),
    "release": Kind(read.release, ReleaseReply, messages.ReleaseResponse),
    "extend": Kind(read.extend, ExtendReply, messages.ExtendResponse),
    "burn": Kind(read.burn, BurnReply, messages.BurnResponse),
    "refund": Kind(read.refund, RefundReply, messages.RefundResponse),
    "balance": Kind(read.get_balance, BalanceReply, messages.BalanceResponse),
}


def asked_by(item: messages.BatchItem, tenant_of: TenantOf) -> Operation | HoldfastError:
    """What one item of a batch or stream asks for, or why it cannot be asked."""
    name = item.WhichOneof("operation")
    if name is None:
        message = "operation must be set in every item."
        return HoldfastError(Reason.FIELD_INVALID, message, field="operation")
    return KINDS[name].asked(getattr(item, name), tenant_of)
