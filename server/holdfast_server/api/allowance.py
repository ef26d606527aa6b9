"""How much one tenant may ask of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from holdfast_server.errors import HoldfastError, Reason

#: Tenants whose use is remembered; the one that has been silent longest is forgotten first.
TENANTS_MAX = 10_000
#: A tenant may use as much of its rate at once as comes in this time.
BURST_NS = 2_000_000_000

_NS_PER_SECOND = 1_000_000_000
_NS_PER_MS = 1_000_000


class Allowance:
    """A rate for each tenant, as a generic cell rate: one instant per tenant, no timers."""

    def __init__(self, operations_per_second: float, clock_ns: Callable[[], int]) -> None:
        """`operations_per_second` 0 means no limit; the clock is not set back."""
        self._rate = operations_per_second
        self._clock_ns = clock_ns
        #: Per tenant, when its use will have been worked off.
        self._free_at_ns: OrderedDict[str, int] = OrderedDict()

    def check(self, tenant: str) -> None:
        """Raises RATE_LIMITED when the tenant could not make one more call."""
        if self._rate > 0:
            self._owed_ns(tenant, self._cost_ns(1))

    def charge(self, tenant: str, operations: int) -> None:
        """Raises RATE_LIMITED, and charges nothing, when the tenant is beyond its rate.

        A batch that is larger than the burst passes when nothing else is owed, so that every batch
        passes at some time; what it is above the rate is worked off afterwards.
        """
        if self._rate <= 0:
            return
        cost_ns = self._cost_ns(operations)
        owed_ns = self._owed_ns(tenant, cost_ns)
        self._free_at_ns[tenant] = self._clock_ns() + owed_ns + cost_ns
        self._free_at_ns.move_to_end(tenant)
        if len(self._free_at_ns) > TENANTS_MAX:
            self._free_at_ns.popitem(last=False)

    def _cost_ns(self, operations: int) -> int:
        return round(operations * _NS_PER_SECOND / self._rate)

    def _owed_ns(self, tenant: str, cost_ns: int) -> int:
        now_ns = self._clock_ns()
        owed_ns = max(0, self._free_at_ns.get(tenant, now_ns) - now_ns)
        excess_ns = owed_ns + min(cost_ns, BURST_NS) - BURST_NS
        if excess_ns > 0:
            raise HoldfastError(
                Reason.RATE_LIMITED,
                "The tenant sends more than its allowance; slow down.",
                retry_after_ms=excess_ns // _NS_PER_MS + 1,
            )
        return owed_ns
