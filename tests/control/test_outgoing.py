"""A61: a URL that an operator names leads there and nowhere else, whatever it says."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast_server.control import outgoing
from holdfast_server.control.outgoing import (
    AddressForbidden,
    Network,
    RequestFailed,
    check_address,
    check_url,
    send,
)
from tests.api.certificates import Authority


@dataclass
class Receiver:
    """A server of HTTP that remembers what it was told."""

    port: int = 0
    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        if self.answer:
            writer.write(self.answer)
            await writer.drain()
        else:
            await reader.read()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0) as server:
        found.port = server.sockets[0].getsockname()[1]
        yield found


async def test_a_request_arrives_as_it_was_meant(receiver: Receiver) -> None:
    await send("PUT", f"{receiver.url}/a/b?c=d", b"body", {"x-y": "z"}, Network.LOOPBACK)

    (request,) = receiver.requests
    assert request.startswith(b"PUT /a/b?c=d HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{receiver.port}".encode() in request
    assert b"x-y: z" in request
    assert request.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "https://user:secret@example.com/",
        "https://example.com:8443/",
        "https://example.com:70000/",
        "https:///nowhere",
        "https://example.com/a b",
        "https://example.com/\r\nx: y",
        "https://example.com/#part",
        "",
    ],
)
def test_urls_that_are_never_asked(url: str) -> None:
    with pytest.raises(AddressForbidden):
        check_url(url, Network.PUBLIC)


ANYWHERE = "8.8.8.8", "2606:4700:4700::1111"
OWN = "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"
HERE = "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"
NOBODY = (
    *("0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::"),
    *("fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"),
)
ALLOWED = {
    Network.PUBLIC: ANYWHERE,
    Network.PRIVATE: (*ANYWHERE, *OWN),
    Network.LOOPBACK: (*ANYWHERE, *OWN, *HERE),
}


@pytest.mark.parametrize("network", Network)
@pytest.mark.parametrize("text", [*ANYWHERE, *OWN, *HERE, *NOBODY])
def test_addresses_that_may_be_asked(text: str, network: Network) -> None:
    address = ipaddress.ip_address(text)
    if text in ALLOWED[network]:
        check_address(address, network)
    else:
        with pytest.raises(AddressForbidden):
            check_address(address, network)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "[::ffff:127.0.0.1]"])
async def test_no_packet_reaches_an_address_that_is_forbidden(
    host: str, receiver: Receiver
) -> None:
    """However it is written: what counts is the address that it leads to."""
    url = f"https://{host}:{receiver.port}/"

    with pytest.raises(AddressForbidden):
        await send("POST", url, b"", {}, Network.PRIVATE)

    assert receiver.requests == []


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.1 307 There\r\nlocation: " + receiver.url.encode() + b"/x\r\n\r\n"

    with pytest.raises(RequestFailed, match="307"):
        await send("POST", receiver.url, b"", {}, Network.LOOPBACK)

    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 Oh\r\n\r\n", b"hello\r\n\r\n", b"\r\n", b"HTTP/1.1"]
)
async def test_only_success_counts(answer: bytes, receiver: Receiver) -> None:
    receiver.answer = answer

    with pytest.raises(RequestFailed):
        await send("POST", receiver.url, b"", {}, Network.LOOPBACK)


async def test_nobody_waits_for_ever(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "REQUEST_SECONDS_MAX", 0.2)
    receiver.answer = b""

    with pytest.raises(RequestFailed, match="TimeoutError"):
        await send("POST", receiver.url, b"", {}, Network.LOOPBACK)


async def test_the_certificate_must_be_one_that_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, found = Authority(), Receiver()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.sign("server").write(tmp_path, "server"))
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(RequestFailed, match="SSLCertVerificationError"):
            await send("POST", url, b"a", {}, Network.LOOPBACK)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        await send("POST", url, b"b", {}, Network.LOOPBACK)

    assert [request[-1:] for request in found.requests] == [b"b"]
