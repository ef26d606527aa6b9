"""JSON Web Tokens of one issuer."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jwt
from jwt.types import Options

from holdfast_server.api.auth.key_set import KeySet
from holdfast_server.api.auth.principal import Principal, make_principal
from holdfast_server.errors import HoldfastError, Reason

#: By how much the clocks of issuer and server may differ.
LEEWAY_SECONDS = 60.0
#: Verified tokens that are remembered, so that a signature is checked once per token.
REMEMBERED_MAX = 4_096
#: Bytes of a key id.
KEY_ID_BYTES_MAX = 256

#: Algorithms that a settings file may allow: only those whose verification key cannot sign.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
#: Headers that would let a token bring its own key, or change how it is to be read.
_REFUSED_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip"})
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
#: The claims are checked here, in our order of precedence; the library checks the signature.
_SIGNATURE_ONLY: Options = {
    "verify_signature": True,
    "enforce_minimum_key_length": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    not_before: float
    expires_at: float
    generation: int


class SignedTokens:
    """Verifies tokens against an issuer's key set."""

    def __init__(
        self,
        keys: KeySet,
        *,
        issuer: str,
        audience: str,
        algorithms: Sequence[str],
        now: Callable[[], float],
    ) -> None:
        """`now` is the time of day in seconds. Raises ValueError for an unsafe configuration."""
        if not algorithms or not ALGORITHMS.issuperset(algorithms):
            raise ValueError(f"token algorithms must be among {', '.join(sorted(ALGORITHMS))}")
        if not issuer or not audience:
            raise ValueError("tokens need an issuer and an audience to be checked against")
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._algorithms = tuple(algorithms)
        self._now = now
        self._remembered: OrderedDict[bytes, _Verified] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Whom the token stands for. Raises HoldfastError with a TOKEN_* reason."""
        claims = await self._claims(token)
        verified = self._judged(claims)
        self._remember(_digest(token), verified)
        return verified.principal

    def remembered(self, token: str) -> Principal | None:
        """The same, where the token was verified before. Raises HoldfastError TOKEN_EXPIRED."""
        known = self._remembered.get(_digest(token))
        if known is None or known.generation != self._keys.generation:
            return None
        check_times(known.not_before, known.expires_at, self._now())
        return known.principal

    async def _claims(self, token: str) -> Mapping[str, object]:
        try:
            key = await self._keys.find(self._key_id(jwt.get_unverified_header(token)))
            if key is None:
                raise invalid_token()
            # The key brings its own algorithm, which must be the token's and among the allowed.
            return dict(jwt.decode(token, key, self._algorithms, options=_SIGNATURE_ONLY))
        except (jwt.PyJWTError, ValueError, TypeError):
            # Also what the library does not wrap, such as a payload that is no JSON object.
            raise invalid_token() from None

    def _key_id(self, header: Mapping[str, object]) -> str:
        algorithm, key_id = header.get("alg"), header.get("kid")
        kind = str(header.get("typ", "JWT")).lower()
        if not _REFUSED_HEADERS.isdisjoint(header) or kind not in _TYPES:
            raise invalid_token()
        if algorithm not in self._algorithms:
            raise invalid_token()
        if not isinstance(key_id, str) or not 1 <= len(key_id.encode()) <= KEY_ID_BYTES_MAX:
            raise invalid_token()
        return key_id

    def _judged(self, claims: Mapping[str, object]) -> _Verified:
        # A token need not say since when it is valid.
        not_before = _instant({"nbf": 0, **claims}, "nbf")
        expires_at = _instant(claims, "exp")
        check_times(not_before, expires_at, self._now())
        if self._audience not in _audiences(claims.get("aud")):
            message = "The token was issued for another audience."
            raise HoldfastError(Reason.TOKEN_AUDIENCE, message)
        if claims.get("iss") != self._issuer:
            message = "The token was issued by somebody this server does not trust."
            raise HoldfastError(Reason.TOKEN_ISSUER, message)
        principal = make_principal(claims.get("sub"), claims.get("tenant"), claims.get("roles"))
        if principal is None:
            raise invalid_token()
        return _Verified(principal, not_before, expires_at, self._keys.generation)

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._remembered[digest] = verified
        self._remembered.move_to_end(digest)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)


def invalid_token() -> HoldfastError:
    """One answer for everything that is wrong with a token itself: no hints for forgers."""
    return HoldfastError(Reason.TOKEN_INVALID, "The token is not valid here; get a new one.")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def check_times(not_before: float, expires_at: float, now: float) -> None:
    """Raises TOKEN_EXPIRED or TOKEN_NOT_YET_VALID, with some leeway for clocks that differ."""
    if now >= expires_at + LEEWAY_SECONDS:
        raise HoldfastError(Reason.TOKEN_EXPIRED, "The token has expired; get a new one.")
    if now < not_before - LEEWAY_SECONDS:
        message = "The token is not valid yet; check the clocks of issuer and server."
        raise HoldfastError(Reason.TOKEN_NOT_YET_VALID, message)


def _instant(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_token()
    # JSON as Python reads it has NaN, infinity and integers that are greater than any float.
    if not abs(value) <= sys.float_info.max:
        raise invalid_token()
    return float(value)


def _audiences(claim: object) -> list[object]:
    return claim if isinstance(claim, list) else [claim]
