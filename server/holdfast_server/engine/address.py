"""Where the hot store is: one server, one that sentinels know, or a cluster.

| URL | what it names |
| --- | --- |
| `redis://…`, `rediss://…`, `unix://…` | one server, as redis-py takes it |
| `redis+sentinel://[user:password@]host:port,host:port/name` | the master that they call so |
| `redis+cluster://[user:password@]host:port,host:port` | a cluster, by some of its nodes |

`rediss+…` speaks TLS. User and password are the store's; sentinels are asked without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from holdfast_server.settings import SettingsError

PORT_DEFAULT: Final = 6379


@dataclass(frozen=True, slots=True)
class Address:
    """What such a URL says. `nodes` is empty for one server; `master` for all but sentinels."""

    url: str
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    username: str | None = None
    password: str | None = None
    tls: bool = False

    @property
    def credentials(self) -> dict[str, Any]:
        """What every connection to the store is given."""
        given = {"username": self.username, "password": self.password}
        return {name: value for name, value in given.items() if value is not None}


def parse(url: str) -> Address:
    """Raises `SettingsError` for a URL that names no node, or sentinels without a master."""
    scheme, _, rest = url.partition("://")
    if "+" not in scheme:
        return Address(url)
    credentials, _, place = rest.rpartition("@")
    hosts, _, master = place.partition("/")
    username, _, password = credentials.partition(":")
    if scheme.endswith("sentinel") and not master:
        raise _wrong("say behind the sentinels which master they are asked for: …/mymaster")
    return Address(
        url,
        tuple(_node(each) for each in hosts.split(",")),
        master if scheme.endswith("sentinel") else "",
        unquote(username) or None,
        unquote(password) or None,
        scheme.startswith("rediss"),
    )


def _node(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        host, port = port, str(PORT_DEFAULT)
    if not host or not port.isdigit():
        raise _wrong("a node is a host and a port: host:6379")
    return host.strip("[]"), int(port)


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"HOLDFAST_REDIS_URL cannot be read: {what}")
