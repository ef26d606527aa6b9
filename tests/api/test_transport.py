"""How the server listens: encryption, names in certificates, health, reflection, bounds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.static_tokens import StaticTokens
from holdfast_server.api.health import WATCHES_MAX
from holdfast_server.api.transport import Certificates, Endpoint
from holdfast_server.errors import Reason
from tests.api.certificates import Authority
from tests.api.recording import Recording, running
from tests.api.world import eventually
from tests.support.stubs import Stubs, stubs
from tests.support.wire import read_refusal, refused

TOKEN = "a-token"
WORKER = "spiffe://example.org/worker"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(client: Stubs, token: str = "") -> messages.BalanceResponse:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return await client.balance.Balance(
        messages.BalanceRequest(account="a"), metadata=metadata, timeout=5
    )


def credentials_file(folder: Path) -> StaticTokens:
    """One credential by token, and one by certificate."""
    common = {"tenant": "acme", "roles": ["reader"]}
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    records = [
        {"subject": "by-token", "sha256": digest, **common},
        {"subject": "by-certificate", "certificate": WORKER, **common},
    ]
    path = folder / "tokens"
    path.write_text(json.dumps(records))
    return StaticTokens(path, lambda: 0.0)


@pytest.mark.parametrize(
    ("endpoint", "is_open"),
    [
        (Endpoint("127.0.0.1", 0), False),
        (Endpoint("127.0.0.1", 0), True),
        (Endpoint("0.0.0.0", 0, development=True), False),
        (Endpoint("0.0.0.0", 0, development=True), True),
        (Endpoint("10.0.0.1", 0, development=True), True),
        (Endpoint("example.org", 0, development=True), True),
        (Endpoint("0.0.0.0", 0, Certificates(Path("c"), Path("k")), development=True), True),
        (Endpoint("127.0.0.1", 0, Certificates(Path("c"), Path("k"))), True),
    ],
)
def test_an_unsafe_endpoint_keeps_the_server_from_starting(
    endpoint: Endpoint, is_open: bool
) -> None:
    with pytest.raises(ValueError, match="loopback"):
        endpoint.check(is_open=is_open)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_development_is_for_loopback(host: str) -> None:
    Endpoint(host, 0, development=True).check(is_open=True)


async def test_a_second_server_cannot_take_the_port() -> None:
    async with running(Recording()) as served:
        second = Endpoint("127.0.0.1", served.port, development=True)
        with pytest.raises(RuntimeError):
            async with running(Recording(), endpoint=second):
                pass


async def test_servers_may_share_a_port_when_told_to() -> None:
    shared = Endpoint("127.0.0.1", 0, development=True, share_port=True)
    async with running(Recording(), endpoint=shared) as served:
        second = Endpoint("127.0.0.1", served.port, development=True, share_port=True)
        async with running(Recording(), endpoint=second) as other:
            assert other.port == served.port


async def test_tls_serves_whoever_trusts_its_authority(tmp_path: Path) -> None:
    authority = Authority()
    endpoint = Endpoint("127.0.0.1", 0, Certificates(*authority.sign("s").write(tmp_path, "s")))
    authenticator = Authenticator(credentials_file(tmp_path))
    trusting = grpc.ssl_channel_credentials(authority.certificate)
    others = grpc.ssl_channel_credentials(Authority().certificate)
    async with running(Recording(), endpoint=endpoint, authenticator=authenticator) as served:
        async with stubs(served.port, trusting) as client:
            await ask(client, TOKEN)
            await refused(ask(client), Reason.TOKEN_MISSING)
        for credentials in (others, None):
            async with stubs(served.port, credentials) as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(client, TOKEN)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_serves_the_next_connection(tmp_path: Path) -> None:
    old, new = Authority(), Authority()
    endpoint = Endpoint("127.0.0.1", 0, Certificates(*old.sign("s").write(tmp_path, "s")))
    authenticator = Authenticator(credentials_file(tmp_path))
    async with running(Recording(), endpoint=endpoint, authenticator=authenticator) as served:
        async with stubs(served.port, grpc.ssl_channel_credentials(old.certificate)) as client:
            await ask(client, TOKEN)
        new.sign("s").write(tmp_path, "s")
        async with stubs(served.port, grpc.ssl_channel_credentials(new.certificate)) as client:
            await ask(client, TOKEN)


async def test_a_client_may_be_known_by_its_certificate(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "authorities").write_bytes(authority.certificate)
    certificates = Certificates(
        *authority.sign("s").write(tmp_path, "s"), client_authorities=tmp_path / "authorities"
    )
    endpoint = Endpoint("127.0.0.1", 0, certificates)
    authenticator, recording = Authenticator(credentials_file(tmp_path)), Recording()
    known = authority.sign("w", uri=WORKER)
    unknown = authority.sign("w", uri="spiffe://example.org/other")
    forged = Authority().sign("w", uri=WORKER)
    async with running(recording, endpoint=endpoint, authenticator=authenticator) as served:

        def client_with(certificate: bytes | None, key: bytes | None) -> grpc.ChannelCredentials:
            return grpc.ssl_channel_credentials(authority.certificate, key, certificate)

        async with stubs(served.port, client_with(known.certificate, known.key)) as client:
            await ask(client)
        async with stubs(served.port, client_with(unknown.certificate, unknown.key)) as client:
            await refused(ask(client), Reason.TOKEN_MISSING)
        for pair in ((forged.certificate, forged.key), (None, None)):
            async with stubs(served.port, client_with(*pair)) as client:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(client)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [caller.subject for caller, _ in recording.seen] == ["by-certificate"]


async def status_of(client: Stubs, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(client.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_health_says_serving_only_when_ready() -> None:
    names = ("", "holdfast.v1.BalanceService", "holdfast.v1.LedgerService")
    async with running(Recording()) as served, stubs(served.port) as client:
        assert {await status_of(client, name) for name in names} == {NOT_SERVING}
        await served.server.set_ready(True)
        assert {await status_of(client, name) for name in names} == {SERVING}
        await served.server.set_ready(False)
        assert {await status_of(client, name) for name in names} == {NOT_SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status_of(client, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watches_of_health_are_bounded() -> None:
    async with running(Recording()) as served, stubs(served.port) as client:
        watch = health_pb2_grpc.HealthStub(client.channel).Watch
        watches = [watch(health_pb2.HealthCheckRequest()) for _ in range(WATCHES_MAX)]
        for each in watches:
            assert (await each.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(health_pb2.HealthCheckRequest()).read()
        assert read_refusal(caught.value).reason is Reason.OVERLOADED
        watches[0].cancel()

        async def has_room() -> bool:
            try:
                await watch(health_pb2.HealthCheckRequest()).read()
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(has_room)
        for each in watches:
            each.cancel()


async def listed_services(client: Stubs) -> set[str]:
    """What reflection says there is."""
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = await stub.ServerReflectionInfo(iter([request])).read()
    return {each.name for each in answer.list_services_response.service}


async def test_reflection_is_there_when_enabled() -> None:
    endpoint = Endpoint("127.0.0.1", 0, development=True, reflection=True)
    async with running(Recording(), endpoint=endpoint) as served, stubs(served.port) as client:
        assert "holdfast.v1.BalanceService" in await listed_services(client)


async def test_a64_reflection_is_off_otherwise() -> None:
    async with running(Recording()) as served, stubs(served.port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed_services(client)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a46_metadata_above_the_limit() -> None:
    async with running(Recording()) as served, stubs(served.port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(client, "x" * 9_000)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.recording.seen == []


async def test_an_unknown_method_is_unimplemented() -> None:
    async with running(Recording()) as served, stubs(served.port) as client:
        for path in ("BalanceService/Steal", "NoService/Reserve"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.raw(path, b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
