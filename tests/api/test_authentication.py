"""Who gets in: rows A34 to A37 of the abuse matrix, static tokens, and certificates."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdfast.v1 import balance_service_pb2 as messages
from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.key_set import KeySet, make_fetch
from holdfast_server.api.auth.principal import SUBJECT_BYTES_MAX, Role
from holdfast_server.api.auth.signed_tokens import SignedTokens
from holdfast_server.api.auth.static_tokens import (
    CHECK_INTERVAL_SECONDS,
    FILE_BYTES_MAX,
    StaticTokens,
)
from holdfast_server.domain.bounds import ID_BYTES_MAX
from holdfast_server.errors import Reason
from holdfast_server.telemetry.logs import (
    LINE_BYTES_MAX,
    LINES_PER_SECOND_MAX,
    JsonFormatter,
    Occasional,
)
from tests.api.issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    Clock,
    TokenText,
    key_set,
    rsa_key,
    verifier,
    write_key_set,
)
from tests.api.recording import Recording, running
from tests.support.stubs import Stubs, stubs
from tests.support.wire import refused

STATIC_TOKEN = "s3cret-static-token"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def signed_tokens(tmp_path: Path, clock: Clock) -> SignedTokens:
    path = write_key_set(tmp_path / "keys.json", first=rsa_key())
    keys = KeySet(make_fetch(str(path)), clock)
    await keys.load()
    return verifier(keys, clock)


def static_tokens(path: Path, clock: Clock, token: str = STATIC_TOKEN) -> StaticTokens:
    write_tokens(path, token)
    return StaticTokens(path, clock)


def write_tokens(path: Path, token: str) -> None:
    record = {
        "subject": "static-1",
        "tenant": "acme",
        "roles": ["spender"],
        "sha256": hashlib.sha256(token.encode()).hexdigest(),
    }
    path.write_text(json.dumps(record) + "\n")


@pytest.fixture
async def recording() -> Recording:
    return Recording()


@pytest.fixture
async def client(
    tmp_path: Path, clock: Clock, signed_tokens: SignedTokens, recording: Recording
) -> AsyncIterator[Stubs]:
    authenticator = Authenticator(static_tokens(tmp_path / "tokens", clock), signed_tokens)
    async with (
        running(recording, authenticator=authenticator) as served,
        stubs(served.port) as plain,
    ):
        yield plain


async def ask(client: Stubs, authorization: str | None) -> messages.BalanceResponse:
    metadata = () if authorization is None else (("authorization", authorization),)
    return await client.balance.Balance(messages.BalanceRequest(account="a"), metadata=metadata)


async def test_a_subject_may_be_as_long_as_an_entry_keeps_it(
    client: Stubs, recording: Recording
) -> None:
    subject = "\u00e9" * (SUBJECT_BYTES_MAX // 2)
    await ask(client, f"Bearer {TokenText().with_claims(sub=subject).signed()}")
    assert [caller.subject for caller, _ in recording.seen] == [subject]


async def test_good_tokens_are_let_in_as_whom_they_name(
    client: Stubs, recording: Recording
) -> None:
    await ask(client, f"Bearer {TokenText().signed()}")
    await ask(client, f"bearer {TokenText().signed_elliptic()}")
    await ask(client, f"Bearer {STATIC_TOKEN}")
    assert [caller.subject for caller, _ in recording.seen] == ["service-1"] * 2 + ["static-1"]


@pytest.mark.parametrize("authorization", [None, "", "Basic dXNlcjpwdw==", STATIC_TOKEN])
async def test_a34_no_token(client: Stubs, recording: Recording, authorization: str | None) -> None:
    await refused(ask(client, authorization), Reason.TOKEN_MISSING)
    assert recording.seen == []


@pytest.mark.parametrize(
    "token", ["garbage", "a.b.c", "..", "x" * 4_000, STATIC_TOKEN[:-1], STATIC_TOKEN + "x", " "]
)
async def test_a34_garbage_token(client: Stubs, recording: Recording, token: str) -> None:
    await refused(ask(client, f"Bearer {token}"), Reason.TOKEN_INVALID)
    assert recording.seen == []


async def test_a34_credentials_come_before_the_body_is_read(client: Stubs) -> None:
    await refused(client.raw("BalanceService/Reserve", b"\xff\xff"), Reason.TOKEN_MISSING)


async def test_a34_a_flood_of_refusals_is_no_flood_of_log_lines(
    client: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.addFilter(Occasional())
    for _ in range(5 * LINES_PER_SECOND_MAX):
        await refused(ask(client, "Bearer guess"), Reason.TOKEN_INVALID)
    lines = [record for record in caplog.records if record.message == "refused credentials"]
    assert 0 < len(lines) < 5 * LINES_PER_SECOND_MAX
    for record in lines:
        line = JsonFormatter("worker").format(record)
        assert len(line.encode()) < LINE_BYTES_MAX
        assert "guess" not in line
        assert json.loads(line)["reason"] == "TOKEN_INVALID"


async def test_a35_expired_with_leeway(client: Stubs, clock: Clock) -> None:
    authorization = f"Bearer {TokenText().signed()}"
    clock.now = NOW + 300 + 59
    await ask(client, authorization)
    clock.now = NOW + 300 + 60
    await refused(ask(client, authorization), Reason.TOKEN_EXPIRED)
    fresh = TokenText().with_claims(jti="another").signed()
    await refused(ask(client, f"Bearer {fresh}"), Reason.TOKEN_EXPIRED)


async def test_a35_not_yet_valid(client: Stubs) -> None:
    soon = TokenText().with_claims(nbf=NOW + 60).signed()
    await ask(client, f"Bearer {soon}")
    later = TokenText().with_claims(nbf=NOW + 61).signed()
    await refused(ask(client, f"Bearer {later}"), Reason.TOKEN_NOT_YET_VALID)


async def test_a_token_need_not_say_since_when_it_is_valid(client: Stubs) -> None:
    """Many issuers leave that out, as the standard allows."""
    await ask(client, f"Bearer {TokenText().with_claims(nbf=None).signed()}")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "other"}, Reason.TOKEN_AUDIENCE),
        ({"aud": ["other", "another"]}, Reason.TOKEN_AUDIENCE),
        ({"aud": None}, Reason.TOKEN_AUDIENCE),
        ({"iss": "https://evil.example"}, Reason.TOKEN_ISSUER),
        ({"iss": [ISSUER]}, Reason.TOKEN_ISSUER),
        ({"iss": None}, Reason.TOKEN_ISSUER),
        ({"exp": None}, Reason.TOKEN_INVALID),
        ({"nbf": "now"}, Reason.TOKEN_INVALID),
        ({"exp": "tomorrow"}, Reason.TOKEN_INVALID),
        ({"exp": float("inf")}, Reason.TOKEN_INVALID),
        ({"exp": float("nan")}, Reason.TOKEN_INVALID),
        ({"nbf": float("nan")}, Reason.TOKEN_INVALID),
        ({"exp": True}, Reason.TOKEN_INVALID),
        ({"exp": 10**400}, Reason.TOKEN_INVALID),
        ({"sub": None}, Reason.TOKEN_INVALID),
        ({"sub": "new\nline"}, Reason.TOKEN_INVALID),
        ({"sub": "\ud800"}, Reason.TOKEN_INVALID),
        ({"sub": ""}, Reason.TOKEN_INVALID),
        ({"sub": "\u00e9" * (SUBJECT_BYTES_MAX // 2) + "x"}, Reason.TOKEN_INVALID),
        ({"tenant": None}, Reason.TOKEN_INVALID),
        ({"tenant": "a/b"}, Reason.TOKEN_INVALID),
        ({"tenant": "t" * (ID_BYTES_MAX + 1)}, Reason.TOKEN_INVALID),
        ({"roles": "spender"}, Reason.TOKEN_INVALID),
        ({"roles": [["spender"]]}, Reason.TOKEN_INVALID),
    ],
)
async def test_a36_claims_that_are_not_for_us(
    client: Stubs, recording: Recording, claims: dict[str, object], reason: Reason
) -> None:
    token = TokenText().with_claims(**claims).signed()
    await refused(ask(client, f"Bearer {token}"), reason)
    assert recording.seen == []


@pytest.mark.parametrize("kind", ["JWE", "dpop+jwt", "secevent+jwt"])
async def test_a36_another_type_of_token(client: Stubs, kind: str) -> None:
    token = TokenText().with_headers(typ=kind).signed()
    await refused(ask(client, f"Bearer {token}"), Reason.TOKEN_INVALID)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(TokenText().unsigned(), id="alg none"),
        pytest.param(TokenText().signed_with_public_key(), id="HS256 with the public key"),
        pytest.param(TokenText().signed(rsa_key(1)), id="another key"),
        pytest.param(TokenText().signed()[:-8] + "AAAAAAAA", id="changed signature"),
        pytest.param(TokenText().with_headers(crit=["exp"]).signed(), id="crit"),
        pytest.param(TokenText().with_headers(crit=["x"], x=1).signed(), id="unknown crit"),
        pytest.param(TokenText().with_headers(jku="https://evil.example/k").signed(), id="jku"),
        pytest.param(TokenText().with_headers(x5u="https://evil.example/c").signed(), id="x5u"),
        pytest.param(
            TokenText().with_headers(jwk=key_set(x=rsa_key(1))["keys"][0]).signed(rsa_key(1)),
            id="own key",
        ),
        pytest.param(TokenText().with_headers(kid="../../etc/passwd").signed(), id="kid path"),
        pytest.param(TokenText().with_headers(kid="k" * 1_000).signed(), id="long kid"),
        pytest.param(TokenText().with_headers(kid="elliptic").signed(), id="key of another kind"),
    ],
)
async def test_a37_forged_tokens(client: Stubs, recording: Recording, token: str) -> None:
    await refused(ask(client, f"Bearer {token}"), Reason.TOKEN_INVALID)
    assert recording.seen == []


def test_a37_unsafe_algorithms_cannot_be_configured(clock: Clock) -> None:
    for algorithms in (["HS256"], ["none"], ["RS256", "HS512"], []):
        with pytest.raises(ValueError, match="algorithms"):
            SignedTokens(
                KeySet(make_fetch("/nowhere"), clock),
                issuer=ISSUER,
                audience=AUDIENCE,
                algorithms=algorithms,
                now=clock,
            )


def test_a_changed_file_of_tokens_counts_and_a_broken_one_does_not(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "tokens"
    tokens = static_tokens(path, clock, "old")
    write_tokens(path, "new")
    assert tokens.find("old") is not None
    clock.now += CHECK_INTERVAL_SECONDS
    assert tokens.find("old") is None
    assert tokens.find("new") is not None
    path.write_text("{broken")
    clock.now += CHECK_INTERVAL_SECONDS
    assert tokens.find("new") is not None
    os.unlink(path)
    clock.now += CHECK_INTERVAL_SECONDS
    assert tokens.find("new") is not None


@pytest.mark.parametrize(
    "record",
    [
        {"tenant": "t", "roles": [], "sha256": "0" * 64},
        {"subject": "s", "tenant": "t:x", "roles": [], "sha256": "0" * 64},
        {"subject": "s", "tenant": "t", "roles": ["root"], "sha256": "0" * 64},
        {"subject": "s", "tenant": "t", "roles": ["spender"], "sha256": "plain"},
        {"subject": "s", "tenant": "t", "roles": ["spender"]},
    ],
)
def test_a_wrong_record_keeps_the_server_from_starting(
    tmp_path: Path, clock: Clock, record: dict[str, object]
) -> None:
    path = tmp_path / "tokens"
    path.write_text(json.dumps([record]))
    with pytest.raises(ValueError, match="record 1"):
        StaticTokens(path, clock)


def test_a_file_of_tokens_is_bounded(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "tokens"
    write_tokens(path, "t")
    record = path.read_text()
    path.write_text(record.ljust(FILE_BYTES_MAX))
    assert StaticTokens(path, clock).find("t") is not None
    path.write_text(record.ljust(FILE_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="larger"):
        StaticTokens(path, clock)


def test_a_credential_may_be_a_name_in_a_certificate(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "tokens"
    name = "spiffe://example.org/worker"
    path.write_text(
        json.dumps([{"subject": "w", "tenant": "*", "roles": ["spender"], "certificate": name}])
    )
    found = StaticTokens(path, clock).find_certificate(["other", name])
    assert found is not None
    assert found.roles == {Role.SPENDER}
