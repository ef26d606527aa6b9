"""Clusters, started once for all of these tests."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import cluster as support

#: How the driver's cluster client is found to have left something open.
LEFT_OPEN = (
    "unclosed Connection <redis",
    "unclosed transport",
    "unclosed <socket",
    "loop is closed",
)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """The driver ends connections to nodes that have left in the background, and its close waits
    for none of them."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            for text in LEFT_OPEN:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{text}:ResourceWarning"))


@pytest.fixture(autouse=True, scope="module")
def tidied() -> Iterator[None]:
    """What is left open here is not found in another test, whenever memory is tidied next."""
    yield
    with warnings.catch_warnings():
        for text in LEFT_OPEN:
            warnings.filterwarnings("ignore", text, ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def nodes(stores_dir: Path) -> Iterator[support.Cluster]:
    """Three masters."""
    with support.started(stores_dir / "cluster") as running:
        yield running


@pytest.fixture
def cluster(nodes: support.Cluster) -> support.Cluster:
    """The same, with nothing in it."""
    nodes.empty()
    return nodes
