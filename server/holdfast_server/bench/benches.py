"""The benchmarks by name: each measures something beside a floor, and says what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from holdfast_server.bench.calls import batch, session, unary
from holdfast_server.bench.flush import flush
from holdfast_server.bench.hydrate import hydrate
from holdfast_server.bench.lease import lease
from holdfast_server.bench.memory import memory
from holdfast_server.bench.population import CHUNK
from holdfast_server.bench.stage import Bench, Options
from holdfast_server.bench.store import engine, growth, shapes

BENCHES: Final[Mapping[str, Bench]] = {
    "session": session,
    "unary": unary,
    "batch": batch,
    "lease": lease,
    "engine": engine,
    "flush": flush,
    "memory": memory,
    "growth": growth,
    "hydrate": hydrate,
}


def steps(name: str, options: Options) -> int:
    """How often a benchmark calls `Stage.on_round` until it is done."""
    alternating = 2 * options.rounds + 2
    # Accounts are made, held on and settled.
    loading = 3 * -(-options.accounts // CHUNK)
    if name == "memory":
        return loading
    if name == "hydrate":
        return loading + 2 * options.rounds
    if name == "engine":
        return 2 * alternating
    if name == "flush":
        return 2 * options.rounds + 3
    return alternating * shapes(options.accounts) if name == "growth" else alternating


#: These look at the store or the flusher alone: another flusher would disturb them.
WITHOUT_FLUSHER: Final = frozenset({"engine", "flush", "memory", "growth"})
