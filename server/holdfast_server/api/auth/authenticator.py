"""From the metadata of a call to a principal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from holdfast_server.api.auth.principal import DEVELOPMENT, Principal
from holdfast_server.api.auth.signed_tokens import SignedTokens, invalid_token
from holdfast_server.api.auth.static_tokens import StaticTokens
from holdfast_server.errors import HoldfastError, Reason

_SCHEME = "bearer "
#: A signed token has two dots; a static one may have any.
_DOTS_OF_SIGNED = 2


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Tries what is configured. With nothing configured, callers are `DEVELOPMENT`."""

    static_tokens: StaticTokens | None = None
    signed_tokens: SignedTokens | None = None

    @property
    def is_open(self) -> bool:
        """True when nobody has to prove anything. MUST NOT serve beyond loopback."""
        return self.static_tokens is None and self.signed_tokens is None

    async def authenticate(
        self, authorization: str | None, read_names: Callable[[], Iterable[str]]
    ) -> Principal:
        """Who calls, by `authorization` metadata or the names in the verified client certificate.

        Raises HoldfastError with a TOKEN_* reason.
        """
        found = self.recognize(authorization, read_names)
        if found is None:
            assert authorization is not None
            assert self.signed_tokens is not None
            found = await self.signed_tokens.verify(_token(authorization))
        return found

    def recognize(
        self, authorization: str | None, read_names: Callable[[], Iterable[str]]
    ) -> Principal | None:
        """The same, at once; None for a signed token that was not verified yet."""
        if self.is_open:
            return DEVELOPMENT
        if authorization is None:
            return self._by_certificate(read_names())
        if not authorization.lower().startswith(_SCHEME):
            raise missing_token()
        return self._by_token(_token(authorization))

    def _by_certificate(self, names: Iterable[str]) -> Principal:
        found = self.static_tokens.find_certificate(names) if self.static_tokens else None
        if found is None:
            raise missing_token()
        return found

    def _by_token(self, token: str) -> Principal | None:
        found = self.static_tokens.find(token) if self.static_tokens else None
        if found is not None:
            return found
        if self.signed_tokens is None or token.count(".") != _DOTS_OF_SIGNED:
            raise invalid_token()
        return self.signed_tokens.remembered(token)


def _token(authorization: str) -> str:
    return authorization[len(_SCHEME) :].strip()


def missing_token() -> HoldfastError:
    """The answer to a call without credentials."""
    return HoldfastError(
        Reason.TOKEN_MISSING, "The call needs the metadata `authorization: Bearer <token>`."
    )


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The names in a client certificate that the transport has verified; none without one."""
    if list(auth_context.get("transport_security_type", ())) not in ([b"ssl"], [b"tls"]):
        return []
    names = (
        *auth_context.get("x509_subject_alternative_name", ()),
        *auth_context.get("x509_common_name", ()),
    )
    return [name.decode("utf-8", "replace") for name in names]
