"""What both clients share besides the calls: settings, metadata, and failing open. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from holdfast import results
from holdfast._calls import Amounts, Bypass, Call, Defaults, Operation, T, lines_of
from holdfast._channel import Endpoint, Metadata, Tls
from holdfast._retry import Attempts, Deadlines
from holdfast._trace import active_traceparent
from holdfast.errors import InvalidRequest, Unreachable
from holdfast.kinds import Outcome

#: What to do when no server can be reached: "closed" raises `Unreachable`, "open" lets work pass.
WhenUnreachable = Literal["closed", "open"]

#: How calls of the hot path travel: all over one stream, or each as a call of its own.
TransportName = Literal["session", "unary"]

#: The credit type of bare amounts.
CREDIT_TYPE_DEFAULT = "credits"
#: How long one attempt may take.
ATTEMPT_TIMEOUT_MS = 2_000
#: How long a call may take with all its attempts.
TIMEOUT_MS = 10_000
#: How long a verification of the whole ledger may take.
VERIFY_TIMEOUT_MS = 600_000

#: Chance that neither a program's seed nor a fork repeats: clients must not retry in step.
_CHANCE = random.SystemRandom().random


class Core:
    """The state of a client without its connection. Safe to use from many threads."""

    def __init__(
        self,
        target: str,
        *,
        token: str | Callable[[], str],
        tenant: str,
        credit_type: str,
        tls: Tls | None,
        insecure: bool,
        unreachable: WhenUnreachable,
        attempt_timeout_ms: int,
        timeout_ms: int,
        traceparent: Callable[[], str | None] | None,
    ) -> None:
        self.endpoint = Endpoint(target, tls, insecure)
        self.bypassed = 0
        self._token = token
        self._defaults = Defaults(tenant, credit_type)
        self._open = unreachable == "open"
        self._deadlines = Deadlines(attempt_timeout_ms, timeout_ms)
        #: Answers the W3C header of the caller's span, if there is one.
        self.traceparent = traceparent or active_traceparent

    def metadata(self) -> Metadata:
        """What goes beside every request."""
        traceparent, pairs = self.traceparent(), self.credentials()
        return (*pairs, ("traceparent", traceparent)) if traceparent else pairs

    def credentials(self) -> Metadata:
        """What goes beside every stream. Raises InvalidRequest where that cannot be sent."""
        token = self._token if isinstance(self._token, str) else self._token()
        if not (token.isascii() and token.isprintable()):
            # The transport would refuse it with what looks like a broken connection.
            why = "the token has a character that no header may have, such as a line break"
            raise InvalidRequest(why, reason="FIELD_INVALID", metadata={"field": "token"})
        return (("authorization", f"Bearer {token}"),) if token else ()

    def request(self, call: Call[Any]) -> Any:
        """What all attempts send. Raises InvalidRequest for a number that no message can carry."""
        try:
            return call.build(self._defaults)
        except ValueError as error:
            raise InvalidRequest(str(error), reason="FIELD_INVALID") from error

    def attempts(self, call: Call[Any]) -> Attempts:
        """The attempts of one call, its clock started."""
        deadlines = self._deadlines
        if call.timeout_ms is None:
            return Attempts(deadlines, time.monotonic, _CHANCE)
        # The work behind the call takes long; to find out that nobody is there does not.
        search_ms = deadlines.total_ms
        deadlines = Deadlines(call.timeout_ms, call.timeout_ms)
        return Attempts(deadlines, time.monotonic, _CHANCE, search_ms=search_ms)

    def bypass_without_asking(self, call: Call[T]) -> Bypass[T] | None:
        """What a client that fails open answers to settling a hold that it let through itself."""
        if not self._open or call.bypass is None or not call.bypass.always:
            return None
        return self._counted(call.bypass)

    def bypass_after(self, call: Call[T], error: Unreachable) -> T:
        """What a client that fails open answers when nobody is there; else raises `error`."""
        if not self._open or call.bypass is None:
            raise error
        return self._counted(call.bypass).answer

    def forgives(self, error: Exception) -> bool:
        """Whether a block's settlement that failed with `error` is counted instead of raised."""
        if not self._open or not isinstance(error, Unreachable):
            return False
        self.bypassed += 1
        return True

    def batch(self, operations: Sequence[Operation[Any]]) -> tuple[list[Any], list[int]]:
        """The answers known without asking (None for the rest), and the indices of the rest."""
        bypasses = [self.bypass_without_asking(operation) for operation in operations]
        answers = [bypass.answer if bypass else None for bypass in bypasses]
        return answers, [index for index, bypass in enumerate(bypasses) if bypass is None]

    def amounts(self, amounts: Amounts, credit_type: str | None) -> dict[str, int]:
        """Amounts per credit type."""
        return lines_of(amounts, credit_type, self._defaults)

    def _counted(self, bypass: Bypass[T]) -> Bypass[T]:
        self.bypassed += bypass.unbooked
        return bypass


def allowed_amounts(result: results.ReserveResult, asked: dict[str, int]) -> dict[str, int]:
    """How much work a reserve allows: what is held, or what was asked if it was not evaluated."""
    if result.lines and result.decision.outcome is not Outcome.BYPASSED:
        return {line.credit_type: line.held for line in result.lines}
    return asked
