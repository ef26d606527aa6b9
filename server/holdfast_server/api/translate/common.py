"""Parts that many answers share."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from holdfast.v1 import types_pb2 as types
from holdfast_server.domain import reply

_MS_PER_SECOND = 1_000
_NANOS_PER_MS = 1_000_000


def timestamp(instant_ms: int) -> Timestamp | None:
    """An instant; None, which leaves a field unset, for 0."""
    if instant_ms <= 0:
        return None
    seconds, ms = divmod(instant_ms, _MS_PER_SECOND)
    return Timestamp(seconds=seconds, nanos=ms * _NANOS_PER_MS)


def applied(value: reply.Applied) -> types.Applied:
    """Where an operation stands in the ledger."""
    return types.Applied(
        transaction_id=value.transaction_id,
        partition=value.partition,
        epoch=value.epoch,
        seq=value.seq,
        replayed=value.replayed,
        durability=types.Durability.ValueType(value.durability),
    )


def buckets(value: reply.Buckets) -> types.Buckets:
    """The eight figures of an account and credit type."""
    return types.Buckets(
        granted=value.granted,
        debt=value.debt,
        unenforced=value.unenforced,
        available=value.available,
        held=value.held,
        burned=value.burned,
        expired=value.expired,
        revoked=value.revoked,
    )


def limit_use(value: reply.LimitUse) -> types.LimitUse:
    """How much of a limit is used."""
    return types.LimitUse(
        account=value.account,
        limit_id=value.limit_id,
        maximum=value.maximum,
        used=value.used,
        remaining=value.remaining,
        resets_at=timestamp(value.resets_at_ms),
    )


def held_lines(lines: Iterable[reply.HeldLine]) -> list[types.HeldLine]:
    """What a hold holds."""
    return [
        types.HeldLine(
            credit_type=line.credit_type,
            requested=line.requested,
            held=line.held,
            debt=line.debt,
            unenforced=line.unenforced,
            available_after=line.available_after,
        )
        for line in lines
    ]


def grant_shares(shares: Iterable[reply.GrantShare]) -> list[types.GrantShare]:
    """Which grants paid or got back how much."""
    return [
        types.GrantShare(
            grant_id=share.grant_id,
            account=share.account,
            burned=share.burned,
            returned=share.returned,
            expired=share.expired,
            revoked=share.revoked,
        )
        for share in shares
    ]


def settled_lines(lines: Iterable[reply.SettledLine]) -> list[types.SettledLine]:
    """The receipt of a settlement."""
    return [
        types.SettledLine(
            credit_type=line.credit_type,
            burned=line.burned,
            returned=line.returned,
            overage=line.overage,
            debt=line.debt,
            unenforced=line.unenforced,
            held_after=line.held_after,
            available_after=line.available_after,
            grants=grant_shares(line.grants),
        )
        for line in lines
    ]


def warnings(values: Iterable[reply.Warning]) -> list[types.Warning]:
    """What to look at although the request was granted."""
    return [
        types.Warning(
            kind=types.Warning.Kind.ValueType(value.kind),
            account=value.account,
            limit_id=value.limit_id,
            credit_type=value.credit_type,
            percent=value.percent,
        )
        for value in values
    ]
