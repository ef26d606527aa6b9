-- Where each value stands in the packed arrays, and every number that Lua shares with Python.
-- Only declarations of constants stand here: the loader puts the values in place of the names, since
-- Lua allows too few local variables for all of them. Tests compare the numbers with Python's.

-- Limits of the domain (domain/bounds.py).
local AMOUNT_MAX = 9007199254740991
local GRANTS_MAX = 256
local TREE_LEVELS_MAX = 5
local HOLD_AGE_MS_MAX = 604800000
local LATE_COMMIT_WINDOW_MS = 86400000
local SLIDING_SLICES = 10
-- Things that one call ends in one tree, and late holds that it forgets of a partition beside as many as it
-- adds there: bounds the time of one call.
local DUE_MAX = 2000
local FORGET_MAX = 100
-- What a caller is told to wait while a tree has more to end than that, as text.
local RETRY_AFTER_MS = "50"
local CODE_EXPIRE_DUE = 13
-- How far the clocks of callers may be from the store's: keys carry the callers' time.
local CLOCK_SKEW_MS = 300000
-- A clock that is further ahead of what was expected has jumped (engine/store_clock.py).
local CLOCK_JUMP_MS = 60000

-- An account: a row. Overdraft, limits and offsets are packed by themselves, "" for none; pairs of a
-- credit type and its row follow. A_REFUND_SEQ is the last entry that a refund has to know of: of a
-- refund, or of a grant that was revoked.
local A_STATUS, A_PARENT, A_VERSION, A_CREATED, A_OPEN_HOLDS, A_REFUND_SEQ, A_HEIGHT = 1, 2, 3, 4, 5, 6, 7
local A_OVERDRAFT, A_LIMITS, A_OFFSETS, A_FIRST_CREDIT = 8, 9, 10, 11
local STATUS_FROZEN, STATUS_CLOSED = 2, 3

-- One credit type of an account: a row. C_TOPPED is what was available after the last grant.
-- The parts of debt and unenforced that open holds pledge: nobody owes them yet. Grants that are not
-- effective yet are packed by themselves, "" for none; the rows of those that are follow.
local C_VERSION, C_GRANTED, C_DEBT, C_UNENFORCED, C_AVAILABLE = 1, 2, 3, 4, 5
local C_HELD, C_BURNED, C_EXPIRED, C_REVOKED, C_TOPPED = 6, 7, 8, 9, 10
local C_DEBT_PLEDGED, C_UNENFORCED_PLEDGED, C_PENDING, C_FIRST_GRANT = 11, 12, 13, 14

-- A grant: a row, whose first value, the id, stands behind one byte.
local G_ID, G_REMAINING, G_HELD, G_PRIORITY, G_EXPIRES, G_PAID, G_EFFECTIVE, G_REVOKED, G_REPAY =
  1, 2, 3, 4, 5, 6, 7, 8, 9

-- What of a grant lies in a bucket, and what an entry says of that, stands so far before the bucket.
local PART_BEHIND = 3

-- A limit and what was counted under it: L_USED is [window, used, window, used, ...]. L_COUNTER is the
-- number by which holds know that count: a limit of the same id that counts anew has another.
local L_ID, L_UNIT, L_WINDOW, L_MAXIMUM, L_ENFORCEMENT, L_WINDOW_MS = 1, 2, 3, 4, 5, 6
local L_CREDIT_TYPE, L_FEATURE, L_WARN, L_USED, L_LEVEL, L_LEVEL_MS, L_COUNTER = 7, 8, 9, 10, 11, 12, 13
local UNIT_REQUESTS = 1
local WINDOW_DAY, WINDOW_SLIDING, WINDOW_BURST = 1, 3, 4
local LIMIT_HARD, LIMIT_SOFT = 1, 2

-- An open hold, as operations see it. A line's draws are [account, source, amount, ...]; counts are
-- [account, counter, window, amount, credit type, ...]. It is kept as a row: what stands before the lines,
-- counts packed by themselves ("" for none), and for each line its values, how many its draws have, and
-- these.
local H_ACCOUNT, H_FEATURE, H_MODE, H_PLACED, H_EXPIRES, H_LINES, H_COUNTS = 1, 2, 3, 4, 5, 6, 7
local N_CREDIT_TYPE, N_REQUESTED, N_CAPTURED, N_DRAWS = 1, 2, 3, 4
local SOURCE_DEBT, SOURCE_UNENFORCED = "D", "U"

-- What becomes of a line's draws: burned, given back, kept; and draws for what the line does not hold.
local P_BURNED, P_RETURNED, P_KEPT, P_OVERFLOW = 1, 2, 3, 4

-- An expired hold that can still be committed until then; its lines are [credit type, held, captured].
-- T_COUNTED is 1 while it counts as a request: its expiry gave that back unless something was burned.
local T_ACCOUNT, T_FEATURE, T_MODE, T_LINES, T_UNTIL, T_COUNTED = 1, 2, 3, 4, 5, 6

-- The state of a partition: a row.
local M_SEQ, M_LAST_MS, M_GENERATION_MS, M_GENERATION_SEQ, M_OPEN_HOLDS, M_FORMER_MS = 1, 2, 3, 4, 5, 6

-- An entry of the outbox (domain/packed.py): numbers, then texts, then six values for each grant. Eight
-- changes, then eight buckets, from bucket N of a credit at N + E_DELTA_OF and N + E_AFTER_OF.
local ENTRY_LAYOUT = 3
local E_KIND, E_MODE, E_ENDS_HOLD, E_VERSION, E_AT, E_FIRST_SEQ = 2, 3, 4, 5, 6, 7
local E_DELTA, E_DELTA_OF, E_AFTER, E_AFTER_OF = 8, 6, 16, 14
local E_HOLD_BYTES, E_CONTEXT_BYTES, E_ANSWER_BYTES = 24, 25, 26
local E_TENANT, E_ACCOUNT, E_CREDIT_TYPE, E_ACTOR, E_REFUND_OF = 27, 28, 29, 30, 31
local E_HOLD, E_CONTEXT, E_ANSWER = 32, 33, 34
local E_FIRST_GRANT = 35

-- An operation, as far as all operations agree; its own fields follow. Those about a hold name it, and
-- the account that their token says it is of.
local O_CODE, O_PARTITION, O_TREE, O_TENANT, O_DIGEST, O_FINGERPRINT = 1, 2, 3, 4, 5, 6
local O_KEY_MS, O_CHECKED, O_PROTECTED, O_CONTEXT, O_ACCOUNT, O_HOLD = 7, 8, 9, 10, 11, 12

-- How an answer is to be read (see apply.lua).
local FRESH, REPLAYED, FAILED, LOOK_UP, REUSED, HOLD_MISSING, STALE, COLD = 0, 1, 2, 3, 4, 5, 6, 7
local FENCED, GRANT_GONE = 8, 9

-- Kinds of entries, modes, outcomes and hold states, by their numbers in the proto.
local KIND_ACCOUNT, KIND_GRANT, KIND_HOLD, KIND_COMMIT, KIND_RELEASE, KIND_HOLD_EXPIRED = 1, 2, 3, 4, 5, 6
local KIND_EXTEND, KIND_BURN, KIND_OVERAGE, KIND_LATE_COMMIT, KIND_REFUND = 7, 8, 9, 10, 11
local KIND_GRANT_EXPIRED, KIND_REVOKE, KIND_GRANT_EFFECTIVE, KIND_UNENFORCED = 12, 13, 14, 15
local KIND_RECOVERED_COMMIT = 16
local MODE_SHADOW, MODE_ENFORCE = 2, 3
local GRANTED, GRANTED_PARTIAL, GRANTED_SHADOW, DENIED = 1, 2, 3, 5
local OPEN, COMMITTED, RELEASED, EXPIRED = 1, 2, 3, 4
local FIT_UP_TO = 2
local OVERAGE_CAP, OVERAGE_REJECT = 2, 3
local WARN_LIMIT, WARN_BALANCE, WARN_SOFT = 1, 2, 3

-- Reasons (errors.py).
local R_OVERLOADED, R_FIELD_INVALID, R_LEDGER_BACKLOG, R_FENCED, R_ACCOUNT_NOT_FOUND = 9, 36, 56, 57, 73
local R_ACCOUNT_ALREADY_EXISTS, R_ACCOUNT_TREE_INVALID = 78, 80
local R_HOLD_ALREADY_COMMITTED, R_HOLD_ALREADY_SETTLED, R_HOLD_EXPIRED = 81, 82, 83
local R_HOLD_MAXIMUM_AGE, R_LINE_UNKNOWN, R_BALANCE_LIMIT_EXCEEDED = 84, 85, 87
local R_ACCOUNT_FULL, R_VERSION_CONFLICT = 88, 89
local R_ACCOUNT_CLOSED, R_ACCOUNT_FROZEN, R_LIMIT_EXCEEDED = 110, 111, 112
local R_INSUFFICIENT_CREDITS, R_OVERAGE_REJECTED = 113, 114
