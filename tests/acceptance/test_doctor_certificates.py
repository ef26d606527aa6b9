"""`holdfast doctor` and certificates: which file is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from holdfast_server.app.doctor import Check, Health, check_tls
from holdfast_server.app.problem import Problem
from holdfast_server.app.start import warn_of_certificates
from holdfast_server.settings import Settings, read
from tests.api.certificates import Authority, Signed

MONTH = timedelta(days=30)
DAY = timedelta(days=1)

authority = Authority()
good = authority.sign("server", ends=MONTH)
other = authority.sign("other", ends=MONTH)


def with_password(signed: Signed) -> Signed:
    key = serialization.load_pem_private_key(signed.key, None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    return replace(signed, key=key.private_bytes(*form, encryption))


def settings_of(folder: Path, signed: Signed, client_ca: bytes = b"") -> Settings:
    certificate, key = signed.write(folder, "server")
    variables = {
        "HOLDFAST_TLS_CERTIFICATE": str(certificate),
        "HOLDFAST_TLS_KEY": str(key),
        "HOLDFAST_STATE_DIR": str(folder),
    }
    if client_ca:
        (folder / "client-ca.pem").write_bytes(client_ca)
        variables["HOLDFAST_TLS_CLIENT_CA"] = str(folder / "client-ca.pem")
    return read(variables)


def checked(settings: Settings) -> Check:
    (check,) = check_tls(settings)
    return check


def test_what_callers_can_accept_is_good(tmp_path: Path) -> None:
    lasting = Authority("lasting", ends=MONTH)
    assert checked(settings_of(tmp_path, good, lasting.certificate)).health is Health.OK
    assert not list(check_tls(read({"HOLDFAST_STATE_DIR": str(tmp_path)})))


@pytest.mark.parametrize(
    ("signed", "file", "why"),
    [
        (replace(good, certificate=b"junk"), "server.crt", "no certificate in PEM"),
        (replace(good, certificate=b""), "server.crt", "no certificate in PEM"),
        (replace(good, key=b"junk"), "server.key", "no private key in PEM"),
        (with_password(good), "server.key", "a key with a password"),
        (replace(good, key=other.key), "server.key", "not the key of the first certificate"),
        (
            replace(good, certificate=authority.certificate + good.certificate),
            "server.key",
            "before those that signed it",
        ),
    ],
)
def test_what_grpc_cannot_use_is_named_and_serve_refuses(
    tmp_path: Path, signed: Signed, file: str, why: str
) -> None:
    settings = settings_of(tmp_path, signed)
    check = checked(settings)
    assert check.health is Health.BAD
    assert str(tmp_path / file) in check.found
    assert why in check.found
    assert check.advice
    with pytest.raises(Problem, match=why):
        warn_of_certificates(settings)


@pytest.mark.parametrize("name", ["server.crt", "server.key", "client-ca.pem"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    settings = settings_of(tmp_path, good, authority.certificate)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    check = checked(settings)
    assert check.health is Health.BAD
    assert f"is {tmp_path / name}, it cannot be read (Is a directory)" in check.found


@pytest.mark.parametrize(
    ("signed", "health", "found"),
    [
        (authority.sign("server", begins=-MONTH, ends=-DAY), Health.BAD, "has expired on"),
        (authority.sign("server", begins=DAY, ends=MONTH), Health.BAD, "is not valid before"),
        (authority.sign("server", ends=DAY), Health.WARNING, "expires on"),
    ],
)
def test_a_certificate_that_callers_refuse_is_said_and_served(
    tmp_path: Path, signed: Signed, health: Health, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(tmp_path, signed)
    check = checked(settings)
    assert (check.name, check.health) == ("tls_certificate", health)
    assert f"{tmp_path / 'server.crt'} {found}" in check.found
    # Whoever renews it needs no restart, and until then the ledger is flushed.
    warn_of_certificates(settings)
    assert found in caplog.text


def test_clients_need_an_authority_that_is_one(tmp_path: Path) -> None:
    check = checked(settings_of(tmp_path, good, other.certificate))
    assert (check.name, check.health) == ("tls_client_ca", Health.BAD)
    assert f"{tmp_path / 'client-ca.pem'} is no authority" in check.found
    expired = Authority("expired", begins=-MONTH, ends=-DAY)
    check = checked(settings_of(tmp_path, good, expired.certificate))
    assert (check.name, check.health) == ("tls_client_ca", Health.BAD)
    assert "has expired on" in check.found
