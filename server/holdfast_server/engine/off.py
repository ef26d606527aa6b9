"""Mode OFF: nothing is evaluated or booked, nor will a settlement book anything."""

from __future__ import annotations

from holdfast_server.domain.operation import Burn, Mode, Reserve
from holdfast_server.domain.reply import Applied, BurnReply, Decision, Outcome, ReserveReply
from holdfast_server.domain.token import HOLD_ID_BYTES, HoldToken, TokenKind, TokenSigner

_BYPASSED = Decision(Outcome.BYPASSED, Mode.OFF)


def off(operation: Reserve | Burn, root: str, signer: TokenSigner) -> ReserveReply | BurnReply:
    """What is answered in that mode; a hold's token says so."""
    if isinstance(operation, Burn):
        return BurnReply(_BYPASSED, Applied())
    token = HoldToken(
        TokenKind.OFF,
        root,
        operation.account,
        bytes(HOLD_ID_BYTES),
        operation.feature,
        operation.lines,
    )
    return ReserveReply(_BYPASSED, Applied(), signer.issue(operation.tenant, token))
