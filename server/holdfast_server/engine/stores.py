"""Opens the hot store that a URL names."""

from __future__ import annotations

from holdfast_server.engine.address import parse
from holdfast_server.engine.cluster import ClusterStore
from holdfast_server.engine.store import Store


def open_store(url: str) -> Store:
    """Connects when it is first asked for something. Raises ValueError; see `address`."""
    address = parse(url)
    return ClusterStore(address) if address.nodes and not address.master else Store(address)
