"""Which deployment the hot store belongs to, written into it at the first start."""

from __future__ import annotations

from holdfast_server.engine.keys import DEPLOYMENT_KEY
from holdfast_server.engine.store import Store


async def claim_store(store: Store, name: str, *, may_be_new: bool) -> str | None:
    """The name of the deployment that the store belongs to, `name` if it was nobody's.

    None when it is nobody's and `may_be_new` is false: then it was emptied, or is another one.
    Raises STORE_UNAVAILABLE.
    """
    condition = "NX" if may_be_new else "XX"
    held = await store.read("GET", DEPLOYMENT_KEY)
    if held is None:
        await store.read("SET", DEPLOYMENT_KEY, name, condition)
        held = await store.read("GET", DEPLOYMENT_KEY)
    return held.decode() if held else None
