"""What the engine knows of an operation beyond what the operation says."""

from __future__ import annotations

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Caller, Operation
from holdfast_server.domain.token import HoldToken
from holdfast_server.domain.twin.grants import RefundPlan
from holdfast_server.domain.value import value


@value(frozen=True, slots=True)
class Facts:
    """What an operation needs beyond its own content."""

    caller: Caller
    mode: op.Mode = op.Mode.ENFORCE
    token: HoldToken | None = None
    refund: RefundPlan | None = None
    #: The credit type of a grant that is revoked and that only the ledger still knows.
    spent_grant: str = ""
    #: Complete terms of an account that is updated, and the version they replace.
    terms: op.AccountTerms | None = None
    version: int = 0
    #: The account's root and, where it exists, when it was created.
    root: str = ""
    created_ms: int = 0
    #: The account's time zone, see `zones.offsets_of`. Its file is read before the batch is packed:
    #: one that cannot be read fails nobody else.
    offsets: tuple[tuple[int, int], ...] = ()
    #: True when the ledger was asked for the key and does not know it.
    checked: bool = False
    #: Up to where the ledger was read that does not know the tree; -1 where it was not asked.
    absent_to: int = -1
    #: True when the hold of a Commit was lost with the hot store, as the ledger proves.
    is_lost: bool = False


def key_of(operation: Operation) -> str:
    """The idempotency key; empty for what carries none."""
    key: str = getattr(operation, "key", "")
    return key


def method_of(operation: Operation) -> str:
    """The method's name: the RPC's, except for what no RPC asks for."""
    return type(operation).__name__
