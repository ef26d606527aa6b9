"""Operations as the scripts read them: positional lists, packed with msgpack.

The positions are those that the Lua files list; a test holds the two against each other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import msgpack

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Operation
from holdfast_server.domain.twin.accounts import counters_of
from holdfast_server.domain.twin.state import Counter
from holdfast_server.engine.call_keys import Places
from holdfast_server.engine.context import SOURCES, pack_context
from holdfast_server.engine.facts import Facts, key_of, method_of
from holdfast_server.engine.fingerprint import fingerprint, key_digest, key_time_ms

#: The number of each operation in apply.lua's table of handlers.
CODES: Mapping[type[Operation], int] = {
    op.Reserve: 1,
    op.Commit: 2,
    op.Release: 3,
    op.Extend: 4,
    op.Burn: 5,
    op.Refund: 6,
    op.GetBalance: 7,
    op.CreateAccount: 8,
    op.UpdateAccount: 9,
    op.Grant: 10,
    op.Revoke: 11,
    op.BookUnenforced: 12,
    op.ExpireDue: 13,
}

#: The same of a Commit of a hold that was lost with the hot store.
RECOVER_CODE = 14

#: Methods whose keys the ledger remembers for ever. A late replay of Reserve makes a new hold,
#: which expires.
PROTECTED = frozenset(CODES) - {op.Reserve, op.GetBalance, op.ExpireDue}


def digest_of(operation: Operation) -> bytes:
    """The digest of an operation's idempotency key; empty when it has none."""
    key = key_of(operation)
    return key_digest(operation.tenant, method_of(operation), key) if key else b""


def pack_operation(
    operation: Operation, facts: Facts, digest: bytes, places: Places, whereabouts: int
) -> list[Any]:
    """The list for one operation. `whereabouts` is the index of a key, or 0."""
    kind = type(operation)
    key = key_of(operation)
    print_of = fingerprint(operation) if digest else b""
    own = _PACKERS[kind](operation, facts)
    row = [
        RECOVER_CODE if facts.is_lost else CODES[kind],
        places.partition,
        places.tree,
        operation.tenant,
        digest,
        print_of,
        key_time_ms(key),
        int(facts.checked),
        int(kind in PROTECTED),
        pack_context(operation, facts, key, print_of, own),
    ]
    row += own
    if kind is op.CreateAccount:
        row += (whereabouts, str(places.hot_number))
    return row


def new_grant_id() -> bytes:
    """A UUIDv7: grants that tie in burn order burn in the order in which they were given."""
    stamp = (time.time_ns() // 1_000_000).to_bytes(6, "big")
    tail = bytearray(os.urandom(10))
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return stamp + bytes(tail)


def _reserve(operation: op.Reserve, facts: Facts) -> list[Any]:
    return _spend(operation, facts, operation.ttl_ms, os.urandom(16))


def _burn(operation: op.Burn, facts: Facts) -> list[Any]:
    return _spend(operation, facts, 0, b"")


def _spend(operation: op.Reserve | op.Burn, facts: Facts, ttl_ms: int, hold: bytes) -> list[Any]:
    own = [operation.account, facts.mode, operation.fit, ttl_ms, hold, operation.feature]
    for line in operation.lines:
        own += (line.credit_type, line.amount, line.minimum)
    return own


def _hold(facts: Facts) -> list[Any]:
    assert facts.token is not None
    return [facts.token.account, facts.token.hold]


def _commit(operation: op.Commit, facts: Facts) -> list[Any]:
    own = [*_hold(facts), int(operation.final), operation.ttl_ms, operation.overage]
    for line in operation.lines:
        own += (line.credit_type, -1 if line.amount is None else line.amount)
    if facts.is_lost:
        own.append(_lost(facts))
    return own


def _lost(facts: Facts) -> list[Any]:
    """What the token says of a hold that nobody else knows."""
    token = facts.token
    assert token is not None
    placed = token.placed
    assert placed is not None
    said: list[Any] = [placed.mode, token.feature, placed.expires_ms]
    for line in placed.lines:
        said += (line.credit_type, line.amount)
    return said


def _release(operation: op.Release, facts: Facts) -> list[Any]:
    return _hold(facts)


def _extend(operation: op.Extend, facts: Facts) -> list[Any]:
    return [*_hold(facts), operation.ttl_ms]


def _refund(operation: op.Refund, facts: Facts) -> list[Any]:
    plan = facts.refund
    assert plan is not None
    parts = [
        [
            part.account,
            part.credit_type,
            SOURCES.get(part.source) or bytes.fromhex(part.source),
            part.amount,
            part.priority,
            part.expires_ms,
            part.paid,
            part.effective_ms,
            int(part.revoked),
            bytes.fromhex(part.new_grant_id),
        ]
        for part in plan.parts
    ]
    return [plan.account, plan.as_of_seq, plan.refund_of, plan.goodwill_ttl_ms, parts]


def _balance(operation: op.GetBalance, facts: Facts) -> list[Any]:
    return [operation.account]


def _account(account: str, terms: op.AccountTerms, facts: Facts) -> list[Any]:
    limits = [pack_counter(each) for each in counters_of(terms, facts.version + 1)]
    overdraft = dict(terms.overdraft_limits)
    return [
        account,
        terms.parent,
        terms.status,
        overdraft,
        limits,
        facts.offsets,
        pack_unread_terms(terms),
        pack_terms(terms),
    ]


def pack_unread_terms(terms: op.AccountTerms) -> bytes:
    """The terms of an account that no decision reads; empty for none."""
    unread = [terms.display_name, terms.zone, dict(terms.labels)]
    packed: bytes = msgpack.packb(unread) if any(unread) else b""
    return packed


def pack_terms(terms: op.AccountTerms) -> bytes:
    """All terms of an account, as the answer repeats them."""
    limits = [pack_limit(limit) for limit in terms.limits]
    fields = [
        terms.parent,
        terms.status,
        dict(terms.overdraft_limits),
        limits,
        terms.display_name,
        terms.zone,
    ]
    packed = msgpack.packb([*fields, dict(terms.labels)])
    assert isinstance(packed, bytes)
    return packed


def pack_limit(limit: op.Limit) -> list[Any]:
    """The terms of a limit (lua/lib/constants.lua, L_...)."""
    return [
        limit.limit_id,
        limit.unit,
        limit.window,
        limit.maximum,
        limit.enforcement,
        limit.window_ms,
        limit.credit_type,
        limit.feature,
        list(limit.warn_percents),
    ]


def pack_counter(counter: Counter) -> list[Any]:
    """A limit and what was counted under it (lua/lib/constants.lua, L_...)."""
    used = [number for pair in counter.used.items() for number in pair]
    counted = [used, counter.level, counter.level_ms]
    return [*pack_limit(counter.limit), *counted, counter.number]


def _create_account(operation: op.CreateAccount, facts: Facts) -> list[Any]:
    return _account(operation.account, operation.terms, facts)


def _update_account(operation: op.UpdateAccount, facts: Facts) -> list[Any]:
    assert facts.terms is not None
    return [*_account(operation.account, facts.terms, facts), facts.version]


def _grant(operation: op.Grant, facts: Facts) -> list[Any]:
    terms = operation.terms
    return [
        operation.account,
        new_grant_id(),
        terms.credit_type,
        terms.amount,
        terms.priority,
        terms.effective_at_ms,
        terms.expires_at_ms,
        int(terms.cost_amount > 0),
        int(terms.repay_debt),
    ]


def _revoke(operation: op.Revoke, facts: Facts) -> list[Any]:
    return [operation.account, bytes.fromhex(operation.grant_id), facts.spent_grant]


def _book_unenforced(operation: op.BookUnenforced, facts: Facts) -> list[Any]:
    return [operation.account, [[line.credit_type, line.amount] for line in operation.lines]]


def _expire_due(operation: op.ExpireDue, facts: Facts) -> list[Any]:
    return [operation.root]


_PACKERS: Mapping[type[Operation], Any] = {
    op.Reserve: _reserve,
    op.Commit: _commit,
    op.Release: _release,
    op.Extend: _extend,
    op.Burn: _burn,
    op.Refund: _refund,
    op.GetBalance: _balance,
    op.CreateAccount: _create_account,
    op.UpdateAccount: _update_account,
    op.Grant: _grant,
    op.Revoke: _revoke,
    op.BookUnenforced: _book_unenforced,
    op.ExpireDue: _expire_due,
}
