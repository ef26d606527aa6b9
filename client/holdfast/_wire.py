"""From protobuf messages to results, for what more than one service answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast import records, results
from holdfast._lazy import reader
from holdfast.errors import HoldfastError, InternalError, from_status
from holdfast.kinds import (
    Durability,
    HoldState,
    LimitEnforcement,
    LimitUnit,
    LimitWindow,
    Mode,
    Outcome,
    WarningKind,
)
from holdfast.v1 import balance_service_pb2, reason_pb2, types_pb2

_REASON_NAMES: Mapping[int, str] = {
    number: name.removeprefix("REASON_") for name, number in reason_pb2.Reason.items() if number
} | {0: ""}


def reason_name(number: int) -> str:
    """The reason's name without its prefix; for one this release does not know, its number."""
    return _REASON_NAMES.get(number) or (str(number) if number else "")


def milliseconds(instant: Timestamp) -> int:
    """Milliseconds since the Unix epoch; 0 for an instant that is not set."""
    return instant.seconds * 1_000 + instant.nanos // 1_000_000


def timestamp(instant_ms: int) -> Timestamp | None:
    """The protobuf form of milliseconds since the Unix epoch; None for 0, "not set"."""
    if not instant_ms:
        return None
    return Timestamp(seconds=instant_ms // 1_000, nanos=instant_ms % 1_000 * 1_000_000)


_OUTCOMES: Mapping[int, Outcome] = {int(each): each for each in Outcome if each}


def _read_outcome(message: types_pb2.Decision) -> Outcome:
    outcome = _OUTCOMES.get(message.outcome)
    if outcome is None:
        raise InternalError(
            f"the server answered with outcome {message.outcome}, which is no answer"
        )
    return outcome


#: A decision. An outcome of zero, or of an unknown number, is an error: it never means yes.
read_decision = reader(
    results.Decision,
    {"outcome": _read_outcome},
    reason=lambda message: reason_name(message.reason),
    shortfalls=lambda message: tuple(
        results.Shortfall(s.credit_type, s.available, s.shortfall) for s in message.shortfalls
    ),
    limit=lambda message: read_limit_use(message.limit) if message.HasField("limit") else None,
    mode=lambda message: Mode(message.mode),
)

#: Where an operation stands in the ledger.
read_applied = reader(results.Applied, durability=lambda message: Durability(message.durability))


def read_limit_use(message: types_pb2.LimitUse) -> results.LimitUse:
    """How much of a limit is used."""
    return results.LimitUse(
        message.account,
        message.limit_id,
        message.maximum,
        message.used,
        message.remaining,
        milliseconds(message.resets_at),
    )


def read_warnings(messages: Iterable[types_pb2.Warning]) -> tuple[results.CreditWarning, ...]:
    """What to look at."""
    return tuple(
        results.CreditWarning(WarningKind(w.kind), w.account, w.limit_id, w.credit_type, w.percent)
        for w in messages
    )


def read_held(messages: Iterable[types_pb2.HeldLine]) -> tuple[results.HeldLine, ...]:
    """What is held, per line."""
    return tuple(
        results.HeldLine(
            m.credit_type, m.requested, m.held, m.debt, m.unenforced, m.available_after
        )
        for m in messages
    )


def read_shares(messages: Iterable[types_pb2.GrantShare]) -> tuple[results.GrantShare, ...]:
    """Which grants took part."""
    return tuple(
        results.GrantShare(m.grant_id, m.account, m.burned, m.returned, m.expired, m.revoked)
        for m in messages
    )


def read_settled(messages: Iterable[types_pb2.SettledLine]) -> tuple[results.SettledLine, ...]:
    """What a settlement did, per line."""
    return tuple(
        results.SettledLine(
            m.credit_type,
            m.burned,
            m.returned,
            m.overage,
            m.debt,
            m.unenforced,
            m.held_after,
            m.available_after,
            read_shares(m.grants),
        )
        for m in messages
    )


def read_buckets(message: types_pb2.Buckets) -> results.Buckets:
    """Buckets, or changes of them."""
    return results.Buckets(
        message.granted,
        message.debt,
        message.unenforced,
        message.available,
        message.held,
        message.burned,
        message.expired,
        message.revoked,
    )


def read_hold(message: types_pb2.Hold) -> results.OpenHold:
    """An open hold."""
    return results.OpenHold(
        message.hold_id,
        message.account,
        read_held(message.lines),
        message.feature,
        milliseconds(message.placed_at),
        milliseconds(message.expires_at),
        Mode(message.mode),
    )


def read_limit(message: types_pb2.Limit) -> records.Limit:
    """A limit of an account."""
    return records.Limit(
        message.limit_id,
        LimitUnit(message.unit),
        LimitWindow(message.window),
        message.maximum,
        LimitEnforcement(message.enforcement),
        message.credit_type,
        message.feature,
        message.window_ms,
        tuple(message.warn_percents),
    )


def write_limit(limit: records.Limit) -> types_pb2.Limit:
    """A limit for an account."""
    return types_pb2.Limit(
        limit_id=limit.limit_id,
        unit=types_pb2.Limit.Unit.ValueType(limit.unit),
        credit_type=limit.credit_type,
        feature=limit.feature,
        window=types_pb2.Limit.Window.ValueType(limit.window),
        window_ms=limit.window_ms,
        maximum=limit.maximum,
        enforcement=types_pb2.Limit.Enforcement.ValueType(limit.enforcement),
        warn_percents=limit.warn_percents,
    )


def read_hold_state(number: int) -> HoldState:
    """Where a hold is in its life."""
    return HoldState(number)


def read_item_error(message: balance_service_pb2.ItemError) -> HoldfastError:
    """The error that a single call would have raised for a batch's item."""
    retry_after = message.metadata.get("retry_after_ms", "")
    return from_status(
        message.code,
        message.message,
        reason=reason_name(message.reason),
        metadata=message.metadata,
        retry_after_ms=int(retry_after) if retry_after.isdigit() else None,
    )
