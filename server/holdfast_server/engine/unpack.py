"""The scripts' answers as domain replies. Positions as in `lua/apply.lua` and `lua/operations/`.

Everything arrives as bytes, integers and lists; an empty Lua table may arrive as an empty map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from holdfast_server.domain import operation as op
from holdfast_server.domain import reply as rp
from holdfast_server.domain.entry import transaction_id
from holdfast_server.domain.operation import Mode, Operation
from holdfast_server.domain.token import HoldToken, TokenKind, TokenSigner, pack_placed
from holdfast_server.domain.value import value
from holdfast_server.errors import Reason

#: Where a decided operation's answer has its warnings, and what its own file lists.
WARNINGS, OWN = 8, 9
#: Decisions of which there is nothing more to say, as most of them are.
_BARE: Final[Mapping[tuple[int, int], rp.Decision]] = {
    (outcome.value, mode.value): rp.Decision(outcome, mode)
    for outcome in (rp.Outcome.GRANTED, rp.Outcome.GRANTED_PARTIAL)
    for mode in Mode
}
_HOLD_STATES: Final = {state.value: state for state in rp.HoldState}
_HELD: Final = TokenKind.HELD
#: Values of a line of a hold, of a settled line before its shares, of a share.
_HELD_VALUES, _SETTLED_VALUES, _SHARE_VALUES = 6, 8, 6


@value(frozen=True, slots=True)
class Place:
    """Where an operation was decided: what the script does not need to repeat."""

    partition: int
    epoch: int
    root: str
    replayed: bool


def unpack_reply(operation: Operation, raw: bytes, place: Place, signer: TokenSigner) -> rp.Reply:
    """The reply to an operation."""
    fields = msgpack.unpackb(raw, raw=True, strict_map_key=False)
    applied = _applied(fields, place)
    return _READERS[type(operation)](operation, fields, applied, place, signer)


def unpack_last_seq(raw: bytes) -> int:
    """The last sequence number of a decided operation; 0 where it has none."""
    return int(msgpack.unpackb(raw, raw=True, strict_map_key=False)[1])


def unpack_failure(raw: bytes) -> tuple[Reason, dict[str, str]]:
    """The reason and metadata of a refused operation."""
    reason, pairs = msgpack.unpackb(raw, raw=True, strict_map_key=False)
    texts = [value.decode() for value in pairs] if isinstance(pairs, list) else []
    return Reason(reason), dict(zip(texts[::2], texts[1::2], strict=True))


def _applied(fields: list[Any], place: Place) -> rp.Applied:
    first_seq, last_seq = fields[0], fields[1]
    if not last_seq:
        return rp.Applied(replayed=place.replayed)
    name = transaction_id(place.partition, place.epoch, first_seq)
    return rp.Applied(name, place.partition, place.epoch, last_seq, place.replayed)


def _decision(fields: list[Any]) -> rp.Decision:
    """What every decided operation answers in the same places (see `apply.lua`)."""
    outcome, mode, reason, retry_ms, shortfalls, limit = fields[2:WARNINGS]
    bare = _BARE.get((outcome, mode))
    if bare and not (reason or retry_ms or shortfalls or limit):
        return bare
    return rp.Decision(
        rp.Outcome(outcome),
        Mode(mode),
        Reason(reason),
        tuple(rp.Shortfall(name.decode(), there, missing) for name, there, missing in shortfalls),
        limit_use(limit) if limit else None,
        retry_ms,
    )


def limit_use(fields: list[Any]) -> rp.LimitUse:
    """How much of a limit is used."""
    account, limit_id, maximum, used, resets_ms = fields
    return rp.LimitUse(account.decode(), limit_id.decode(), maximum, used, resets_ms)


def _warnings(rows: list[Any]) -> tuple[rp.Warning, ...]:
    if not rows:
        return ()
    return tuple(
        rp.Warning(
            rp.WarningKind(kind), account.decode(), limit_id.decode(), credit_type.decode(), percent
        )
        for kind, account, limit_id, credit_type, percent in rows
    )


def _share(grant: bytes, account: bytes, *figures: int) -> rp.GrantShare:
    return rp.GrantShare(grant.hex(), account.decode(), *figures)


def _settled(rows: list[Any]) -> tuple[rp.SettledLine, ...]:
    return tuple([_settled_line(row) for row in rows])


def _settled_line(row: list[Any]) -> rp.SettledLine:
    places = range(_SETTLED_VALUES, len(row), _SHARE_VALUES)
    shares = tuple([_share(*row[place : place + _SHARE_VALUES]) for place in places])
    fields = (row[0].decode(), *row[1:_SETTLED_VALUES], shares)
    return rp.SettledLine(*fields)


def _held_lines(flat: list[Any]) -> tuple[rp.HeldLine, ...]:
    places = range(0, len(flat), _HELD_VALUES)
    return tuple(
        [
            rp.HeldLine(flat[place].decode(), *flat[place + 1 : place + _HELD_VALUES])
            for place in places
        ]
    )


def _buckets(figures: list[int]) -> rp.Buckets:
    return rp.Buckets(*figures)


def _reserve(
    operation: op.Reserve, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    hold, expires_ms, *flat = fields[OWN:]
    decision, lines, token = _decision(fields), _held_lines(flat), ""
    if hold:
        held = [(line.credit_type, line.held) for line in lines]
        packed = pack_placed(decision.mode, applied.epoch, applied.seq, expires_ms, held)
        what = HoldToken(_HELD, place.root, operation.account, hold, operation.feature, (), packed)
        token = signer.issue(operation.tenant, what)
    warnings = _warnings(fields[WARNINGS])
    return rp.ReserveReply(decision, applied, token, lines, expires_ms, warnings)


def _commit(
    operation: op.Commit, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    state, late, expires_ms, *lines = fields[OWN:]
    return rp.CommitReply(
        _decision(fields),
        applied,
        _HOLD_STATES[state],
        _settled(lines),
        bool(late),
        expires_ms,
        _warnings(fields[WARNINGS]),
    )


def _release(
    operation: op.Release, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    return rp.ReleaseReply(_decision(fields), applied, _settled(fields[OWN:]))


def _extend(
    operation: op.Extend, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    return rp.ExtendReply(_decision(fields), applied, fields[OWN])


def _burn(
    operation: op.Burn, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    warnings = _warnings(fields[WARNINGS])
    return rp.BurnReply(_decision(fields), applied, _settled(fields[OWN:]), warnings)


def _refund(
    operation: op.Refund, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    return rp.RefundReply(applied, tuple(_refunded_line(*row) for row in fields[2]))


def _refunded_line(credit_type: bytes, *rest: Any) -> rp.RefundedLine:
    *figures, shares = rest
    fields = (credit_type.decode(), *figures, tuple(_share(*row) for row in shares))
    return rp.RefundedLine(*fields)


def _balance(
    operation: op.GetBalance,
    fields: list[Any],
    applied: rp.Applied,
    place: Place,
    signer: TokenSigner,
) -> rp.Reply:
    credits, uses, open_holds, now_ms = fields[2:]
    lines = sorted((_credit(row, now_ms) for row in credits), key=lambda line: line.credit_type)
    limits = tuple(limit_use(use) for use in uses)
    return rp.BalanceReply(operation.account, tuple(lines), limits, open_holds, now_ms)


def _credit(row: list[Any], now_ms: int) -> rp.CreditBalance:
    """Grants come in burn order; those that are not effective yet follow, sooner ones first."""
    name, figures, spendable, version, grants = row
    shown = [rp.GrantBalance(grant[0].hex(), *grant[1:]) for grant in grants]
    pending = sorted(
        (grant for grant in shown if grant.effective_at_ms > now_ms),
        key=lambda grant: (grant.effective_at_ms, grant.grant_id),
    )
    effective = [grant for grant in shown if grant.effective_at_ms <= now_ms]
    buckets = _buckets(figures)
    return rp.CreditBalance(name.decode(), buckets, spendable, version, (*effective, *pending))


def _account(
    operation: op.CreateAccount | op.UpdateAccount,
    fields: list[Any],
    applied: rp.Applied,
    place: Place,
    signer: TokenSigner,
) -> rp.Reply:
    terms = unpack_terms(msgpack.unpackb(fields[4], raw=True, strict_map_key=False))
    account = rp.Account(operation.account, place.root, terms, fields[2], fields[3])
    return rp.AccountReply(account, applied)


def unpack_terms(fields: list[Any]) -> op.AccountTerms:
    """The terms of an account, as `pack.pack_terms` packed them."""
    parent, status, overdraft, limits, display_name, zone, labels = fields
    return op.AccountTerms(
        parent.decode(),
        display_name.decode(),
        op.AccountStatus(status),
        {name.decode(): amount for name, amount in overdraft.items()},
        tuple(_limit(limit) for limit in limits),
        zone.decode(),
        {name.decode(): value.decode() for name, value in labels.items()},
    )


def _limit(fields: list[Any]) -> op.Limit:
    limit_id, unit, window, maximum, enforcement, window_ms, credit_type, feature, warn = fields[:9]
    return op.Limit(
        limit_id.decode(),
        op.LimitUnit(unit),
        op.LimitWindow(window),
        maximum,
        op.LimitEnforcement(enforcement),
        window_ms,
        credit_type.decode(),
        feature.decode(),
        tuple(warn),
    )


def _grant(
    operation: op.Grant, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    return rp.GrantReply(fields[2].hex(), fields[3], _buckets(fields[4]), applied)


def _revoke(
    operation: op.Revoke, fields: list[Any], applied: rp.Applied, place: Place, signer: TokenSigner
) -> rp.Reply:
    return rp.RevokeReply(fields[2], fields[3], _buckets(fields[4]), applied)


def _book(
    operation: op.BookUnenforced,
    fields: list[Any],
    applied: rp.Applied,
    place: Place,
    signer: TokenSigner,
) -> rp.Reply:
    return rp.BookReply(applied)


def _expire(
    operation: op.ExpireDue,
    fields: list[Any],
    applied: rp.Applied,
    place: Place,
    signer: TokenSigner,
) -> rp.Reply:
    return rp.ExpireReply(*fields[2:])


_READERS: Mapping[type[Operation], Callable[..., rp.Reply]] = {
    op.Reserve: _reserve,
    op.Commit: _commit,
    op.Release: _release,
    op.Extend: _extend,
    op.Burn: _burn,
    op.Refund: _refund,
    op.GetBalance: _balance,
    op.CreateAccount: _account,
    op.UpdateAccount: _account,
    op.Grant: _grant,
    op.Revoke: _revoke,
    op.BookUnenforced: _book,
    op.ExpireDue: _expire,
}
