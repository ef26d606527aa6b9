"""A token issuer: keys, its key set as a file, and tokens of every kind, right and wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from holdfast_server.api.auth.key_set import KeySet
from holdfast_server.api.auth.signed_tokens import SignedTokens

ISSUER = "https://issuer.example"
AUDIENCE = "holdfast"
#: The time of day at which tests take place, in seconds.
NOW = 1_800_000_000


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = NOW) -> None:
        """Begins at `now`."""
        self.now = now

    def __call__(self) -> float:
        """What time it is."""
        return self.now


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:
    """An RSA key; making one takes a while, so each is made once."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    """A key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_set(**rsa_keys: rsa.RSAPrivateKey) -> dict[str, Any]:
    """A JWKS of the RSA keys by their id, and of the key `elliptic`."""
    keys = [
        {**json.loads(RSAAlgorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"}
        for key_id, key in rsa_keys.items()
    ]
    elliptic = json.loads(ECAlgorithm.to_jwk(ec_key().public_key()))
    return {"keys": [*keys, {**elliptic, "kid": "elliptic", "use": "sig", "alg": "ES256"}]}


def write_key_set(path: Path, **rsa_keys: rsa.RSAPrivateKey) -> Path:
    """The key set as a file."""
    path.write_text(json.dumps(key_set(**rsa_keys)))
    return path


@dataclass(frozen=True)
class TokenText:
    """A token in the making; tests change one thing at a time."""

    claims: dict[str, Any] = field(
        default_factory=lambda: {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "service-1",
            "tenant": "acme",
            "roles": ["spender", "reader"],
            "nbf": NOW - 10,
            "exp": NOW + 300,
        }
    )
    headers: dict[str, Any] = field(default_factory=lambda: {"kid": "first"})

    def with_claims(self, **claims: Any) -> TokenText:
        """The same with some claims replaced; None removes one."""
        merged = {name: value for name, value in {**self.claims, **claims}.items()}
        return TokenText({n: v for n, v in merged.items() if v is not None}, self.headers)

    def with_headers(self, **headers: Any) -> TokenText:
        """The same with some headers replaced."""
        return TokenText(self.claims, {**self.headers, **headers})

    def signed(self, key: rsa.RSAPrivateKey | None = None) -> str:
        """Signed with RS256."""
        # Not `jwt.encode`, which refuses to write wrong claims.
        payload = json.dumps(self.claims).encode()
        return PyJWS().encode(payload, key or rsa_key(), "RS256", headers=self.headers)

    def signed_elliptic(self) -> str:
        """Signed with ES256."""
        headers = {**self.headers, "kid": "elliptic"}
        return jwt.encode(self.claims, ec_key(), "ES256", headers=headers)

    def unsigned(self) -> str:
        """With `alg` none and no signature."""
        return f"{_segment({**self.headers, 'alg': 'none'})}.{_segment(self.claims)}."

    def signed_with_public_key(self) -> str:
        """HS256 with the public RSA key as its secret: what a confused verifier would accept."""
        public = rsa_key().public_key()
        secret = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        signed = f"{_segment({**self.headers, 'alg': 'HS256'})}.{_segment(self.claims)}"
        signature = hmac.digest(secret, signed.encode(), hashlib.sha256)
        return f"{signed}.{_encoded(signature)}"


def verifier(keys: KeySet, clock: Clock) -> SignedTokens:
    """Verifies what this issuer signs for us."""
    return SignedTokens(
        keys, issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256", "ES256"], now=clock
    )


def _segment(value: dict[str, Any]) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
