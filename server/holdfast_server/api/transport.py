"""How a gRPC server listens: addresses, certificates, and bounds on connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from holdfast_server.settings import is_loopback

#: Bytes of the metadata of one call.
METADATA_BYTES_MAX = 8_192
#: Bytes of one answer: a full page of entries, and room for the longest explanation.
ANSWER_BYTES_MAX = 64 * 1_048_576
#: Time for a new connection to say hello, TLS included.
HANDSHAKE_MS_MAX = 5_000
#: A connection without calls is closed after this time.
CONNECTION_IDLE_MS_MAX = 300_000
#: A connection takes no more calls after this time, so that callers spread over new servers again.
#: Those that it has may go on for as long as any may last, also streams, which are asked to end.
CONNECTION_AGE_MS_MAX = 600_000
CONNECTION_AGE_GRACE_MS = 630_000
#: The server asks a silent connection whether it lives, and closes it when no answer comes.
KEEPALIVE_INTERVAL_MS = 60_000
KEEPALIVE_TIMEOUT_MS = 20_000
#: Callers may ask the same of the server this often.
PING_INTERVAL_MS_MIN = 10_000
#: Connections of one process.
CONNECTIONS_MAX = 10_000
#: Streams of one connection: against abuse. Load is bounded by the dispatcher, which can say so.
STREAMS_MAX = 10_000
#: Calls that the transport holds before the dispatcher sees them. By default it drops calls beyond
#: about a thousand at random.
PENDING_CALLS_MAX = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files. With `client_authorities`, every client must show a certificate one has signed."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to listen."""

    #: An address or name; one that is not loopback needs certificates.
    host: str
    #: 0 takes a free one.
    port: int
    #: None listens without encryption, for development on loopback only.
    certificates: Certificates | None = None
    development: bool = False
    #: Lets several processes share the port. Without it a second server fails to start.
    share_port: bool = False
    reflection: bool = False
    message_bytes_max: int = 1_048_576

    def check(self, *, is_open: bool) -> None:
        """Raises ValueError when the endpoint would expose what it must not.

        `is_open` says that callers need no credentials.
        """
        local = self.development and is_loopback(self.host)
        if self.certificates is None and not local:
            raise ValueError("plaintext is for development on a loopback address only; set up TLS")
        if is_open and not local:
            raise ValueError("serving without credentials is for development on loopback only")


def server_options(endpoint: Endpoint) -> list[tuple[str, int]]:
    """The channel arguments of the server."""
    return [
        ("grpc.max_receive_message_length", endpoint.message_bytes_max),
        ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS_MAX),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_MS_MAX),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_MS_MAX),
        ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_INTERVAL_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
        ("grpc.max_concurrent_streams", STREAMS_MAX),
        ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
        ("grpc.so_reuseport", int(endpoint.share_port)),
    ]


def listen(server: grpc.aio.Server, endpoint: Endpoint) -> int:
    """Binds the server and answers its port. Raises RuntimeError when the address is taken."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    address = f"{host}:{endpoint.port}"
    if endpoint.certificates is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(endpoint.certificates))


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that follow the files: a renewed certificate serves the next connection.

    Raises OSError or ValueError when the files cannot be used now.
    """
    return grpc.dynamic_ssl_server_credentials(
        _configuration(certificates),
        _follower(certificates),  # type: ignore[arg-type]  # None is documented, the stub omits it
        require_client_authentication=certificates.client_authorities is not None,
    )


def _follower(
    certificates: Certificates,
) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
    stamp = _stamp(certificates)

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal stamp
        try:
            current = _stamp(certificates)
            if current == stamp:
                return None
            configuration = _configuration(certificates)
        except (OSError, ValueError) as error:
            _log.error("kept the old certificate, cannot read the new one: %s", error)
            return None
        stamp = current
        return configuration

    return renewed


def _stamp(certificates: Certificates) -> tuple[int, ...]:
    return tuple(path.stat().st_mtime_ns for path in _paths(certificates))


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    certificate, key, *authorities = (path.read_bytes() for path in _paths(certificates))
    if not certificate.strip() or not key.strip():
        raise ValueError("the certificate or its key is empty")
    return grpc.ssl_server_certificate_configuration(
        [(key, certificate)], authorities[0] if authorities else None
    )


def _paths(certificates: Certificates) -> list[Path]:
    authorities = certificates.client_authorities
    return [certificates.certificate, certificates.key, *([authorities] if authorities else [])]
