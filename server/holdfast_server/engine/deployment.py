"""Which deployment the hot store belongs to, written into it at the first start."""

from __future__ import annotations

from holdfast_server.engine.keys import DEPLOYMENT_KEY
from holdfast_server.engine.store import Store


async def claim_store(store: Store, name: str, *, may_be_new: bool = True) -> str | None:
    """The name of the deployment that the store belongs to, `name` if it was nobody's.

    None when it is nobody's and `may_be_new` is false. Raises STORE_UNAVAILABLE.
    """
    if may_be_new:
        await store.read("SET", DEPLOYMENT_KEY, name, "NX")
    held = await store.read("GET", DEPLOYMENT_KEY)
    return held.decode() if held else None
