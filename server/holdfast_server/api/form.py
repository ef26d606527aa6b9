"""Checks of single fields, and which of several faults a request is refused for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import TypeVar
from zoneinfo import available_timezones

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast_server.domain import bounds
from holdfast_server.domain.entry import parse_transaction_id
from holdfast_server.errors import HoldfastError, Reason

Choice = TypeVar("Choice", bound=IntEnum)

_ID = re.compile(rf"[A-Za-z0-9._~-]{{1,{bounds.ID_BYTES_MAX}}}\Z")
_CREDIT_TYPE = re.compile(rf"[A-Za-z0-9._~-]{{1,{bounds.CREDIT_TYPE_BYTES_MAX}}}\Z")
_KEY = re.compile(rf"[ -~]{{1,{bounds.IDEMPOTENCY_KEY_BYTES_MAX}}}\Z")
_GRANT_ID = re.compile(r"[0-9a-f]{32}\Z")
# Read when the process starts: one that has no file descriptors left later could not tell any more.
_ZONES = frozenset(available_timezones())

#: The ledger counts epochs in 32 bits.
_EPOCH_MAX = 2**31 - 1
#: The last second of the year 9999, the largest that a protobuf timestamp may hold.
_SECONDS_MAX = 253_402_300_799
_NANOS_PER_MS = 1_000_000
_NANOS_PER_SECOND = 1_000_000_000


class Form:
    """Reads the fields of one request and remembers the worst fault.

    Every method returns a value of the right type, right or not, so that a request is read in one
    expression; `settle` then raises the fault that comes first in the order of precedence of
    `reason.proto`. A value MUST NOT be used before `settle` has returned.
    """

    __slots__ = ("_fault",)

    def __init__(self) -> None:
        self._fault: HoldfastError | None = None

    def refuse(self, reason: Reason, message: str, **metadata: object) -> None:
        """Remembers a fault, unless one of higher precedence is known."""
        if self._fault is None or reason < self._fault.reason:
            self._fault = HoldfastError(reason, message, **metadata)

    def settle(self) -> None:
        """Raises the fault of highest precedence, if there is any."""
        if self._fault is not None:
            raise self._fault

    def identifier(self, value: str, field: str) -> str:
        """A required id: 1 to 128 bytes of `A-Za-z0-9._~-`."""
        if not _ID.match(value):
            self._refuse_id(field, bounds.ID_BYTES_MAX)
        return value

    def optional_identifier(self, value: str, field: str) -> str:
        """An id that may be empty."""
        return self.identifier(value, field) if value else value

    def credit_type(self, value: str, field: str) -> str:
        """The code of a credit type: an id of at most 32 bytes."""
        if not _CREDIT_TYPE.match(value):
            self._refuse_id(field, bounds.CREDIT_TYPE_BYTES_MAX)
        return value

    def optional_credit_type(self, value: str, field: str) -> str:
        """The code of a credit type, or empty."""
        return self.credit_type(value, field) if value else value

    def grant_id(self, value: str, field: str) -> str:
        """A grant's id. An id of another form than we issue names no grant."""
        if _ID.match(value) and not _GRANT_ID.match(value):
            self.refuse(Reason.GRANT_NOT_FOUND, "There is no such grant.", grant_id=value)
        return self.identifier(value, field)

    def transaction_id(self, value: str, field: str) -> str:
        """A transaction's id. An id of another form than we issue names no transaction."""
        place = parse_transaction_id(value)
        known = place is not None and place[0] < bounds.PARTITIONS_MAX and place[1] <= _EPOCH_MAX
        if _ID.match(value) and not known:
            message = "There is no such transaction."
            self.refuse(Reason.TRANSACTION_NOT_FOUND, message, transaction_id=value)
        return self.identifier(value, field)

    def idempotency_key(self, value: str) -> str:
        """A required idempotency key: 1 to 128 printable ASCII bytes."""
        field = "idempotency_key"
        if not value:
            self.refuse(
                Reason.IDEMPOTENCY_KEY_REQUIRED,
                "A mutation needs an idempotency_key; a UUIDv7 is a good one.",
                field=field,
            )
        elif not _KEY.match(value):
            self.refuse(
                Reason.IDEMPOTENCY_KEY_INVALID,
                f"{field} must be 1 to {bounds.IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII bytes.",
                field=field,
            )
        return value

    def choice(
        self, kind: type[Choice], number: int, field: str, default: Choice | None = None
    ) -> Choice:
        """A known member of an enum; 0 means the default, and is refused where there is none."""
        if number == 0 and default is not None:
            return default
        try:
            return kind(number)
        except ValueError:
            names = ", ".join(member.name for member in kind)
            self.refuse(Reason.ENUM_UNKNOWN, f"{field} must be one of {names}.", field=field)
            return next(iter(kind))

    def amount(self, value: int, field: str, minimum: int = 1) -> int:
        """An amount from `minimum` to 2^53-1."""
        if value < minimum:
            self.refuse(
                Reason.AMOUNT_NOT_POSITIVE, f"{field} must be at least {minimum}.", field=field
            )
        elif value > bounds.AMOUNT_MAX:
            self.too_large(field, bounds.AMOUNT_MAX)
        return value

    def too_large(self, field: str, maximum: int) -> None:
        """Refuses an amount above `maximum`."""
        message = f"{field} must be at most {maximum}."
        self.refuse(Reason.AMOUNT_TOO_LARGE, message, field=field, maximum=maximum)

    def ttl(
        self,
        value_ms: int,
        field: str,
        minimum_ms: int = bounds.TTL_MS_MIN,
        maximum_ms: int = bounds.TTL_MS_MAX,
    ) -> int:
        """A length of time in milliseconds, from `minimum_ms` to `maximum_ms`."""
        if not minimum_ms <= value_ms <= maximum_ms:
            self.refuse(
                Reason.TTL_OUT_OF_RANGE,
                f"{field} must be {minimum_ms} to {maximum_ms} milliseconds.",
                field=field,
                minimum_ms=minimum_ms,
                maximum_ms=maximum_ms,
            )
        return value_ms

    def optional_ttl(
        self,
        value_ms: int,
        field: str,
        minimum_ms: int = bounds.TTL_MS_MIN,
        maximum_ms: int = bounds.TTL_MS_MAX,
    ) -> int:
        """A length of time, or 0."""
        return self.ttl(value_ms, field, minimum_ms, maximum_ms) if value_ms else 0

    def labels(self, pairs: Mapping[str, str], field: str = "labels") -> dict[str, str]:
        """At most 16 pairs of 64 and 256 bytes."""
        if not pairs:
            return {}
        if len(pairs) > bounds.LABELS_MAX:
            self._refuse_labels(field, f"{bounds.LABELS_MAX} pairs", bounds.LABELS_MAX)
            return {}
        for key, value in pairs.items():
            self._label(key, value, field)
        # A map has no order on the wire: sorted, the same content is the same in every process.
        return dict(sorted(pairs.items()))

    def text(self, value: str, field: str, bytes_max: int) -> str:
        """Text for people: any characters but NUL, which the ledger cannot store."""
        if len(value.encode()) > bytes_max:
            self.invalid(field, f"must be at most {bytes_max} bytes", maximum=bytes_max)
        elif "\0" in value:
            self.invalid(field, "must not contain the character NUL")
        return value

    def number(self, value: int, field: str, minimum: int, maximum: int) -> int:
        """An integer from `minimum` to `maximum`."""
        if not minimum <= value <= maximum:
            self.invalid(field, f"must be {minimum} to {maximum}", maximum=maximum)
        return value

    def instant_ms(self, value: Timestamp, field: str) -> int:
        """A timestamp after 1970 in milliseconds since then, finer parts cut off."""
        instant_ms = value.seconds * 1_000 + value.nanos // _NANOS_PER_MS
        in_range = value.seconds <= _SECONDS_MAX and 0 <= value.nanos < _NANOS_PER_SECOND
        if instant_ms <= 0 or not in_range:
            self.invalid(field, "must be a timestamp between the years 1970 and 9999")
        return instant_ms

    def zone(self, value: str, field: str) -> str:
        """The name of an IANA time zone, or empty."""
        if value and value not in _ZONES:
            self.invalid(field, "must be the name of an IANA time zone, such as Europe/Berlin")
        return value

    def page_size(self, asked: int) -> int:
        """How many to list, 1 to 1,000; 0 means 100."""
        self.number(asked, "page_size", 0, bounds.PAGE_SIZE_MAX)
        return asked or bounds.PAGE_SIZE_DEFAULT

    def invalid(self, field: str, rule: str, **metadata: object) -> None:
        """Refuses a field that breaks the rule in its comment; `rule` continues "<field> …"."""
        self.refuse(Reason.FIELD_INVALID, f"{field} {rule}.", field=field, **metadata)

    def _refuse_id(self, field: str, bytes_max: int) -> None:
        message = f"{field} must be 1 to {bytes_max} of the characters A-Z a-z 0-9 . _ ~ -"
        self.refuse(Reason.ID_INVALID, message, field=field)

    def _refuse_labels(self, field: str, allowed: str, maximum: int) -> None:
        message = f"{field} may have at most {allowed}."
        self.refuse(Reason.METADATA_LIMIT, message, field=field, maximum=maximum)

    def _label(self, key: str, value: str, field: str) -> None:
        if len(key.encode()) > bounds.LABEL_KEY_BYTES_MAX:
            maximum = bounds.LABEL_KEY_BYTES_MAX
            self._refuse_labels(field, f"{maximum} bytes in a key", maximum)
        if len(value.encode()) > bounds.LABEL_VALUE_BYTES_MAX:
            maximum = bounds.LABEL_VALUE_BYTES_MAX
            self._refuse_labels(field, f"{maximum} bytes in a value", maximum)
        if "\0" in key or "\0" in value:
            self.invalid(field, "must not contain the character NUL")
