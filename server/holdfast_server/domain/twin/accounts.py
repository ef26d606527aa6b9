"""CreateAccount and UpdateAccount: who exists, below whom, with which limits."""

from __future__ import annotations

from holdfast_server.domain.bounds import LIMITS_MAX, TREE_LEVELS_MAX
from holdfast_server.domain.operation import AccountTerms
from holdfast_server.domain.twin.limits import merge, settle_counters
from holdfast_server.domain.twin.state import AccountState, Counter, Tree
from holdfast_server.errors import HoldfastError, Reason

#: Where an account's zone is ahead of UTC by how much, from when on; see `AccountState.offsets`.
Offsets = tuple[tuple[int, int], ...]


def create_account(
    tree: Tree, account: str, terms: AccountTerms, offsets: Offsets, now_ms: int
) -> AccountState:
    """Adds an account to its tree."""
    if account in tree.accounts:
        raise HoldfastError(
            Reason.ACCOUNT_ALREADY_EXISTS,
            "an account of this name exists; read it or choose another",
            account=account,
        )
    counters = counters_of(terms, 1)
    state = AccountState(account, terms.parent, terms, now_ms, offsets, counters=counters)
    if terms.parent:
        _check_place(tree, state, terms.parent)
    tree.accounts[account] = state
    raise_heights(tree, state)
    return state


def update_account(
    tree: Tree,
    state: AccountState,
    terms: AccountTerms,
    offsets: Offsets,
    expected_version: int,
    now_ms: int,
) -> None:
    """Replaces an account's terms; counts of limits that stay the same are kept."""
    if state.version != expected_version:
        raise HoldfastError(
            Reason.VERSION_CONFLICT,
            "the account was changed meanwhile; read it again",
            version=state.version,
        )
    if terms.parent != state.parent:
        _check_move(tree, state, terms.parent)
    replace_terms(state, terms, offsets, now_ms)
    state.version += 1
    raise_heights(tree, state)


def replace_terms(state: AccountState, terms: AccountTerms, offsets: Offsets, now_ms: int) -> None:
    """What left a window until now left it by the terms that held until now."""
    settle_counters([state], now_ms)
    state.parent, state.terms, state.offsets = terms.parent, terms, offsets
    state.counters = merge(state.counters, counters_of(terms, state.version + 1))


def _check_move(tree: Tree, state: AccountState, parent: str) -> None:
    if state.account == tree.root or not parent:
        raise _invalid(state.account, "an account cannot leave its tree or become a root")
    if any(above.account == state.account for above in tree.path(parent)):
        raise _invalid(state.account, "an account cannot be moved below itself")
    _check_place(tree, state, parent)


def _check_place(tree: Tree, state: AccountState, parent: str) -> None:
    path = tree.path(parent)
    if not path:
        raise _invalid(state.account, "the parent does not exist in this tree")
    if len(path) + 1 + state.height > TREE_LEVELS_MAX:
        raise _invalid(state.account, f"a tree has at most {TREE_LEVELS_MAX} levels")


def _invalid(account: str, message: str) -> HoldfastError:
    return HoldfastError(Reason.ACCOUNT_TREE_INVALID, message, account=account)


def raise_heights(tree: Tree, state: AccountState) -> None:
    """Tells every account above how many levels it has below it."""
    height = state.height
    for above in tree.path(state.parent):
        height += 1
        above.height = max(above.height, height)


def counters_of(terms: AccountTerms, version: int) -> list[Counter]:
    """The limits of a version of an account, with nothing counted.

    Versions rise and none has more limits than that: no number comes twice.
    """
    first = version * LIMITS_MAX
    return [Counter(limit, number) for number, limit in enumerate(terms.limits, first)]
