"""The kinds of operation of the hot path: how each is read, and how its answer is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.call import Call
from holdfast_server.api.translate import spending as say
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
from holdfast_server.errors import HoldfastError


@dataclass(frozen=True, slots=True)
class Kind:
    """What calls of one method have in common. `Any`: the messages of each kind are its own."""

    read: Callable[[str, Any], Operation]
    reply: type[Reply]
    response: Callable[[], Message]
    put: Callable[[Any, Any], None]

    def operation(self, call: Call, request: Any) -> Operation:
        """What a request asks for. Raises HoldfastError for its form, tenant or allowance."""
        return self.read(call.tenant(request.tenant), request)

    def said(self, answer: Reply) -> Message:
        """An answer as its message."""
        response = self.response()
        self.put(response, answer)
        return response

    def attempted(self, answer: Answer | None) -> Message | HoldfastError | None:
        """What came of an attempt, as far as it is a message."""
        if answer is None or isinstance(answer, HoldfastError):
            return answer
        return self.said(answer)


#: By the names of their methods.
KINDS: Final[Mapping[str, Kind]] = {
    "Reserve": Kind(read.reserve, ReserveReply, messages.ReserveResponse, say.put_reserve),
    "Commit": Kind(read.commit, CommitReply, messages.CommitResponse, say.put_commit),
    "Release": Kind(read.release, ReleaseReply, messages.ReleaseResponse, say.put_release),
    "Extend": Kind(read.extend, ExtendReply, messages.ExtendResponse, say.put_extend),
    "Burn": Kind(read.burn, BurnReply, messages.BurnResponse, say.put_burn),
    "Refund": Kind(read.refund, RefundReply, messages.RefundResponse, say.put_refund),
    "Balance": Kind(read.get_balance, BalanceReply, messages.BalanceResponse, say.put_balance),
}
