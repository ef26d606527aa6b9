"""Requests to addresses that an operator has named, so that they reach those and nothing else.

HTTPS only, no redirects, no proxies. The name is looked up once, every address it has must be
allowed, and the connection goes to one of them: a name that changes its mind in between gains
nothing. Plain HTTP and this machine itself are for tests, where the settings say so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Mapping
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, urlsplit

#: Time for one request in all, name and handshake included.
REQUEST_SECONDS_MAX: Final = 10.0

_PORTS: Final = {"https": 443, "http": 80}
_UNPRINTABLE: Final = re.compile(r"[^\x21-\x7e]")
#: IPv6 addresses that stand for the IPv4 address in their last four bytes.
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(StrEnum):
    """Where requests may go."""

    PUBLIC = "public"
    #: Addresses of one's own networks too.
    PRIVATE = "private"
    #: This machine too, and there without TLS.
    LOOPBACK = "loopback"


class AddressForbidden(ValueError):
    """A URL leads where requests may not go. The message is for people."""


class RequestFailed(Exception):
    """A request was not answered, or not with success. The message names no URL."""


def check_url(url: str, network: Network) -> SplitResult:
    """The parts of a URL that may be asked, as far as its text tells. Raises AddressForbidden."""
    parts = urlsplit(url)
    if _UNPRINTABLE.search(url) or not parts.hostname:
        raise AddressForbidden("it is not a URL")
    if parts.username is not None or parts.fragment:
        raise AddressForbidden("it must have no user, password or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and network is Network.LOOPBACK):
        raise AddressForbidden("it must be https")
    if network is Network.PUBLIC and _port(parts) != _PORTS["https"]:
        raise AddressForbidden("on public addresses it must be port 443")
    return parts


def check_address(address: Address, network: Network) -> None:
    """Raises AddressForbidden."""
    meant = _embedded(address) or address
    if meant.is_loopback:
        if network is not Network.LOOPBACK:
            raise AddressForbidden("it leads to this machine")
    elif meant.is_link_local or meant.is_multicast or meant.is_reserved or meant.is_unspecified:
        raise AddressForbidden("it leads to an address that is nobody's host")
    elif not meant.is_global and network is Network.PUBLIC:
        raise AddressForbidden("it leads into a private network")


async def send(
    method: str, url: str, body: bytes, headers: Mapping[str, str], network: Network
) -> None:
    """Sends a body and waits for success. Raises AddressForbidden and RequestFailed."""
    parts = check_url(url, network)
    try:
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            status = await _ask(method, parts, body, headers, await _resolve(parts, network))
    except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
        if isinstance(error, AddressForbidden):
            raise
        raise RequestFailed(f"no answer: {type(error).__name__}") from error
    # 3xx is no success either: a redirect leads where nobody has looked.
    if not status.startswith("2"):
        raise RequestFailed(f"answered with status {status}")


async def _resolve(parts: SplitResult, network: Network) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(
        parts.hostname, _port(parts), type=socket.SOCK_STREAM
    )
    addresses = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    for address in addresses:
        check_address(address, network)
    return str(addresses[0])


async def _ask(
    method: str, parts: SplitResult, body: bytes, headers: Mapping[str, str], address: str
) -> str:
    """The status of the answer, whose body nobody reads."""
    context = ssl.create_default_context() if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        address, _port(parts), ssl=context, server_hostname=parts.hostname if context else None
    )
    try:
        writer.write(_head(method, parts, {**headers, "content-length": str(len(body))}) + body)
        await writer.drain()
        version, status = (await reader.readline()).decode("latin-1").split(" ", 2)[:2]
        if not version.startswith("HTTP/"):
            raise ValueError("the answer is not HTTP")
        return status.strip()
    finally:
        writer.close()


def _head(method: str, parts: SplitResult, headers: Mapping[str, str]) -> bytes:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {parts.netloc}", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise AddressForbidden("its port is none") from error


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 address only wraps."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour
