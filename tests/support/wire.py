"""What a test looks at on the wire: the reason of an error, and rules that every answer keeps."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from holdfast.v1 import types_pb2 as types
from holdfast_server.errors import ERROR_DOMAIN, STATUS_OF_REASON, Reason

#: What drivers, interpreters and secrets look like. No answer may contain any of it.
_DRIVER_TEXT = re.compile(
    r"Traceback|Exception|Error\b|errno|psycopg|redis|://|object at 0x|\.py\b|NOSCRIPT|None\b",
    re.IGNORECASE,
)
#: Bytes of an error's message: one sentence.
MESSAGE_BYTES_MAX = 400


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    reason: Reason
    message: str
    metadata: dict[str, str]
    retry_after_ms: int | None


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """The error, once it is found to keep the rules: a known reason with its own status, our
    domain, one sentence of ours, and no text of any driver."""
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert isinstance(raw, bytes), f"{error.code()} without details: {error.details()}"
    status = status_pb2.Status.FromString(raw)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    retry_after_ms = None
    if len(status.details) > 1:
        assert status.details[1].Unpack(retry)
        retry_after_ms = retry.retry_delay.ToMilliseconds()
    assert info.domain == ERROR_DOMAIN
    reason = Reason[info.reason]
    assert STATUS_OF_REASON[reason].name == error.code().name
    assert status.code == error.code().value[0]
    check_text(status.message)
    assert status.message == error.details()
    for name, value in info.metadata.items():
        assert len(f"{name}{value}".encode()) <= MESSAGE_BYTES_MAX
    return Refusal(error.code(), reason, status.message, dict(info.metadata), retry_after_ms)


def check_text(message: str) -> None:
    """One sentence, bounded, that shows nothing of what is behind."""
    assert message
    assert message.isprintable()
    assert len(message.encode()) <= MESSAGE_BYTES_MAX
    assert not _DRIVER_TEXT.search(message), message


async def refused(call: Awaitable[object], reason: Reason) -> Refusal:
    """The refusal of a call, which must be for `reason`."""
    refusal = await refusal_of(call)
    assert refusal.reason is reason, refusal
    return refusal


async def refusal_of(call: Awaitable[object]) -> Refusal:
    """The refusal of a call that must be refused."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    raise AssertionError(f"was not refused: {answer}")


def check_answer(message: Message) -> None:
    """Every decision in it has an outcome, and a reason and a sentence where it needs them."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        parts = value if field.is_repeated else [value]
        for part in parts:
            if isinstance(part, types.Decision):
                check_decision(part)
            check_answer(part)


def check_decision(decision: types.Decision) -> None:
    """Zero is never sent and never means yes."""
    assert decision.outcome in types.Outcome.values()
    assert decision.outcome != types.OUTCOME_UNSPECIFIED
    needs_reason = decision.outcome in (types.OUTCOME_DENIED, types.OUTCOME_GRANTED_SHADOW)
    assert bool(decision.reason) == needs_reason
    assert bool(decision.message) == needs_reason
    if decision.message:
        check_text(decision.message)


#: What the gRPC library answers by itself, before or around our code.
LIBRARY_CODES = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


Request = TypeVar("Request")
Response = TypeVar("Response")


class Linter(grpc.aio.UnaryUnaryClientInterceptor):
    """I22: checks every answer and every error of our services that passes through a channel."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request],
            Awaitable[grpc.aio.UnaryUnaryCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> Response | grpc.aio.UnaryUnaryCall[Request, Response]:
        call = await continuation(client_call_details, request)
        if "/holdfast." not in str(client_call_details.method):
            return call
        try:
            answer = await call
            if isinstance(answer, Message):
                check_answer(answer)
        except grpc.aio.AioRpcError as error:
            has_details = "grpc-status-details-bin" in (error.trailing_metadata() or ())
            if has_details or error.code() not in LIBRARY_CODES:
                read_refusal(error)
        return call


class Bearer(grpc.aio.UnaryUnaryClientInterceptor):
    """Sends a token with every call."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Request],
            Awaitable[grpc.aio.UnaryUnaryCall[Request, Response]],
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Request,
    ) -> Response | grpc.aio.UnaryUnaryCall[Request, Response]:
        metadata = client_call_details.metadata or grpc.aio.Metadata()
        metadata.add(*self._header)
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            metadata,
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        return await continuation(details, request)
