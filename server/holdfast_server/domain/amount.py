"""Amounts that people and gateways write as text."""

from __future__ import annotations

import re

from holdfast_server.domain.bounds import AMOUNT_MAX
from holdfast_server.errors import HoldfastError, Reason

#: One spelling per integer: no plus, leading zero, space, separator, fraction or exponent.
_PLAIN_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)\Z")
#: Longer texts are above `AMOUNT_MAX`, and converting them would take time for nothing.
_CHARACTERS_MAX = len(str(AMOUNT_MAX)) + 1


def parse_amount(text: str, *, field: str = "amount", minimum: int = 1) -> int:
    """The integer that `text` spells, from `minimum` to 2^53-1.

    Raises HoldfastError: AMOUNT_MALFORMED, AMOUNT_NOT_POSITIVE (below `minimum`), or
    AMOUNT_TOO_LARGE.
    """
    if not text.isascii() or not _PLAIN_INTEGER.match(text):
        raise HoldfastError(
            Reason.AMOUNT_MALFORMED, f"{field} must be a plain decimal integer.", field=field
        )
    if text.startswith("-") or (len(text) <= _CHARACTERS_MAX and int(text) < minimum):
        raise HoldfastError(
            Reason.AMOUNT_NOT_POSITIVE, f"{field} must be at least {minimum}.", field=field
        )
    if len(text) > _CHARACTERS_MAX or int(text) > AMOUNT_MAX:
        raise HoldfastError(
            Reason.AMOUNT_TOO_LARGE,
            f"{field} must be at most {AMOUNT_MAX}.",
            field=field,
            maximum=AMOUNT_MAX,
        )
    return int(text)
