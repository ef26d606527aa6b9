"""What a script's refusal tells a caller: one sentence per reason that says what to do."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast_server.errors import HoldfastError, Reason

#: What callers are told to wait while the ledger is behind.
LEDGER_RETRY_AFTER_MS = 200
#: What callers are told to wait while a partition is recovered.
FENCED_RETRY_AFTER_MS = 250

_SENTENCES: Mapping[Reason, str] = {
    Reason.OVERLOADED: "much of this account expires right now; retry in a moment",
    Reason.FIELD_INVALID: (
        "the value of {field} is not possible now; a grant must expire after it becomes effective"
    ),
    Reason.LEDGER_BACKLOG: (
        "too many entries wait for the ledger, so no new holds are placed; retry in a moment"
    ),
    Reason.FENCED: (
        "the account {account} was removed from the hot store by hand; nothing is decided until "
        "somebody brings it back (holdfast recovery account)"
    ),
    Reason.ACCOUNT_NOT_FOUND: "the account {account} does not exist; create it first",
    Reason.GRANT_NOT_FOUND: "the account has no grant {grant_id}; list its grants",
    Reason.ACCOUNT_ALREADY_EXISTS: (
        "the name {account} is taken; read that account or choose another name"
    ),
    Reason.ACCOUNT_TREE_INVALID: "the account {account} cannot stand there: {rule}",
    Reason.HOLD_ALREADY_COMMITTED: (
        "the hold was committed before ({committed}); refund that transaction to correct it"
    ),
    Reason.HOLD_ALREADY_SETTLED: "the hold was settled before and is {state}; place a new one",
    Reason.HOLD_EXPIRED: (
        "the hold expired and gave its credits back; commit it to book what was used, "
        "or place a new one"
    ),
    Reason.HOLD_NOT_FOUND: "there is no such hold; use the id that Reserve answered",
    Reason.HOLD_MAXIMUM_AGE: (
        "a hold lives at most {maximum_age_ms} ms; settle it and place a new one"
    ),
    Reason.LINE_UNKNOWN: (
        "the hold has no credit type {credit_type}; name only those it was placed with"
    ),
    Reason.BALANCE_LIMIT_EXCEEDED: (
        "the figures for {credit_type} would pass 2^53-1; use a smaller amount"
    ),
    Reason.ACCOUNT_FULL: (
        "the account has its {maximum} {field}; let some be spent or revoke them"
    ),
    Reason.VERSION_CONFLICT: (
        "the account is at version {version} now; read it again and repeat the change"
    ),
    Reason.ACCOUNT_CLOSED: "the account {account} or one above it is closed; reopen it first",
}

_TREE_RULES = {
    "parent": "its parent does not exist in the tree; create the parent first",
    "levels": "a tree has at most 5 levels; choose a parent further up",
    "root": "an account cannot become a root or leave its tree; create a new one",
    "below": "an account cannot be moved below itself; choose another parent",
}


def failed(reason: Reason, metadata: Mapping[str, str]) -> HoldfastError:
    """The error for a reason and the values that its sentence names."""
    shown = dict(metadata)
    if "rule" in shown:
        shown["rule"] = _TREE_RULES[shown["rule"]]
    message = _SENTENCES[reason].format_map(shown)
    public = {name: value for name, value in metadata.items() if name != "rule"}
    return HoldfastError(reason, message, **public)


def key_reused(field: str) -> HoldfastError:
    """The key came with other content before."""
    before = f"the idempotency key was used before for a request whose {field} differs"
    message = f"{before}; use a new key for a new request"
    return HoldfastError(Reason.IDEMPOTENCY_KEY_REUSED, message, field=field)


def fenced() -> HoldfastError:
    """The store may have lost something, and decides nothing before that is made good."""
    return HoldfastError(
        Reason.FENCED,
        "the account's part of the hot store is being recovered; nothing was decided, retry",
        retry_after_ms=FENCED_RETRY_AFTER_MS,
    )


def internal(reference: str) -> HoldfastError:
    """A script refused to keep what it computed. The log has the cause under the reference."""
    message = f"nothing was changed; retry with the same key, and report {reference} if it persists"
    return HoldfastError(Reason.INTERNAL, message, reference=reference)


def ledger_behind() -> HoldfastError:
    """The ledger does not have yet what the answer depends on."""
    message = "the ledger is behind; retry with the same key in a moment"
    return HoldfastError(Reason.LEDGER_UNAVAILABLE, message, retry_after_ms=LEDGER_RETRY_AFTER_MS)
