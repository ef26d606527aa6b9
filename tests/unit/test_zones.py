"""Time zones in a process that can open no file."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from holdfast_server.api.form import Form
from holdfast_server.domain.zones import offsets_of
from holdfast_server.errors import HoldfastError, Reason
from tests.support.descriptors import no_descriptors

#: A zone that no other test names: nobody has opened its file before.
ZONE = "Pacific/Chatham"
HOUR_MS = 3_600_000


def test_a_zone_is_known_without_a_descriptor() -> None:
    form = Form()
    with no_descriptors():
        assert form.zone(ZONE, "zone") == ZONE
        form.settle()
        form.zone("Pacific/Nowhere", "zone")
    with pytest.raises(HoldfastError, match="zone must be the name"):
        form.settle()


def test_offsets_are_to_be_asked_for_again_when_there_is_a_descriptor() -> None:
    """F61: that none is left says nothing about the zone."""
    ZoneInfo.clear_cache()
    with no_descriptors(), pytest.raises(HoldfastError) as refused:
        offsets_of(ZONE)
    assert refused.value.reason is Reason.OVERLOADED
    assert int(refused.value.metadata["retry_after_ms"]) > 0
    (_, offset_ms), *_ = offsets_of(ZONE)
    assert offset_ms in {12.75 * HOUR_MS, 13.75 * HOUR_MS}
