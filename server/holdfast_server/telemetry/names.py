"""The name, unit and meaning of every metric and span, and every value that a label may have.

Units are those of UCUM, as OpenTelemetry writes them: `s`, `By`, and things counted in braces.
On the metrics page dots become underscores, counters end in `_total` and units are spelled out:
`holdfast.rpc.duration` is `holdfast_rpc_duration_seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum


class Kind(Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` are the names of its labels; `bounds` the bounds of a histogram."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


class Cause(StrEnum):
    """Why something was let through without a decision."""

    #: The kill switch is on.
    KILL = "kill"
    #: The store is away and the policy lets pass.
    STORE_UNAVAILABLE = "store_unavailable"
    #: The store is away and the request is only watched.
    SHADOW = "shadow"
    #: The settlement of something that had been let through.
    SETTLEMENT = "settlement"


class Replayed(StrEnum):
    """What became of a record of the spool."""

    #: It is in the ledger, or nothing was left to book.
    BOOKED = "booked"
    #: It can never be booked: it is kept aside for a person to look at.
    DEAD = "dead"
    #: There was no room or no disk for it.
    LOST = "lost"


class Hydrated(StrEnum):
    """Why a tree was brought from the ledger."""

    #: Somebody waits for it.
    USED = "used"
    #: It was lately in use when its partition was rebuilt.
    WARM_UP = "warm_up"


class Snapshotted(StrEnum):
    """What became of a snapshot of a tree."""

    #: It is kept, in the place of an older one.
    SAVED = "saved"
    #: Too much waited to be kept, or it was too large.
    SKIPPED = "skipped"
    #: It could not be kept.
    FAILED = "failed"
    #: It could not be used, so that its tree was read from the first entry on.
    REFUSED = "refused"
    #: All its entries were folded once more, and say what it says.
    AGREES = "agrees"
    #: They do not. It is removed.
    WRONG = "wrong"
    #: They did when it was taken, by the rules of time zones that held then. It is removed.
    OUTDATED = "outdated"


class Audited(StrEnum):
    """What came of comparing a tree in the hot store with the ledger."""

    #: Every figure is the same.
    AGREES = "agrees"
    #: Some are not, or contradict each other.
    DRIFTS = "drifts"
    #: The ledger did not reach the place of the tree in time.
    BEHIND = "behind"
    #: The tree is too large to be read in one step.
    TOO_LARGE = "too_large"
    #: The tree is in the ledger alone, until somebody uses it.
    COLD = "cold"


class Delivery(StrEnum):
    """What became of a checkpoint for now."""

    #: It is kept outside of the database.
    DELIVERED = "delivered"
    #: It could not be made or delivered; the same is tried again.
    FAILED = "failed"


class Alert(StrEnum):
    """What a person must look at. Each is counted and logged."""

    LOSS_REPORT = "loss_report"
    FENCED = "fenced"
    QUARANTINE = "quarantine"
    DRIFT = "drift"
    CHAIN_BROKEN = "chain_broken"
    CHECKPOINT_FAILED = "checkpoint_failed"
    FLUSH_LAG = "flush_lag"
    CONFIG_STALE = "config_stale"
    CONFIG_REFUSED = "config_refused"
    FAIL_OPEN = "fail_open"
    KILL_SWITCH = "kill_switch"
    REPLICAS_BEHIND = "replicas_behind"
    STORE_MAY_EVICT = "store_may_evict"
    CLOCK_SUSPECT = "clock_suspect"
    SPOOL_FULL = "spool_full"
    SPOOL_DEAD = "spool_dead"
    SPOOL_DAMAGED = "spool_damaged"


_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
#: A recovery waits for what it needs, which may be a person.
_RECOVERY_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_OPERATIONS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

DECISIONS = Metric(
    "holdfast.decisions",
    Kind.COUNTER,
    "{decision}",
    "Decisions by method, outcome, reason and mode.",
    ("method", "outcome", "reason", "mode"),
)
REFUSALS = Metric(
    "holdfast.refusals",
    Kind.COUNTER,
    "{operation}",
    "Operations that were answered with an error, by method and reason.",
    ("method", "reason"),
)
WARNINGS = Metric(
    "holdfast.warnings",
    Kind.COUNTER,
    "{warning}",
    "Warnings in answers, by kind: a threshold was crossed, or a soft limit is exceeded.",
    ("kind",),
)
BYPASSED = Metric(
    "holdfast.bypassed",
    Kind.COUNTER,
    "{operation}",
    "Operations that passed without a decision, by method and cause.",
    ("method", "cause"),
)
RPC_DURATION = Metric(
    "holdfast.rpc.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the first byte of a call to its answer, by method and gRPC status.",
    ("method", "status"),
    _SECONDS,
)
SESSIONS = Metric("holdfast.sessions", Kind.GAUGE, "{stream}", "Session streams that are open.")
BATCH_OPERATIONS = Metric(
    "holdfast.batch.operations",
    Kind.HISTOGRAM,
    "{operation}",
    "Operations in one script call.",
    bounds=_OPERATIONS,
)
BATCH_DURATION = Metric(
    "holdfast.batch.duration",
    Kind.HISTOGRAM,
    "s",
    "Time of one script call, as the engine sees it.",
    bounds=_SECONDS,
)
QUEUE_OPERATIONS = Metric(
    "holdfast.queue.operations", Kind.GAUGE, "{operation}", "Operations that wait for a batch."
)
FLUSH_ROWS = Metric("holdfast.flush.rows", Kind.COUNTER, "{row}", "Rows written to the ledger.")
FLUSH_LAG = Metric(
    "holdfast.flush.lag", Kind.GAUGE, "s", "Age of the oldest entry of the last flush."
)
OUTBOX_ENTRIES = Metric(
    "holdfast.outbox.entries", Kind.GAUGE, "{entry}", "Entries that wait for the ledger."
)
OUTBOX_LAG = Metric(
    "holdfast.outbox.lag", Kind.GAUGE, "s", "Age of the oldest entry that waits for the ledger."
)
DURABILITY_WAITS = Metric(
    "holdfast.durability.waits",
    Kind.COUNTER,
    "{wait}",
    "Waits for a durability beyond memory, by level and whether it was reached in time.",
    ("level", "reached"),
)
REPLICAS = Metric(
    "holdfast.replicas", Kind.GAUGE, "{replica}", "Replicas that keep up with the hot store."
)
HOLDS_OPEN = Metric("holdfast.holds.open", Kind.GAUGE, "{hold}", "Holds that are open.")
SWEEP_FAILED = Metric(
    "holdfast.sweep.failed",
    Kind.COUNTER,
    "{tree}",
    "Trees in which something is due that could not be ended, by reason. They are tried again.",
    ("reason",),
)
KILL_SWITCH = Metric("holdfast.kill", Kind.GAUGE, "", "1 while the kill switch is on.")
POLICIES = Metric(
    "holdfast.policies", Kind.GAUGE, "{policy}", "Policies that count, by mode.", ("mode",)
)
CONFIG_VERSION = Metric(
    "holdfast.config.version", Kind.GAUGE, "", "The newest policy change that is applied."
)
CONFIG_AGE = Metric(
    "holdfast.config.age", Kind.GAUGE, "s", "Time since the policies were last confirmed."
)
SPOOL_RECORDS = Metric(
    "holdfast.spool.records", Kind.GAUGE, "{record}", "Bypassed work that waits to be booked."
)
SPOOL_BYTES = Metric("holdfast.spool.bytes", Kind.GAUGE, "By", "Size of the spool on disk.")
REPLAYED = Metric(
    "holdfast.spool.replayed",
    Kind.COUNTER,
    "{record}",
    "Records that left the spool, by what became of them.",
    ("result",),
)
HYDRATED = Metric(
    "holdfast.hydrated",
    Kind.COUNTER,
    "{tree}",
    "Trees that were brought from the ledger into the hot store, and why.",
    ("why",),
)
SNAPSHOTS = Metric(
    "holdfast.snapshots",
    Kind.COUNTER,
    "{snapshot}",
    "Snapshots of trees in the ledger, by what became of them.",
    ("result",),
)
EVICTED = Metric(
    "holdfast.evicted",
    Kind.COUNTER,
    "{tree}",
    "Trees that nobody used and that were removed from the hot store.",
)
AUDITED = Metric(
    "holdfast.audit.trees",
    Kind.COUNTER,
    "{tree}",
    "Trees that were compared with the ledger, by what came of it.",
    ("result",),
)
AUDIT_DRIFT = Metric(
    "holdfast.audit.drift",
    Kind.GAUGE,
    "{figure}",
    "Figures that are not the same in the hot store and in the ledger. To be 0.",
)
CHECKPOINTS = Metric(
    "holdfast.checkpoints",
    Kind.COUNTER,
    "{checkpoint}",
    "Checkpoints of the ledger, by what became of them.",
    ("result",),
)
CHECKPOINT_AGE = Metric(
    "holdfast.checkpoint.age",
    Kind.GAUGE,
    "s",
    "Time since all that the ledger had was vouched for outside of it.",
)
FENCED_PARTITIONS = Metric(
    "holdfast.fenced.partitions",
    Kind.GAUGE,
    "{partition}",
    "Partitions that decide nothing until they are recovered.",
)
RECOVERIES = Metric(
    "holdfast.recoveries",
    Kind.COUNTER,
    "{partition}",
    "Partitions that were recovered, by what became of them.",
    ("verdict",),
)
RECOVERY_DURATION = Metric(
    "holdfast.recovery.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from the look that found a partition fenced until it decided again.",
    bounds=_RECOVERY_SECONDS,
)
ALERTS = Metric("holdfast.alerts", Kind.COUNTER, "{alert}", "Alerts, by what happened.", ("alert",))

#: Every metric there is.
METRICS = (
    *(DECISIONS, REFUSALS, WARNINGS, BYPASSED, RPC_DURATION, BATCH_OPERATIONS, BATCH_DURATION),
    *(SESSIONS, QUEUE_OPERATIONS, FLUSH_ROWS, FLUSH_LAG, OUTBOX_ENTRIES, OUTBOX_LAG, HOLDS_OPEN),
    *(KILL_SWITCH, POLICIES, CONFIG_VERSION, CONFIG_AGE, SPOOL_RECORDS, SPOOL_BYTES),
    *(SWEEP_FAILED, HYDRATED, SNAPSHOTS, EVICTED),
    *(REPLAYED, AUDITED, AUDIT_DRIFT, ALERTS, DURABILITY_WAITS, REPLICAS),
    *(CHECKPOINTS, CHECKPOINT_AGE),
    *(FENCED_PARTITIONS, RECOVERIES, RECOVERY_DURATION),
)


class SpanName(StrEnum):
    """Every span. A request has an RPC; BATCH and FLUSH serve many and are linked to them."""

    #: One gRPC call; the method is its attribute.
    RPC = "holdfast.rpc"
    #: One script call.
    BATCH = "holdfast.batch"
    #: One ledger transaction.
    FLUSH = "holdfast.flush"


class Attribute(StrEnum):
    """Every attribute that a span may have. Values are numbers and names from closed lists."""

    METHOD = "rpc.method"
    #: Of an error; a call that was answered has none.
    STATUS = "rpc.grpc.status_code"
    #: What was decided, where a call is about one operation; the reason is also that of an error.
    OUTCOME = "holdfast.outcome"
    REASON = "holdfast.reason"
    MODE = "holdfast.mode"
    #: Of a script call.
    OPERATIONS = "holdfast.operations"
    #: Of a ledger transaction.
    ROWS = "holdfast.rows"
