"""Certificates and keys of the server: whether they can be used, and until when.

Of a file that it cannot use gRPC says only that it cannot have its port, and of a certificate that
is over nothing at all: its callers do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from holdfast_server.app.problem import Problem
from holdfast_server.settings import Settings, variable_of

#: What renews certificates has failed for some time when one ends so soon.
ENDS_SOON: Final = timedelta(days=7)

_DER: Final = serialization.Encoding.DER
_KEY: Final = serialization.PublicFormat.SubjectPublicKeyInfo

#: The certificates in each file, by the name of its setting.
Chains = Mapping[str, tuple[Path, Sequence[x509.Certificate]]]


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a file that can be used."""

    setting: str
    found: str
    advice: str
    #: Callers are refused by now, or by whom they should not be.
    is_bad: bool


def read_certificates(settings: Settings) -> Chains:
    """What is in the files; nothing where there is no TLS. Raises `Problem` when gRPC could not
    listen with them.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return {}
    chain = _certificates("tls_certificate", settings.tls_certificate)
    if not _belong_together(chain[0], _private_key(settings.tls_key)):
        raise _unusable(
            "tls_key",
            settings.tls_key,
            f"not the key of the first certificate in {settings.tls_certificate}: give the two "
            "that belong together, and the server's own certificate before those that signed it",
        )
    chains = {"tls_certificate": (settings.tls_certificate, chain)}
    if settings.tls_client_ca:
        authorities = _certificates("tls_client_ca", settings.tls_client_ca)
        chains["tls_client_ca"] = (settings.tls_client_ca, authorities)
    return chains


def find_flaws(chains: Chains, now: datetime) -> Iterator[Flaw]:
    """Certificates that callers refuse now or soon, and authorities that are none."""
    for setting, (path, chain) in chains.items():
        for place, certificate in enumerate(chain, 1):
            which = f"certificate {place} in {path}"
            yield from _flaws_of_time(setting, which, certificate, now)
            if setting == "tls_client_ca" and not _is_authority(certificate):
                found = f"{which} is no authority: it does not say CA:TRUE"
                advice = "give the certificate of the authority that signs those of your clients"
                # One that signed itself may be that of the only client there is.
                is_bad = certificate.issuer != certificate.subject
                yield Flaw(setting, found, advice, is_bad)


def check_certificates(settings: Settings) -> list[Flaw]:
    """What is wrong with them now. Raises as `read_certificates` does."""
    return list(find_flaws(read_certificates(settings), datetime.now(UTC)))


def _flaws_of_time(
    setting: str, which: str, certificate: x509.Certificate, now: datetime
) -> Iterator[Flaw]:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        advice = "wait, or look at the clocks of this machine and of who signed it"
        yield Flaw(setting, f"{which} is not valid before {_said(begins)}", advice, is_bad=True)
    if now >= ends - ENDS_SOON:
        found = f"{which} {'has expired' if now >= ends else 'expires'} on {_said(ends)}"
        advice = "put a new one into that file: running processes read it by themselves"
        yield Flaw(setting, found, advice, is_bad=now >= ends)


def _said(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _certificates(setting: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_bytes(setting, path))
    except ValueError as error:
        raise _unusable(setting, path, "no certificate in PEM: give another file") from error


def _private_key(path: Path) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(_bytes("tls_key", path), None)
    except TypeError as error:
        advice = "a key with a password, for which nobody can ask: take it off (openssl pkey)"
        raise _unusable("tls_key", path, advice) from error
    except ValueError as error:
        raise _unusable("tls_key", path, "no private key in PEM: give another file") from error


def _bytes(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = f"it cannot be read ({error.strerror}): let this user read it, or give another path"
        raise _unusable(setting, path, why) from error


def _unusable(setting: str, path: Path, why: str) -> Problem:
    return Problem(f"{variable_of(setting)} is {path}, {why}")


def _belong_together(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    public = key.public_key()
    return certificate.public_key().public_bytes(_DER, _KEY) == public.public_bytes(_DER, _KEY)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        return False
    return found.value.ca
