"""A URL of the hot store that cannot be read is refused in words, which never hold its password."""

from __future__ import annotations

import pytest

from holdfast_server.engine.stores import open_store
from holdfast_server.settings import SettingsError


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/x@host:6379/0",
        "redis://host:hunter2",
        "redis://:hunter2@host?hunter2=1",
        "redis://:hunter2@host?socket_timeout=hunter2",
        "redis+sentinel://:hunter2@host",
        "redis+cluster://:hunter2@host:port",
        "redis+cluster://",
    ],
)
def test_a_url_that_cannot_be_read_is_named_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="HOLDFAST_REDIS_URL") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
