"""Opens the hot store that a URL names."""

from __future__ import annotations

from holdfast_server.engine.address import parse
from holdfast_server.engine.cluster import ClusterStore
from holdfast_server.engine.store import Store
from holdfast_server.settings import SettingsError


def open_store(url: str) -> Store:
    """Connects when it is first asked for something. Raises `SettingsError`; see `address`."""
    address = parse(url)
    try:
        return ClusterStore(address) if address.nodes and not address.master else Store(address)
    except (ValueError, TypeError):
        # The driver's own words repeat what it could not read, which may be the password.
        raise SettingsError(
            "HOLDFAST_REDIS_URL is no URL of a hot store: write what is special in user and "
            "password as %XX, and name only parameters that redis-py has"
        ) from None
