"""Errors on the wire: a gRPC status with one `google.rpc.ErrorInfo`."""

from __future__ import annotations

import logging
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from holdfast_server.errors import (
    ERROR_DOMAIN,
    STATUS_OF_REASON,
    HoldfastError,
    Reason,
    new_reference,
)

#: The trailing metadata in which gRPC clients look for a `google.rpc.Status`.
DETAILS_KEY = "grpc-status-details-bin"

_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_log = logging.getLogger(__name__)


def sendable(method: str, error: Exception) -> HoldfastError:
    """What a caller may see of an error: a HoldfastError as it is, of all others a reference.

    A denial that was raised is a fault of ours, too: denials travel in answers.
    """
    if isinstance(error, HoldfastError) and error.reason in STATUS_OF_REASON:
        return error
    reference = new_reference()
    facts = {"method": method, "reference": reference}
    _log.error("a call failed", exc_info=error, extra={"facts": facts})
    return HoldfastError(
        Reason.INTERNAL,
        f"Holdfast failed; its log has the cause under reference {reference}.",
        reference=reference,
    )


def code_of(error: HoldfastError) -> grpc.StatusCode:
    """The gRPC status code of an error."""
    return _STATUS_CODES[error.status.value]


def rpc_status(error: HoldfastError) -> status_pb2.Status:
    """Status, ErrorInfo, and RetryInfo where waiting helps."""
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.name, domain=ERROR_DOMAIN, metadata=error.metadata
    )
    details = [_packed(info)]
    if "retry_after_ms" in error.metadata:
        delay = Duration()
        delay.FromMilliseconds(int(error.metadata["retry_after_ms"]))
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(code=error.status.value, message=error.message, details=details)


def trailing_metadata(error: HoldfastError) -> tuple[tuple[str, bytes]]:
    """What goes beside the status, for clients that read the details."""
    return ((DETAILS_KEY, rpc_status(error).SerializeToString()),)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
