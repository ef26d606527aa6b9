"""A key has one effect for ever, also where the partitions remember different lengths of time."""

from __future__ import annotations

from holdfast_server.domain import reply as rp
from holdfast_server.engine.request import NeedsLedger
from tests.support.forgotten import ask_unchecked, burn, time_ordered_key, use_and_forget
from tests.support.pair import Real


async def test_a_forgotten_key_is_not_new_where_nothing_happened(real: Real) -> None:
    """A partition that rests remembers its own keys for long, and not those of others."""
    _, resting, key = await use_and_forget(real)
    assert isinstance(await ask_unchecked(real, burn(resting, key)), NeedsLedger)


async def test_nor_where_it_was_used(real: Real) -> None:
    used, _, key = await use_and_forget(real)
    assert isinstance(await ask_unchecked(real, burn(used, key)), NeedsLedger)


async def test_a_new_key_proves_itself_everywhere(real: Real) -> None:
    """Else every call in a partition that rested would wait for the ledger."""
    for account in (await use_and_forget(real))[:2]:
        key = time_ordered_key(real.clock.now_ms)
        assert isinstance(await ask_unchecked(real, burn(account, key)), rp.BurnReply)
