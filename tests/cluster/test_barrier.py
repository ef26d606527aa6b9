"""A barrier for each master of a cluster."""

from __future__ import annotations

import asyncio

from holdfast_server.domain import operation as op
from holdfast_server.domain.operation import Durability
from holdfast_server.engine.barrier import Barrier, mark_of
from holdfast_server.engine.levels import Levels, StoreLevels
from tests.support.cluster import Cluster
from tests.support.pair import build

PATIENT_S = 20.0


async def test_in_a_cluster_every_master_has_its_own(cluster: Cluster) -> None:
    for client in cluster.clients:
        client.config_set("appendfsync", "always")
    real = build(cluster.url, partitions=12)
    waiting = Barrier(real.store, real.keys, mark_of(Durability.FSYNCED, 1))
    names = [f"a{number}" for number in range(24)]
    answers = await real.decide(
        [op.CreateAccount("t", name, op.AccountTerms(), name) for name in names]
    )
    places = [
        (answer.applied.partition, answer.applied.epoch, answer.applied.seq) for answer in answers
    ]
    assert all(await asyncio.gather(*(waiting.wait(*place, PATIENT_S) for place in places)))
    levels = StoreLevels(real.store)
    await levels.look()
    assert levels.now == Levels(append_only=True)
    await waiting.close()
    await real.store.close()
