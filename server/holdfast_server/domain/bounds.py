"""Every limit of the domain, with its unit and the reason for its value."""

from __future__ import annotations

#: Largest amount and largest bucket: the integers that a double holds exactly, since Lua and JSON
#: use doubles.
AMOUNT_MAX = 2**53 - 1

#: Bytes of an account, feature or other id: long enough for a prefixed UUID, short enough for a
#: key.
ID_BYTES_MAX = 128
#: Bytes of a credit type's code: it is repeated in every hold and entry.
CREDIT_TYPE_BYTES_MAX = 32
#: Decimal digits of a credit type, between the unit that people read and the smallest one.
SCALE_MAX = 9
#: Bytes of an idempotency key.
IDEMPOTENCY_KEY_BYTES_MAX = 128
#: Bytes of a display name.
DISPLAY_NAME_BYTES_MAX = 128
#: Bytes of a free-text reason.
REASON_BYTES_MAX = 256

#: Labels of one request or account.
LABELS_MAX = 16
#: Bytes of a label's key and of its value.
LABEL_KEY_BYTES_MAX = 64
LABEL_VALUE_BYTES_MAX = 256

#: Credit types in one hold: a decision over more would be long for a script that blocks the store.
LINES_MAX = 8
#: Operations in one batch.
BATCH_ITEMS_MAX = 1_000
#: Levels of an account tree, root included.
TREE_LEVELS_MAX = 5

#: Grants with something left in one account and credit type. More must wait or be merged by the
#: caller.
GRANTS_MAX = 256
#: Limits on one account.
LIMITS_MAX = 16
#: Credit types of one tenant.
CREDIT_TYPES_MAX = 64
#: Warn thresholds of one limit.
WARN_PERCENTS_MAX = 4
#: Warn thresholds where none are given, in percent.
WARN_PERCENTS_DEFAULT = (80, 95)

#: Time to live of a hold.
TTL_MS_MIN = 1_000
TTL_MS_MAX = 86_400_000
#: A hold cannot be extended beyond this age: seven days cover the longest agent runs we know.
HOLD_AGE_MS_MAX = 7 * 86_400_000
#: A Commit this long after its hold expired is still booked.
LATE_COMMIT_WINDOW_MS = 86_400_000

#: What a partition had before it was rebuilt is kept in the hot store for so long, as evidence: a
#: week is time to look at it, or to copy it, and a store is not to be twice as full for longer.
FORMER_HOME_MS = 7 * 86_400_000

#: How long idempotency keys are remembered where no policy says otherwise.
IDEMPOTENCY_WINDOW_MS_DEFAULT = 900_000
IDEMPOTENCY_WINDOW_MS_MIN = 60_000
IDEMPOTENCY_WINDOW_MS_MAX = 86_400_000

#: Sliding and burst windows of a limit.
WINDOW_MS_MIN = 1_000
WINDOW_MS_MAX = 31 * 86_400_000
#: Slices of a sliding window: use counts for at most one slice too long.
SLIDING_SLICES = 10

#: Priority of a grant.
PRIORITY_MIN = -1_000
PRIORITY_MAX = 1_000
#: A goodwill grant lives at most ten years.
GOODWILL_TTL_MS_MAX = 10 * 366 * 86_400_000

#: A dial may move by this many points without `force`.
DIAL_STEP_MAX = 25
#: Policies of one tenant.
POLICIES_MAX = 1_000
#: A policy that expires by itself does so within 30 days.
POLICY_EXPIRY_MS_MAX = 30 * 86_400_000

#: Page sizes of every list.
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
#: Entries in one explanation.
EXPLAIN_ENTRIES_DEFAULT = 1_000
EXPLAIN_ENTRIES_MAX = 10_000

#: Partitions of a deployment; recorded in both stores at first start and fixed from then on.
PARTITIONS_MAX = 4_096
