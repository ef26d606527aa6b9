"""The settings themselves, with their defaults, units, bounds and meanings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from holdfast_server.settings.rules import (
    Rule,
    choice,
    choices,
    emergency,
    integer,
    least_durability,
    path,
    ratio,
    switch,
    text,
    url,
)

_PORTS = (0, 65_535)
_JWT_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "EdDSA"),
)


@dataclass(frozen=True, repr=False)
class Settings:
    """All settings of one process. Build it with `read`; the defaults suit a laptop."""

    # The two stores.
    redis_url: str = url(
        (
            "redis",
            "rediss",
            "unix",
            "redis+sentinel",
            "rediss+sentinel",
            "redis+cluster",
            "rediss+cluster",
        ),
        "The hot store, Redis or Valkey. Empty: `up` and `demo` bring their own.",
    )
    postgres_url: str = url(
        ("postgres", "postgresql"), "The ledger's database. Empty: `up` and `demo` bring their own."
    )
    postgres_connections_max: int = integer(
        4, (2, 100), "connections", "Most connections of one process to the ledger's database."
    )
    partitions: int = integer(
        256, (1, 4_096), "partitions", "Partitions of a new deployment, fixed once it has started."
    )

    # Where it listens, and how many processes do.
    host: str = text("127.0.0.1", "Address of the gRPC server.", "an address")
    port: int = integer(7400, _PORTS, "port", "Port of the gRPC server. 0 takes a free one.")
    workers: int = integer(0, (0, 256), "processes", "Worker processes. 0: one per core.")
    metrics_host: str = text("127.0.0.1", "Address of the metrics page.", "an address")
    metrics_port: int = integer(7401, _PORTS, "port", "Port of the metrics page. 0: none.")

    # Telemetry.
    otlp_endpoint: str = url(
        ("http", "https"), "Where traces and metrics go by OTLP over gRPC. Empty: nowhere."
    )
    trace_sample_ratio: float = ratio(0.01, "The share of requests that are traced.")
    log_level: str = choice(
        "info", ("debug", "info", "warning", "error"), "The least severity that is logged."
    )
    log_format: str = choice("text", ("json", "text"), "How log lines are written.")

    # Files.
    state_dir: Path = field(
        default=Path(),
        metadata=path(
            "Spool, kill file, admin sockets, policy cache and the embedded stores; a local disk. "
            "Default: holdfast in XDG_STATE_HOME or ~/.local/state."
        ),
    )
    kill_file: Path = field(
        default=Path(),
        metadata=path("While this file exists, enforcement is off. Default: KILL in state_dir."),
    )
    kill: bool = emergency("Turns enforcement off.")
    spool_bytes_max: int = integer(
        268_435_456, (65_536, 2**40), "bytes", "Most bytes of bypassed work kept for booking."
    )
    spool_records_max: int = integer(
        1_000_000, (1, 2**31), "records", "Most records of bypassed work kept for booking."
    )

    # Who may call.
    tls_certificate: Path | None = field(
        default=None, metadata=path("The server's certificate chain, PEM. Read again on change.")
    )
    tls_key: Path | None = field(default=None, metadata=path("The certificate's key, PEM."))
    tls_client_ca: Path | None = field(
        default=None, metadata=path("Authorities for client certificates, PEM. Requires them.")
    )
    tokens_file: Path | None = field(
        default=None, metadata=path("Static bearer tokens, hashed, as JSON.")
    )
    token_keys_file: Path | None = field(
        default=None, metadata=path("Keys that sign hold tokens. Unset: kept in the ledger.")
    )
    jwt_issuer: str = text("", "The issuer of accepted JWTs. Empty: none are accepted.")
    jwt_audience: str = text("", "The audience that a JWT must name.")
    jwt_jwks: str = text("", "The issuer's keys, a JWK set.", "a path or an https URL")
    jwt_algorithms: tuple[str, ...] = choices(
        ("RS256", "ES256"), _JWT_ALGORITHMS, "Signature algorithms that a JWT may use."
    )
    development: bool = switch(False, "Plaintext and no credentials; only on a loopback address.")
    reflection: bool | None = switch(None, "Serves gRPC reflection. Default: as `development`.")

    # Limits of the server.
    deadline_ms_max: int = integer(
        5_000, (100, 60_000), "ms", "Longest time for one call, or for one message of a stream."
    )
    message_bytes_max: int = integer(
        1_048_576, (4_096, 16_777_216), "bytes", "Largest message that is read."
    )
    concurrent_rpcs_max: int = integer(
        1_000, (1, 100_000), "calls", "Most calls at once in one worker."
    )
    tenant_operations_per_second: int = integer(
        0,
        (0, 1_000_000),
        "operations/s",
        "Most operations of one tenant in one worker, in a second. 0: no limit.",
    )
    drain_grace_ms: int = integer(
        10_000, (0, 600_000), "ms", "How long running calls may take once a stop was asked for."
    )

    # The engine.
    batch_operations_max: int = integer(
        500, (1, 1_000), "operations", "Most operations in one script call."
    )
    queue_operations_max: int = integer(
        10_000, (1, 1_000_000), "operations", "Most operations that wait in one worker."
    )
    sweep_interval_ms: int = integer(
        1_000, (50, 5_000), "ms", "Pause between two looks for holds and grants that are due."
    )
    hydrate_accounts_per_second: int = integer(
        2_000,
        (10, 1_000_000),
        "accounts/s",
        "Most accounts that one process reads from the ledger into the hot store, in a second.",
    )
    evict_idle_ms: int = integer(
        3_600_000,
        (0, 31_622_400_000),
        "ms",
        "Trees that nobody used for so long may leave the hot store. 0: none ever does.",
    )
    evict_memory_percent: int = integer(
        50, (0, 100), "percent", "They leave while it uses more than this of its maxmemory."
    )

    audit_trees_per_second: int = integer(
        2,
        (0, 1_000),
        "trees/s",
        "Trees that the sweeper compares with the ledger, in a second. 0: none.",
    )
    # What must have happened before an answer, whatever is asked.
    durability_replicas: int = integer(
        1, (1, 16), "replicas", "Replicas that must have received what is answered as REPLICATED."
    )
    reserve_durability_min: str = least_durability("Reserve")
    commit_durability_min: str = least_durability("Commit")
    release_durability_min: str = least_durability("Release")
    burn_durability_min: str = least_durability("Burn")
    refund_durability_min: str = least_durability("Refund")
    grant_durability_min: str = least_durability("Grant")
    revoke_durability_min: str = least_durability("Revoke")

    # The flusher.
    flush_batch_entries_max: int = integer(
        2_000, (1, 50_000), "entries", "Most entries of one ledger transaction and partition."
    )
    outbox_retention_ms: int = integer(
        300_000,
        (0, 86_400_000),
        "ms",
        "How long the hot store keeps entries that the ledger has: what its fail-over may lose.",
    )
    outbox_retention_entries: int = integer(
        100_000,
        (0, 100_000_000),
        "entries",
        "How many of them at most: 410 bytes each, and 10 to 20 us of every recovery.",
    )
    outbox_entries_soft: int = integer(
        500_000, (1_000, 100_000_000), "entries", "Entries waiting for the ledger that alert."
    )
    outbox_entries_hard: int = integer(
        1_000_000,
        (1_000, 100_000_000),
        "entries",
        "Entries waiting, in all, that stop new holds.",
    )

    # Checkpoints of the ledger, made by the flusher.
    checkpoint_place: str = url(
        ("file", "https", "http", "webhook+https", "webhook+http"),
        "Where signed checkpoints go, outside of the database. Empty: nowhere.",
    )
    checkpoint_key_file: Path | None = field(
        default=None,
        metadata=path("The Ed25519 key that signs them, PEM; see `holdfast checkpoint key`."),
    )
    checkpoint_interval_ms: int = integer(
        60_000, (1_000, 3_600_000), "ms", "Pause between two checkpoints."
    )
    checkpoint_network: str = choice(
        "public",
        ("public", "private", "loopback"),
        "Which addresses `checkpoint_place` may have. Loopback also allows http, for tests.",
    )

    # Control.
    config_poll_ms: int = integer(
        500, (50, 1_000), "ms", "Pause between two looks for changed policies and credit types."
    )
    environment: str = choice(
        "production", ("production", "test"), "Test allows failpoints.", variable="HOLDFAST_ENV"
    )

    #: The name of each setting that was given, with "environment" or "flag".
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def worker_count(self) -> int:
        """Worker processes to run."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def reflection_enabled(self) -> bool:
        """Whether gRPC reflection is served."""
        return self.development if self.reflection is None else self.reflection

    def __repr__(self) -> str:
        """Only the names of what was given: safe in a log. `describe` shows the values."""
        return f"Settings(given: {', '.join(sorted(self.origins)) or 'nothing'})"


#: The rule of every setting, by name, in the order in which they are printed.
RULES: Mapping[str, Rule] = {
    item.name: item.metadata["rule"] for item in fields(Settings) if "rule" in item.metadata
}
