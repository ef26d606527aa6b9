"""The options that say which service to talk to, and as whom."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from holdfast import Client, Tls
from holdfast_server.cli.options import json_option
from holdfast_server.cli.values import TEXT

#: Where `holdfast up` and `holdfast serve` listen unless they are told otherwise.
TARGET_DEFAULT = "127.0.0.1:7400"
#: A person waits no longer than this to hear that nobody answers.
TIMEOUT_MS = 5_000

_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--target",
        envvar="HOLDFAST_TARGET",
        type=TEXT,
        default=TARGET_DEFAULT,
        show_default=True,
        help="Address of the service. Or HOLDFAST_TARGET.",
    ),
    click.option(
        "--tenant", envvar="HOLDFAST_TENANT", type=TEXT, default="", help="Or HOLDFAST_TENANT."
    ),
    click.option(
        "--token",
        envvar="HOLDFAST_TOKEN",
        default="",
        help="Bearer token. Better HOLDFAST_TOKEN: others can see arguments.",
    ),
    click.option("--tls-ca", envvar="HOLDFAST_TLS_CA", type=_READABLE, help="Whom to trust, PEM."),
    click.option("--certificate", type=_READABLE, help="Our certificate chain, PEM, for mTLS."),
    click.option("--private-key", type=_READABLE, help="Its key, PEM."),
    click.option("--insecure", is_flag=True, help="No TLS although it is another machine."),
)


@dataclass(frozen=True, slots=True)
class Connection:
    """Which service, and as whom."""

    target: str
    tenant: str
    token: str
    tls_ca: Path | None
    certificate: Path | None
    private_key: Path | None
    insecure: bool

    def open(self) -> Client:
        """A client; it connects when it is first used."""
        return Client(
            self.target,
            token=self.token,
            tenant=self.tenant,
            tls=self._tls(),
            insecure=self.insecure,
            timeout_ms=TIMEOUT_MS,
        )

    def _tls(self) -> Tls | None:
        if bool(self.certificate) != bool(self.private_key):
            raise click.UsageError("give --certificate and --private-key together")
        if not (self.tls_ca or self.certificate):
            return None
        return Tls(
            root_certificates=_bytes(self.tls_ca),
            private_key=_bytes(self.private_key),
            certificate_chain=_bytes(self.certificate),
        )


def connection_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options; the command gets a `connection` in their place."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        fields = {name: arguments.pop(name) for name in Connection.__dataclass_fields__}
        command(connection=Connection(**fields), **arguments)

    wrapped: Callable[..., None] = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def client_command(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options and `--json`; the command gets a `client` and `as_json`."""

    @functools.wraps(command)
    def run(connection: Connection, **arguments: Any) -> None:
        with connection.open() as client:
            command(client=client, **arguments)

    return connection_options(json_option(run))


def _bytes(path: Path | None) -> bytes | None:
    return path.read_bytes() if path else None
