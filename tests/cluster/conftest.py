"""Clusters, started once for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cluster as support


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
