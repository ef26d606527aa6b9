"""Where an account may be moved to: never below itself, and no tree becomes too deep.

Each on the engine and the twin.
"""

from __future__ import annotations

import pytest

from holdfast_server.domain import operation as op
from holdfast_server.domain.bounds import TREE_LEVELS_MAX
from holdfast_server.errors import HoldfastError, Reason
from tests.support.pair import Pair, Real

DEEP = f"at most {TREE_LEVELS_MAX} levels"
BELOW_ITSELF = "below itself"


@pytest.fixture
async def pair(real: Real) -> Pair:
    """Both, with a root, three accounts below each other, and one that stands alone."""
    pair = Pair(real)
    for name, parent in (("root", ""), ("a", "root"), ("b", "a"), ("c", "b"), ("alone", "root")):
        assert await create(pair, name, parent) == ""
    return pair


async def refusal(pair: Pair, operation: op.Operation) -> str:
    """What is said where it is refused, "" where it is not."""
    (answer,) = await pair.submit([operation])
    if not isinstance(answer, HoldfastError):
        return ""
    assert answer.reason is Reason.ACCOUNT_TREE_INVALID
    return answer.message


async def create(pair: Pair, name: str, parent: str) -> str:
    terms = op.AccountTerms(parent=parent)
    return await refusal(pair, op.CreateAccount("t", name, terms, f"create {name}"))


async def move(pair: Pair, name: str, parent: str) -> str:
    terms = op.AccountTerms(parent=parent)
    key = f"move {name} below {parent}"
    return await refusal(pair, op.UpdateAccount("t", name, terms, frozenset({"parent"}), key))


async def test_no_account_is_created_too_deep(pair: Pair) -> None:
    assert await create(pair, "d", "c") == ""
    assert DEEP in await create(pair, "e", "d")


async def test_an_account_is_not_moved_below_itself(pair: Pair) -> None:
    assert BELOW_ITSELF in await move(pair, "a", "a")
    assert BELOW_ITSELF in await move(pair, "a", "c")
    assert await move(pair, "b", "alone") == ""


async def test_what_is_below_an_account_goes_with_it(pair: Pair) -> None:
    """And counts, wherever it came from."""
    assert await create(pair, "beside", "alone") == ""
    assert DEEP in await move(pair, "a", "beside")
    assert await move(pair, "a", "alone") == ""
    assert await create(pair, "other", "root") == ""
    assert DEEP in await move(pair, "alone", "other")
