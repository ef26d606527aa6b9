"""The connection: target, TLS, token, keepalive. One small interface hides how calls travel.

Both clients send bytes to a path and get bytes back through a transport; nothing else in this
package knows gRPC's channels. Each client has its own connection: servers that share a port are
balanced by connection, so several clients in one process reach several workers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from holdfast.errors import FailedPrecondition, HoldfastError, Unreachable, from_status

#: A connection that carries calls is probed after this much silence, so that a peer that vanished
#: is noticed while calls wait, not at the next one.
KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 5_000
#: Waits between attempts to connect.
RECONNECT_MIN_MS = 100
RECONNECT_MAX_MS = 2_000
#: How long one attempt to connect may take.
CONNECT_TIMEOUT_MS = 2_000
#: Bytes of one answer: what a server may send.
ANSWER_BYTES_MAX = 64 << 20

Metadata = tuple[tuple[str, str], ...]

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes for TLS: whom to trust (default: the system's roots), and who we are (for mTLS)."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    certificate_chain: bytes | None = None


class AsyncTransport(Protocol):
    """Carries one call. MUST raise `HoldfastError` for every failure but cancellation."""

    async def send(
        self, path: str, request: bytes, timeout_s: float, metadata: Metadata
    ) -> bytes: ...

    async def close(self) -> None: ...


class Transport(Protocol):
    """Carries one call. MUST raise `HoldfastError` for every failure, MUST serve many threads."""

    def send(self, path: str, request: bytes, timeout_s: float, metadata: Metadata) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to connect, and how."""

    target: str
    tls: Tls | None
    insecure: bool

    @property
    def plaintext(self) -> bool:
        """Whether to connect without TLS: only to this machine, unless the caller insists."""
        return self.tls is None and (self.insecure or is_loopback(self.target))

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials of a TLS connection."""
        tls = self.tls or Tls()
        return grpc.ssl_channel_credentials(
            tls.root_certificates, tls.private_key, tls.certificate_chain
        )

    def options(self) -> Sequence[tuple[str, int]]:
        """The channel's arguments."""
        return (
            ("grpc.use_local_subchannel_pool", 1),
            # This package retries by itself, with keys that make it safe.
            ("grpc.enable_retries", 0),
            ("grpc.service_config_disable_resolution", 1),
            ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MIN_MS),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MAX_MS),
            ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
            ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
            ("grpc.enable_http_proxy", 0 if is_loopback(self.target) else 1),
        )


def is_loopback(target: str) -> bool:
    """Whether a gRPC target can only be on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        target = target.removeprefix(scheme)
    # There may be several addresses, any of which may be used.
    return all(_is_loopback(_host(address)) for address in target.split(","))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(address: str) -> str:
    """The host of `host:port`, `[v6]:port` or a bare address."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


class AsyncUnary:
    """One gRPC call per call. Connects when it is first used, in the loop that uses it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._channel: aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._methods: dict[str, aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def send(self, path: str, request: bytes, timeout_s: float, metadata: Metadata) -> bytes:
        """See `AsyncTransport`."""
        if self._is_closed:
            raise closed()
        if self._loop is not asyncio.get_running_loop():
            self._connect()
        method = self._methods.get(path) or self._method(path)
        try:
            return await method(request, timeout=timeout_s, metadata=metadata)
        except aio.AioRpcError as error:
            raise _of_call(error) from None
        except asyncio.CancelledError:
            # The end of the connection cancels the call, though nobody cancels the caller.
            if is_cancelled() or not self._is_closed:
                raise
            raise closed(result_unknown=True) from None

    async def close(self) -> None:
        """Ends the connection; calls under way fail."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    def _connect(self) -> None:
        if self._loop is not None:
            raise of_another_loop()
        self._loop = asyncio.get_running_loop()
        self._channel = connect_async(self._endpoint)

    def _method(self, path: str) -> aio.UnaryUnaryMultiCallable[bytes, bytes]:
        assert self._channel is not None
        self._methods[path] = self._channel.unary_unary(path)
        return self._methods[path]


class Unary:
    """One gRPC call per call, from any thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._channel = _connect(endpoint)
        self._is_closed = False
        #: Where it was used: a process that is forked has none of the transport's threads.
        self._process = 0
        # Only ever grows by the methods there are; two threads that add one add the same.
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    def send(self, path: str, request: bytes, timeout_s: float, metadata: Metadata) -> bytes:
        """See `Transport`."""
        if self._is_closed:
            raise closed()
        if self._process != os.getpid():
            if self._process:
                raise of_another_process()
            self._process = os.getpid()
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._channel.unary_unary(path)
        try:
            return method(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            if self._is_closed and error.code() is grpc.StatusCode.CANCELLED:
                raise closed(result_unknown=True) from None
            raise _of_call(error) from None

    def close(self) -> None:
        """Ends the connection; calls under way fail."""
        self._is_closed = True
        self._channel.close()


def connect_async(endpoint: Endpoint) -> aio.Channel:
    """A connection for asyncio; it is made when it is first used."""
    if endpoint.plaintext:
        return aio.insecure_channel(endpoint.target, options=endpoint.options())
    return aio.secure_channel(endpoint.target, endpoint.credentials(), options=endpoint.options())


def _connect(endpoint: Endpoint) -> grpc.Channel:
    if endpoint.plaintext:
        return grpc.insecure_channel(endpoint.target, options=endpoint.options())
    return grpc.secure_channel(endpoint.target, endpoint.credentials(), options=endpoint.options())


def closed(*, result_unknown: bool = False) -> FailedPrecondition:
    """What a call of a closed client ends with."""
    return unusable("the client is closed", result_unknown=result_unknown)


def of_another_loop() -> FailedPrecondition:
    """What a call ends with that is made in another event loop than those before."""
    return unusable("a client belongs to the event loop of its first call; make another")


def of_another_process() -> FailedPrecondition:
    """What a call ends with in the child of a process that has used the client."""
    return unusable("a client that was used before a fork is no use after it; make another")


def unusable(why: str, *, result_unknown: bool = False) -> FailedPrecondition:
    """Never retried: no other attempt of this client can be sent either."""
    return FailedPrecondition(why, result_unknown=result_unknown)


def is_cancelled() -> bool:
    """Whether somebody wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _of_call(error: grpc.RpcError) -> HoldfastError:
    """What a call that nobody here has cancelled ended with."""
    said = translate(error)
    if error.code() is grpc.StatusCode.CANCELLED and not said.reason:
        # A server that stops drops what is on its way to it.
        return Unreachable("the server dropped the call", result_unknown=True)
    return said


def translate(error: grpc.RpcError) -> HoldfastError:
    """What a failed gRPC call means, from its status and the details beside it."""
    reason, metadata, retry_after_ms = "", {}, None
    for detail in _details(error.trailing_metadata() or ()):
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
    named = metadata.get("retry_after_ms", "")
    if retry_after_ms is None and named.isdigit():
        retry_after_ms = int(named)
    return from_status(
        error.code().value[0],
        error.details() or "",
        reason=reason,
        metadata=metadata,
        retry_after_ms=retry_after_ms,
    )


def _details(trailing: Iterable[Any]) -> Iterable[AnyMessage]:
    """The status details; none where a proxy has garbled them."""
    for key, value in trailing:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                details: Iterable[AnyMessage] = status_pb2.Status.FromString(value).details
                return details
            except DecodeError:
                return ()
    return ()
