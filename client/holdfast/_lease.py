"""A lease: credits that are held in advance and spent without asking; what its two kinds share."""

from __future__ import annotations

import logging
import os
import weakref

from holdfast import results
from holdfast._core import Core
from holdfast._lease_state import LeaseState, Terms, Wanted, is_positive

logger = logging.getLogger("holdfast")


class LeaseBase:
    """Credits held in advance and spent in this process, for decisions in microseconds.

    Made by a client's `lease`. Begins with a hold of `amount`; what is spent is captured every
    `capture_interval_ms`, replaced in the background before it runs out, and the rest is given back
    at the end. A process that dies spends nothing more: its holds expire after `ttl_ms` at the
    latest, and what it spent since its last capture is not charged.
    """

    def __init__(self, terms: Terms) -> None:
        self._state = LeaseState(terms)
        self._error: Exception | None = None
        self._was_forked = False
        _LEASES.add(self)

    @property
    def left(self) -> int:
        """How much may be spent at this moment."""
        return self._state.left

    @property
    def decision(self) -> results.Decision | None:
        """The answer to the last reserve: why there is no more, or what shadow mode lets pass."""
        return self._state.decision

    @property
    def captured(self) -> int:
        """What the service has charged so far."""
        return self._state.captured

    @property
    def uncharged(self) -> int:
        """What was spent and not charged, or perhaps not: on holds that somebody else settled,
        while nobody could be reached, or captured by a last commit without an answer.
        """
        return self._state.uncharged

    def _check(self, amount: int) -> None:
        """Raises what a spend raises that can never be allowed."""
        if not is_positive(amount):
            raise ValueError("spend a whole number of at least 1")
        if self._was_forked:
            raise RuntimeError("a lease belongs to the process that took it; take one after a fork")
        if self._state.is_closing or self._state.decision is None:
            raise RuntimeError("a lease is spent inside its block")

    def _check_new(self) -> None:
        """Raises RuntimeError where the block was begun before."""
        if self._state.decision is not None:
            raise RuntimeError("a lease has one block; take another one")

    def _failed(self, wanted: Wanted, error: Exception, now_s: float) -> None:
        """Tries again later; at the end, remembers what `close` raises."""
        if self._state.failed(wanted, error, now_s) and self._state.is_closing:
            self._error = self._error or error

    def _settled(self, core: Core) -> None:
        """Raises what went wrong at the end, unless the client chose to fail open."""
        error, self._error = self._error, None
        if error is not None and not core.forgives(error):
            raise error

    def _hidden(self, error: Exception) -> None:
        """The exception of the block goes first."""
        logger.warning("lease not settled: %s", error)

    def forked(self) -> None:
        """For the child of a fork: the holds are the parent's."""
        self._was_forked = True
        self._state.abandon()


_LEASES: weakref.WeakSet[LeaseBase] = weakref.WeakSet()


def _disown_leases() -> None:
    for lease in list(_LEASES):
        lease.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_leases)
