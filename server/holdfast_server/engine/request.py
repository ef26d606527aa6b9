"""What the engine is asked, and what it answers where the hot store alone cannot."""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdfast_server.domain.operation import Caller, CreateAccount, Operation
from holdfast_server.domain.token import HoldToken
from holdfast_server.domain.twin.grants import RefundPlan
from holdfast_server.domain.value import value
from holdfast_server.engine import failures
from holdfast_server.engine.cold import Absent, Name, Outcome
from holdfast_server.engine.item import Flag
from holdfast_server.errors import HoldfastError, Reason


@value(frozen=True, slots=True)
class NeedsLedger:
    """The hot store cannot answer alone: look up the key, the hold or the grant, or read the burns
    again.
    """

    flag: Flag
    #: The hold's tree and id, for HOLD_MISSING.
    token: HoldToken | None = None


@dataclass(frozen=True, slots=True)
class Cold:
    """The tree of that root is not in the store, as far as the answer shows.

    `otherwise` is the answer where it turns out that nothing is amiss; None: to be sent again.
    """

    name: Name
    otherwise: HoldfastError | NeedsLedger | None = None

    def after(self, outcome: Outcome, request: Request) -> HoldfastError | NeedsLedger | Request:
        """The answer, now that the tree was asked for, or what is to be sent again."""
        if isinstance(outcome, HoldfastError):
            return outcome
        if self.otherwise is not None:
            return self.otherwise
        if isinstance(outcome, Absent):
            return replace(request, absent_to=outcome.read_to)
        operation, (_, name) = request.operation, self.name
        is_root = isinstance(operation, CreateAccount) and not operation.terms.parent
        if is_root and outcome.root != name:
            return failures.failed(Reason.ACCOUNT_ALREADY_EXISTS, {"account": name})
        return replace(request, absent_to=-1)


@value(frozen=True, slots=True)
class Request:
    """An operation with what the ledger said about it, if it was asked."""

    operation: Operation
    checked: bool = False
    refund: RefundPlan | None = None
    #: The credit type of a grant that is revoked and that only the ledger still knows.
    spent_grant: str = ""
    #: Up to where the ledger was read that does not know the tree; -1 where it was not asked.
    absent_to: int = -1
    #: The hold of a Commit was lost with the hot store, as the ledger proves.
    is_lost: bool = False


#: A request, and who asks for it.
Called = tuple[Caller, Request]
