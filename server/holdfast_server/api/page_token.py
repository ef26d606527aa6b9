"""Page tokens: where a list continues, signed, and bound to the tenant and the request."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json

from google.protobuf.message import Message

from holdfast_server.errors import HoldfastError, Reason

#: Bytes of the truncated signature: 128 bits cannot be guessed.
SIGNATURE_BYTES = 16
#: Characters of a token: a place is a few numbers and one id.
TOKEN_CHARACTERS_MAX = 1_024
#: Bytes of the key that signs.
KEY_BYTES_MIN = 32

#: Keeps signatures of page tokens apart from others under the same key.
_PURPOSE = b"holdfast page token 1"

#: Where a list continues, in the terms of whoever reads it.
Place = tuple[int | str, ...]


class PageTokens:
    """Signs places and reads them back."""

    def __init__(self, key: bytes) -> None:
        """`key` is the deployment's: every process must read every token. At least 32 bytes."""
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"a key for page tokens must have at least {KEY_BYTES_MIN} bytes")
        self._key = hmac.digest(key, _PURPOSE, hashlib.sha256)

    def issue(self, tenant: str, request: Message, place: Place | None) -> str:
        """The token of the next page; empty when there is none."""
        if place is None:
            return ""
        body = json.dumps(place, separators=(",", ":")).encode()
        signed = self._signature(tenant, request, body) + body
        return base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def read(self, tenant: str, request: Message, text: str) -> Place | None:
        """Where the page that `request` asks for begins; None for the first.

        Raises PAGE_TOKEN_INVALID for a token that was not issued to this tenant for this method
        and the same filters. The page size may differ.
        """
        if not text:
            return None
        raw = _decoded(text)
        signature, body = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(tenant, request, body)):
            raise invalid_page_token()
        return tuple(json.loads(body))

    def _signature(self, tenant: str, request: Message, body: bytes) -> bytes:
        filters = type(request)()
        filters.CopyFrom(request)
        for field in ("page_token", "page_size"):
            filters.ClearField(field)
        # The credential may name the tenant instead of the request.
        filters.ClearField("tenant")
        name = request.DESCRIPTOR.full_name.encode()
        parts = (name, tenant.encode(), filters.SerializeToString(deterministic=True), body)
        message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)[:SIGNATURE_BYTES]


def invalid_page_token() -> HoldfastError:
    """The answer to a token that is not ours, or not for this."""
    return HoldfastError(
        Reason.PAGE_TOKEN_INVALID,
        "page_token belongs to another request; begin with an empty one.",
        field="page_token",
    )


def _decoded(text: str) -> bytes:
    if len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        raise invalid_page_token()
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise invalid_page_token() from None
