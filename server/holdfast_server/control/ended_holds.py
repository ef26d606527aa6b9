"""What is answered about a hold that has ended, and that only the ledger knows."""

from __future__ import annotations

import logging

from holdfast_server.domain import reply as rp
from holdfast_server.domain.operation import Commit, Operation
from holdfast_server.engine import failures
from holdfast_server.errors import HoldfastError, Reason
from holdfast_server.ledger.records import RecordedHold

_LOG = logging.getLogger(__name__)


def ended(operation: Operation, found: RecordedHold) -> HoldfastError:
    """What became of a hold, for an operation that came too late."""
    committing = isinstance(operation, Commit)
    if committing and found.state is rp.HoldState.COMMITTED:
        burned = ",".join(f"{name}={amount}" for name, amount in sorted(found.burned.items()))
        metadata = {"committed": burned, "transaction_id": found.ended_by}
        return failures.failed(Reason.HOLD_ALREADY_COMMITTED, metadata)
    if found.state is rp.HoldState.EXPIRED:
        if not committing:
            return failures.failed(Reason.HOLD_EXPIRED, {})
        _LOG.error(
            "a commit came after its late window: hold expired in transaction %s", found.ended_by
        )
        message = (
            "the hold expired too long ago, so the use was not recorded; burn it as a new request"
        )
        return HoldfastError(Reason.HOLD_EXPIRED, message, usage_recorded="false")
    return failures.failed(Reason.HOLD_ALREADY_SETTLED, {"state": found.state.name})
