"""Who may call, as the settings say it. What cannot be used is named with its setting."""

from __future__ import annotations

import time

from holdfast_server.api.auth.authenticator import Authenticator
from holdfast_server.api.auth.key_set import KeySet, make_fetch
from holdfast_server.api.auth.signed_tokens import SignedTokens
from holdfast_server.api.auth.static_tokens import StaticTokens
from holdfast_server.app.problem import Problem
from holdfast_server.settings import Settings, variable_of


async def open_authenticator(settings: Settings) -> Authenticator:
    """Judges the credentials of callers; without settings there are none. Raises `Problem`."""
    try:
        static = (
            StaticTokens(settings.tokens_file, time.monotonic) if settings.tokens_file else None
        )
    except (OSError, ValueError) as error:
        raise _unusable("tokens_file", settings.tokens_file, error) from error
    try:
        signed = await _signed_tokens(settings) if settings.jwt_issuer else None
    except (OSError, ValueError) as error:
        raise _unusable("jwt_jwks", settings.jwt_jwks, error) from error
    return Authenticator(static, signed)


async def _signed_tokens(settings: Settings) -> SignedTokens:
    keys = KeySet(make_fetch(settings.jwt_jwks), time.monotonic)
    await keys.load()
    return SignedTokens(
        keys,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=settings.jwt_algorithms,
        now=time.time,
    )


def _unusable(setting: str, value: object, error: Exception) -> Problem:
    why = getattr(error, "strerror", None) or error
    return Problem(f"{variable_of(setting)} is {value}, which cannot be used: {why}")
