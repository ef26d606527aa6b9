"""Parts that many answers share.

Answers of the hot path are filled where they are: what is made first and then given to a larger
message is copied with every step. A field that is left out has its default, as on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer as Repeated
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


def put_instant(into: Timestamp, instant_ms: int) -> None:
    """The same for a message's own timestamp: 0 leaves it unset."""
    if instant_ms > 0:
        into.seconds, ms = divmod(instant_ms, _MS_PER_SECOND)
        into.nanos = ms * _NANOS_PER_MS


def put_applied(into: types.Applied, value: reply.Applied) -> None:
    """Where an operation stands in the ledger."""
    into.durability = types.Durability.ValueType(value.durability)
    if value.seq:
        into.transaction_id = value.transaction_id
        into.partition = value.partition
        into.epoch = value.epoch
        into.seq = value.seq
    if value.replayed:
        into.replayed = True


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


def put_held_lines(into: Repeated[types.HeldLine], lines: Iterable[reply.HeldLine]) -> None:
    """What a hold holds."""
    for line in lines:
        row = into.add()
        row.credit_type = line.credit_type
        row.requested = line.requested
        row.held = line.held
        row.available_after = line.available_after
        if line.debt:
            row.debt = line.debt
        if line.unenforced:
            row.unenforced = line.unenforced


def put_grant_shares(into: Repeated[types.GrantShare], shares: Iterable[reply.GrantShare]) -> None:
    """Which grants paid or got back how much."""
    for share in shares:
        row = into.add()
        row.grant_id = share.grant_id
        row.account = share.account
        row.burned = share.burned
        row.returned = share.returned
        if share.expired:
            row.expired = share.expired
        if share.revoked:
            row.revoked = share.revoked


def put_settled_lines(
    into: Repeated[types.SettledLine], lines: Iterable[reply.SettledLine]
) -> None:
    """The receipt of a settlement."""
    for line in lines:
        row = into.add()
        row.credit_type = line.credit_type
        row.burned = line.burned
        row.returned = line.returned
        row.available_after = line.available_after
        if line.overage:
            row.overage = line.overage
        if line.debt:
            row.debt = line.debt
        if line.unenforced:
            row.unenforced = line.unenforced
        if line.held_after:
            row.held_after = line.held_after
        put_grant_shares(row.grants, line.grants)


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
