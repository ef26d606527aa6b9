"""The keys of a token issuer (JWKS), from a file or URL."""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import jwt

#: A set that is younger is used without asking.
FRESH_SECONDS = 300.0
#: A set that could not be renewed is used this long.
STALE_SECONDS_MAX = 86_400.0
#: After an attempt to renew, successful or not, the next one waits this long: a flood of tokens
#: with unknown key ids must not become a flood of requests to the issuer.
RETRY_SECONDS = 10.0
#: One request to the issuer.
FETCH_TIMEOUT_SECONDS = 2.0
#: Bytes of a key set.
KEY_SET_BYTES_MAX = 262_144
#: Keys of a key set.
KEYS_MAX = 100

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_log = logging.getLogger(__name__)

Fetch = Callable[[], Awaitable[bytes]]


class KeySet:
    """Keys by id, renewed when calls need it; at most one renewal runs at a time."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float]) -> None:
        """`clock` counts seconds and is not set back."""
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._renewed_at: float | None = None
        self._tried_at: float | None = None
        self._renewal: asyncio.Task[None] | None = None
        #: Rises with every renewal.
        self.generation = 0

    async def load(self) -> None:
        """Fetches for the first time. Raises OSError or ValueError when there is no usable set."""
        self._tried_at = self._clock()
        self._take(await self._fetch())

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of that id, or None.

        An unknown id waits for one renewal. A known one does not, while the set is not too old: an
        issuer that is slow must not slow down every call.
        """
        if key_id not in self._keys or not self._is_younger_than(STALE_SECONDS_MAX):
            renewal = self._begin_renewal()
            if renewal is not None:
                # A caller that gives up must not take the renewal from the others.
                await asyncio.shield(renewal)
        elif not self._is_younger_than(FRESH_SECONDS):
            self._begin_renewal()
        return self._keys.get(key_id) if self._is_younger_than(STALE_SECONDS_MAX) else None

    def _is_younger_than(self, seconds: float) -> bool:
        return self._renewed_at is not None and self._clock() - self._renewed_at < seconds

    def _begin_renewal(self) -> asyncio.Task[None] | None:
        """The renewal that runs, perhaps since now; None when the last one was a moment ago."""
        if self._renewal is None:
            if self._tried_at is not None and self._clock() - self._tried_at < RETRY_SECONDS:
                return None
            self._tried_at = self._clock()
            self._renewal = asyncio.create_task(self._fetch_and_take())
        return self._renewal

    async def _fetch_and_take(self) -> None:
        try:
            self._take(await self._fetch())
        except (OSError, ValueError) as error:
            _log.error("kept the old token keys, cannot renew them: %s", error)
        finally:
            self._renewal = None

    def _take(self, raw: bytes) -> None:
        self._keys = parse_keys(raw)
        self._renewed_at = self._clock()
        self.generation += 1


def parse_keys(raw: bytes) -> dict[str, jwt.PyJWK]:
    """The asymmetric signature keys of a JWKS by `kid`. Raises ValueError when there is none."""
    try:
        document = json.loads(raw)
    except RecursionError:
        raise ValueError("a key set must not be nested so deeply") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise ValueError(f"a key set must have a list of at most {KEYS_MAX} keys")
    keys = {key["kid"]: parsed for key in listed if (parsed := _parsed(key)) is not None}
    if not keys:
        raise ValueError("a key set must have a signature key with a kid")
    return keys


def _parsed(key: object) -> jwt.PyJWK | None:
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
        return None
    if key.get("kty") not in ("RSA", "EC", "OKP") or key.get("use", "sig") != "sig":
        return None
    try:
        return jwt.PyJWK(key)
    except jwt.PyJWTError:
        return None


def make_fetch(location: str) -> Fetch:
    """How to read the key set at a path or URL. Raises ValueError for a URL that is not safe."""
    address = urlsplit(location)
    if address.scheme in ("", "file"):
        return lambda: asyncio.to_thread(_read_file, Path(address.path))
    if address.scheme == "https" or (address.scheme == "http" and address.hostname in _LOOPBACK):
        return lambda: asyncio.to_thread(_read_url, location)
    raise ValueError("a key set must be a path, an https URL, or an http URL on loopback")


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return _bounded(file.read(KEY_SET_BYTES_MAX + 1))


def _read_url(location: str) -> bytes:
    # The scheme was checked; redirects are refused, because they would leave the checked address.
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(location, timeout=FETCH_TIMEOUT_SECONDS) as response:
            return _bounded(response.read(KEY_SET_BYTES_MAX + 1))
    except HTTPException as error:
        raise OSError(f"the issuer does not answer as HTTP wants it: {error!r}") from error


def _bounded(raw: bytes) -> bytes:
    if len(raw) > KEY_SET_BYTES_MAX:
        raise ValueError(f"a key set may have at most {KEY_SET_BYTES_MAX} bytes")
    return raw


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None
