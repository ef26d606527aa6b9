"""Accounts: who exists, below whom, with which terms."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_server.domain.entry import Entry
from holdfast_server.domain.operation import AccountTerms
from holdfast_server.domain.rebuild.state import Rebuilt, check_version, detail_of
from holdfast_server.domain.terms import account_terms
from holdfast_server.domain.twin.accounts import counters_of, raise_heights, replace_terms
from holdfast_server.domain.twin.state import AccountState


def account(rebuilt: Rebuilt, transaction: Sequence[Entry]) -> None:
    """CreateAccount and UpdateAccount. Counts of limits that stay the same are kept."""
    (entry,) = transaction
    terms = account_terms(detail_of(transaction))
    state = rebuilt.tree.accounts.get(entry.account)
    check_version(entry, state.version if state else 0)
    if state is None:
        state = _create(rebuilt, entry, terms)
    else:
        offsets = rebuilt.offsets_at(terms.zone, entry.event_ms)
        replace_terms(state, terms, offsets, entry.event_ms)
    state.version = entry.version
    raise_heights(rebuilt.tree, state)


def _create(rebuilt: Rebuilt, entry: Entry, terms: AccountTerms) -> AccountState:
    offsets = rebuilt.offsets_at(terms.zone, entry.event_ms)
    counters = counters_of(terms, entry.version)
    state = AccountState(
        entry.account, terms.parent, terms, entry.event_ms, offsets, counters=counters
    )
    rebuilt.tree.accounts[entry.account] = state
    return state
