-- The ledger of Holdfast as it is today: what a new installation gets.
--
-- Contract: every change of this file also ships as migrations/NNNN_{pre|post}_text.sql, and a test
-- proves that the sum of the migrations has the same structure. `pre` runs before the new code and
-- must suit the old code as well; `post` runs after the old code is gone.
--
-- Append-only is enforced three times: runtime roles lack the privileges, ENABLE ALWAYS triggers
-- refuse everybody who has them, and the hash chain shows what got past both.

CREATE SCHEMA holdfast;

CREATE TABLE holdfast.migration (
    number integer NOT NULL,
    phase text NOT NULL CHECK (phase IN ('pre', 'post')),
    name text NOT NULL,
    sha256 bytea NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (number, phase)
);

-- The instant so many milliseconds after the Unix epoch, which is how the rest of Holdfast counts.
CREATE FUNCTION holdfast.instant(milliseconds bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN timestamptz 'epoch' + milliseconds * interval '1 millisecond';

CREATE FUNCTION holdfast.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

-- Makes a table append-only. TRUNCATE triggers are not inherited by partitions, and plain triggers
-- do not fire under session_replication_role = replica: hence one call per table, and ALWAYS.
CREATE PROCEDURE holdfast.make_append_only(target regclass)
LANGUAGE plpgsql SET search_path = ''
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgrelid = target AND tgname = 'refuse_row_change') THEN
        EXECUTE pg_catalog.format(
            'CREATE TRIGGER refuse_row_change BEFORE UPDATE OR DELETE ON %s '
            'FOR EACH ROW EXECUTE FUNCTION holdfast.refuse_change()', target);
    END IF;
    EXECUTE pg_catalog.format(
        'CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION holdfast.refuse_change()', target);
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_row_change', target);
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_truncate', target);
END
$$;

-- One row per entry. Each row carries the buckets after it, so every row is a complete checkpoint:
-- a balance at an instant is the last row at or before it, a snapshot whose tail is always empty.
--
-- Rows are partitioned by the month in which they were recorded. That a sequence number is used
-- once follows from the compare-and-set on flush_cursor; the unique index of each month is the
-- second line. It is made per month since an index over all months would have to contain recorded_at.
CREATE TABLE holdfast.entry (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    first_seq bigint NOT NULL,
    kind smallint NOT NULL,
    version bigint NOT NULL,
    event_time timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    mode smallint NOT NULL,
    ends_hold smallint NOT NULL,
    delta_granted bigint NOT NULL,
    delta_debt bigint NOT NULL,
    delta_unenforced bigint NOT NULL,
    delta_available bigint NOT NULL,
    delta_held bigint NOT NULL,
    delta_burned bigint NOT NULL,
    delta_expired bigint NOT NULL,
    delta_revoked bigint NOT NULL,
    granted bigint NOT NULL,
    debt bigint NOT NULL,
    unenforced bigint NOT NULL,
    available bigint NOT NULL,
    held bigint NOT NULL,
    burned bigint NOT NULL,
    expired bigint NOT NULL,
    revoked bigint NOT NULL,
    -- See `postings`. Null stands for no grants.
    grant_ids uuid[],
    grant_changes bigint[],
    tenant text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    credit_type text COLLATE "C" NOT NULL,
    actor text COLLATE "C" NOT NULL,
    method text NOT NULL,
    idempotency_key text NOT NULL,
    fingerprint bytea NOT NULL,
    -- Null stands for what is empty.
    hold uuid,
    feature text,
    caller text,
    trace_id text,
    span_id text,
    reason text,
    refund_of text COLLATE "C",
    labels json,
    detail json,
    hash bytea NOT NULL,
    CONSTRAINT entry_place CHECK (
        partition >= 0 AND epoch >= 1 AND first_seq >= 1 AND seq >= first_seq AND version >= 1
    ),
    CONSTRAINT entry_codes CHECK (
        kind BETWEEN 1 AND 16 AND mode BETWEEN 0 AND 3 AND ends_hold IN (0, 2, 3, 4)
    ),
    CONSTRAINT entry_names CHECK (tenant <> '' AND account <> '' AND octet_length(hash) = 32),
    CONSTRAINT entry_event_time CHECK (
        event_time >= timestamptz 'epoch' AND event_time < timestamptz '9999-01-01 00:00:00+00'
    ),
    CONSTRAINT entry_end_names_hold CHECK (ends_hold = 0 OR hold IS NOT NULL),
    CONSTRAINT entry_zero_sum CHECK (
        delta_granted + delta_debt + delta_unenforced
        = delta_available + delta_held + delta_burned + delta_expired + delta_revoked
    ),
    CONSTRAINT entry_conserved CHECK (
        granted + debt + unenforced = available + held + burned + expired + revoked
    ),
    -- None is negative, and each is exact in a double: bits above the 53rd are set in none of them.
    CONSTRAINT entry_bounds CHECK (
        (granted | debt | unenforced | available | held | burned | expired | revoked)
        BETWEEN 0 AND 9007199254740991
    ),
    -- HOLD (overdraft), BURN, OVERAGE, LATE_COMMIT, RECOVERED_COMMIT.
    CONSTRAINT entry_debt_kinds CHECK (delta_debt <= 0 OR kind IN (3, 8, 9, 10, 16)),
    -- The same in shadow, CAP's excess, and UNENFORCED.
    CONSTRAINT entry_unenforced_kinds CHECK (delta_unenforced <= 0 OR kind IN (3, 8, 9, 10, 15, 16)),
    CONSTRAINT entry_without_credit_type_moves_nothing CHECK (
        credit_type <> ''
        OR (delta_granted = 0 AND delta_debt = 0 AND delta_unenforced = 0 AND delta_available = 0
            AND delta_held = 0 AND delta_burned = 0 AND delta_expired = 0 AND delta_revoked = 0)
    )
) PARTITION BY RANGE (recorded_at);

-- Event time never falls as the version rises, so this one order serves pages and instants alike.
-- Entries of one millisecond are few: they are sorted by version when they are read. The account first,
-- which tells most rows apart.
CREATE INDEX entry_account ON holdfast.entry (account, tenant, credit_type, event_time DESC);
-- A hold id is 128 random bits: the tenant need not be in the index. The one entry that ends a hold
-- is found through `operation.hold_ended`.
CREATE INDEX entry_hold ON holdfast.entry (hold) WHERE ends_hold = 0 AND hold IS NOT NULL;
CREATE INDEX entry_refund_of ON holdfast.entry (refund_of, tenant) WHERE refund_of IS NOT NULL;
-- Revokes are few: a refund asks which grants were revoked.
CREATE INDEX entry_revokes ON holdfast.entry (tenant, account) WHERE kind = 13;
-- So are entries by which something of a grant is lost: a list of grants asks how much.
CREATE INDEX entry_losses ON holdfast.entry (account, tenant, credit_type)
    WHERE delta_expired <> 0 OR delta_revoked <> 0;

CALL holdfast.make_append_only('holdfast.entry');

-- What an entry changed of each grant: `FROM entry AS e, postings(e.grant_ids, e.grant_changes)`.
CREATE FUNCTION holdfast.postings(grant_ids uuid[], grant_changes bigint[]) RETURNS TABLE (
    grant_id uuid, remaining bigint, held bigint, burned bigint, expired bigint, revoked bigint
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
SELECT
    g.grant_id, grant_changes[5 * n - 4], grant_changes[5 * n - 3], grant_changes[5 * n - 2],
    grant_changes[5 * n - 1], grant_changes[5 * n]
FROM unnest(grant_ids) WITH ORDINALITY AS g (grant_id, n);
END;

-- Makes sure that the month of `instant` (UTC) has its partition and returns the partition's name.
--
-- The flusher calls it in the transaction that inserts, so a change of month cannot find the table
-- without a place for its rows, whether or not anybody created it ahead. There is no DEFAULT
-- partition: rows in it would block the month's own partition from being made. The new table is
-- attached rather than created in place, since attaching does not lock out readers.
CREATE FUNCTION holdfast.ensure_entry_partition(instant timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET timezone = 'UTC'
AS $$
DECLARE
    first_instant timestamptz := pg_catalog.date_trunc('month', instant);
    name text := 'entry_' || pg_catalog.to_char(first_instant, 'YYYY_MM');
BEGIN
    IF pg_catalog.to_regclass('holdfast.' || name) IS NOT NULL THEN
        RETURN name;
    END IF;
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('holdfast.entry'));
    IF pg_catalog.to_regclass('holdfast.' || name) IS NOT NULL THEN
        RETURN name;
    END IF;
    EXECUTE pg_catalog.format(
        'CREATE TABLE holdfast.%I (LIKE holdfast.entry INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE pg_catalog.format(
        'CREATE UNIQUE INDEX %I ON holdfast.%I (partition, seq)', name || '_seq', name);
    EXECUTE pg_catalog.format(
        'ALTER TABLE holdfast.entry ATTACH PARTITION holdfast.%I FOR VALUES FROM (%L) TO (%L)',
        name, first_instant, first_instant + interval '1 month');
    EXECUTE pg_catalog.format('CALL holdfast.make_append_only(%L)', 'holdfast.' || name);
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'holdfast_flusher') THEN
        EXECUTE pg_catalog.format('GRANT SELECT, INSERT ON holdfast.%I TO holdfast_flusher', name);
    END IF;
    RETURN name;
END
$$;

-- What the ledger protects against repetition, for ever. The flusher inserts plainly, never with
-- ON CONFLICT: a second row for a key, or a second end of a hold, is a fork and must alarm.
CREATE TABLE holdfast.operation (
    tenant text COLLATE "C" NOT NULL,
    method text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    -- Empty for the end of a hold that nobody asked for, such as its expiry.
    answer bytea NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL,
    hold_ended uuid,
    -- The key first, which tells most rows apart.
    CONSTRAINT operation_once PRIMARY KEY (idempotency_key, tenant, method),
    CONSTRAINT operation_names CHECK (tenant <> '' AND method <> '' AND idempotency_key <> '')
);
CREATE UNIQUE INDEX operation_hold_ends_once ON holdfast.operation (hold_ended, tenant)
    WHERE hold_ended IS NOT NULL;
CALL holdfast.make_append_only('holdfast.operation');

-- The terms of every grant, projected from GRANT entries and goodwill refunds. They never change.
CREATE TABLE holdfast.grant_terms (
    tenant text COLLATE "C" NOT NULL,
    grant_id uuid NOT NULL,
    account text COLLATE "C" NOT NULL,
    credit_type text COLLATE "C" NOT NULL,
    amount bigint NOT NULL CHECK (amount BETWEEN 1 AND 9007199254740991),
    source smallint NOT NULL CHECK (source BETWEEN 1 AND 7),
    priority integer NOT NULL,
    effective_at timestamptz NOT NULL,
    -- Null: never.
    expires_at timestamptz,
    cost_amount bigint NOT NULL CHECK (cost_amount >= 0),
    cost_currency text NOT NULL,
    reason_code text NOT NULL,
    repay_debt boolean NOT NULL,
    labels jsonb NOT NULL,
    issuer text NOT NULL,
    granted_at timestamptz NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL,
    PRIMARY KEY (tenant, grant_id)
);
CREATE INDEX grant_terms_account ON holdfast.grant_terms
    (tenant, account, granted_at DESC, grant_id DESC);
CALL holdfast.make_append_only('holdfast.grant_terms');

-- Accounts as their newest ACCOUNT entry has them. `terms` is the entry's detail.
CREATE TABLE holdfast.account (
    tenant text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    root text COLLATE "C" NOT NULL,
    parent text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    partition integer NOT NULL,
    terms jsonb NOT NULL,
    PRIMARY KEY (tenant, account)
);
CREATE INDEX account_parent ON holdfast.account (tenant, parent, account);
CREATE INDEX account_root ON holdfast.account (tenant, root, account);

-- How far the ledger is, per partition. Changed only by compare-and-set, in the transaction that
-- inserts the rows it counts. Room is kept on each page so that updates stay in place.
CREATE TABLE holdfast.flush_cursor (
    partition integer PRIMARY KEY CHECK (partition >= 0),
    epoch bigint NOT NULL CHECK (epoch >= 1),
    last_seq bigint NOT NULL CHECK (last_seq >= 0),
    last_hash bytea NOT NULL CHECK (octet_length(last_hash) = 32),
    last_event_time timestamptz NOT NULL DEFAULT timestamptz 'epoch'
) WITH (fillfactor = 30);

-- Every epoch that a partition has had: the life of its hot state between two recoveries. One ends where
-- the next begins. Nothing is acknowledged in an epoch after the next one has begun.
CREATE TABLE holdfast.partition_epoch (
    partition integer NOT NULL,
    epoch bigint NOT NULL CHECK (epoch >= 1),
    -- The last sequence number before it.
    start_seq bigint NOT NULL CHECK (start_seq >= 0),
    -- The epoch under whose name the keys lie: its own where the hot state began anew, else an earlier one.
    home bigint NOT NULL CHECK (home BETWEEN 1 AND epoch),
    -- The history of the hot store (master_replid) that decides in it; empty where none has yet.
    replid text NOT NULL,
    -- What was found: deployment, kept, suffix_lost, rebuilt.
    reason text NOT NULL,
    -- The fencing that it ended; 0: none.
    fencing bigint NOT NULL CHECK (fencing >= 0),
    opened_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, epoch)
);
CALL holdfast.make_append_only('holdfast.partition_epoch');

-- Each time that partitions were fenced. A partition is fenced now if it is in one with a higher number
-- than that which its epoch ended.
CREATE TABLE holdfast.fencing (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partitions integer[] NOT NULL,
    why text NOT NULL,
    fenced_at timestamptz NOT NULL DEFAULT now()
);
CALL holdfast.make_append_only('holdfast.fencing');

-- The highest sequence number of each partition that a process acknowledged, and in which epoch, as it
-- said when partitions were fenced. Unlogged: those that live say it again.
CREATE UNLOGGED TABLE holdfast.acknowledged (
    process text NOT NULL,
    role text NOT NULL,
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    voted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (process, role, partition, epoch)
);

-- Acknowledged entries that nobody has any more: not the ledger, and not the hot store that goes on.
-- A process that says later that it had acknowledged more adds a row with the same `first_seq`.
CREATE TABLE holdfast.loss_report (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    first_seq bigint NOT NULL CHECK (first_seq >= 1),
    last_seq bigint NOT NULL CHECK (last_seq >= first_seq),
    reported_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, epoch, last_seq)
);
CALL holdfast.make_append_only('holdfast.loss_report');

-- Facts that are fixed when a deployment first starts.
CREATE TABLE holdfast.deployment (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 4096),
    created_at timestamptz NOT NULL DEFAULT now()
);
CALL holdfast.make_append_only('holdfast.deployment');

-- Secrets that sign hold tokens. The newest signs; older ones still verify.
CREATE TABLE holdfast.token_key (
    key_id smallint PRIMARY KEY CHECK (key_id BETWEEN 0 AND 255),
    secret bytea NOT NULL CHECK (octet_length(secret) >= 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE holdfast.credit_type (
    tenant text COLLATE "C" NOT NULL,
    code text COLLATE "C" NOT NULL,
    display_name text NOT NULL,
    scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 9),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, code)
);
CALL holdfast.make_append_only('holdfast.credit_type');

-- Every version of every policy: who, why, when, and which version counted before. The tenant of the
-- global policy is empty. What counts is the newest version of a scope that has not expired.
CREATE TABLE holdfast.policy_audit (
    tenant text COLLATE "C" NOT NULL,
    scope_kind smallint NOT NULL CHECK (scope_kind BETWEEN 1 AND 5),
    scope_value text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version >= 1),
    -- 0: none.
    version_before bigint NOT NULL CHECK (version_before BETWEEN 0 AND version - 1),
    mode smallint NOT NULL CHECK (mode BETWEEN 1 AND 3),
    evaluate_percent smallint NOT NULL CHECK (evaluate_percent BETWEEN 0 AND 100),
    enforce_percent smallint NOT NULL CHECK (enforce_percent BETWEEN 0 AND 100),
    store_unavailable smallint NOT NULL CHECK (store_unavailable BETWEEN 1 AND 3),
    bound_amount bigint NOT NULL CHECK (bound_amount >= 0),
    idempotency_window_ms bigint NOT NULL CHECK (idempotency_window_ms >= 0),
    -- Null: never.
    expires_at timestamptz,
    changed_by text NOT NULL,
    reason text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    config_version bigint NOT NULL UNIQUE,
    idempotency_key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    PRIMARY KEY (tenant, scope_kind, scope_value, version),
    CONSTRAINT policy_audit_once UNIQUE (tenant, idempotency_key)
);
CALL holdfast.make_append_only('holdfast.policy_audit');

-- Raised by every change of a policy or credit type, in the same transaction.
CREATE TABLE holdfast.config_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL CHECK (version >= 0)
);
INSERT INTO holdfast.config_version (version) VALUES (0);

-- Which processes live. Unlogged: after a crash of the database they report again by themselves.
CREATE UNLOGGED TABLE holdfast.process (
    process text NOT NULL,
    role text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    config_version bigint NOT NULL,
    killed boolean NOT NULL,
    killed_by text NOT NULL,
    -- The newest fencing that it has seen, and answered with what it had acknowledged.
    fencing bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (process, role)
);

-- Entries that could not be recorded, as they were found, and use that came too late to be booked.
-- Nothing purges them.
CREATE TABLE holdfast.quarantine (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    raw_sha256 bytea GENERATED ALWAYS AS (sha256(raw)) STORED,
    raw bytea NOT NULL,
    fault text NOT NULL,
    explanation text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, epoch, seq, raw_sha256)
);
CALL holdfast.make_append_only('holdfast.quarantine');

-- Figures that were not the same in the hot store and in the ledger, as they were at `seq`.
CREATE TABLE holdfast.audit_finding (
    partition integer NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    credit_type text COLLATE "C" NOT NULL,
    -- "grant ID", "hold ID", what figures add up to, or empty.
    part text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- Of the account's credits in the hot store.
    version bigint NOT NULL,
    hot bigint NOT NULL,
    ledger bigint NOT NULL CHECK (ledger <> hot),
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, seq, tenant, account, credit_type, part, name)
);
CREATE INDEX audit_finding_newest ON holdfast.audit_finding (found_at DESC);
CALL holdfast.make_append_only('holdfast.audit_finding');

-- The newest checkpoint that was made. Its line stays in `pending` until it is kept outside of this
-- database, which is what it is for.
CREATE TABLE holdfast.checkpoint_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    number bigint NOT NULL CHECK (number >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    made_at timestamptz NOT NULL,
    pending text NOT NULL
);
INSERT INTO holdfast.checkpoint_head (number, hash, made_at, pending)
VALUES (0, decode(repeat('00', 32), 'hex'), timestamptz 'epoch', '');

-- The newest snapshot of a tree: its state after the entry at `seq`, as domain/rebuild writes it down.
-- Derived from entries alone and read so that their fold need not begin at the first: rows may be deleted
-- at any time. One whose entry is not in the ledger, or that is not what its digest says, is not used.
CREATE TABLE holdfast.tree_snapshot (
    tenant text COLLATE "C" NOT NULL,
    root text COLLATE "C" NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    epoch bigint NOT NULL CHECK (epoch >= 1),
    seq bigint NOT NULL CHECK (seq >= 1),
    event_time timestamptz NOT NULL,
    -- How many entries it stands for.
    entries bigint NOT NULL CHECK (entries >= 1),
    layout integer NOT NULL,
    state bytea NOT NULL,
    -- Over all of the above, the time of the last entry in milliseconds.
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, root)
);
-- Digests are as good as random: whoever wants any snapshot takes the one behind any bytes.
CREATE INDEX tree_snapshot_sample ON holdfast.tree_snapshot (sha256);

-- Roles. The owner has no login and no part at run time. Whoever migrates becomes a member of each
-- role, so that connections can step down to the least they need. Where the migrating user may not
-- create roles and nobody made them, the triggers alone keep the ledger append-only.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'holdfast_owner', 'holdfast_flusher', 'holdfast_reader', 'holdfast_control'
    ] LOOP
        IF (SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user)
           AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- Roles belong to the whole cluster: another database's migration was faster.
            END;
            EXECUTE format('GRANT %I TO CURRENT_USER', role);
        END IF;
    END LOOP;
END
$$;

-- A tenant's rows are those of the setting `holdfast.tenant`; '*' is for auditors and verification.
-- COPY cannot write to a table with row security; the flusher copies entries into the month's
-- partition, which has none, and nobody but the flusher may touch it. The operations, which it copies
-- as well, are read through a view instead.
CREATE VIEW holdfast.tenant_operation WITH (security_barrier) AS
SELECT * FROM holdfast.operation
WHERE tenant = current_setting('holdfast.tenant', true)
    OR current_setting('holdfast.tenant', true) = '*';

ALTER TABLE holdfast.entry ENABLE ROW LEVEL SECURITY;
ALTER TABLE holdfast.grant_terms ENABLE ROW LEVEL SECURITY;
ALTER TABLE holdfast.account ENABLE ROW LEVEL SECURITY;
ALTER TABLE holdfast.tree_snapshot ENABLE ROW LEVEL SECURITY;

DO $$
DECLARE
    target text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_owner'
                   AND pg_has_role(rolname, 'MEMBER')) THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA holdfast TO holdfast_flusher, holdfast_reader, holdfast_control;
    REVOKE ALL ON FUNCTION holdfast.ensure_entry_partition(timestamptz) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION holdfast.ensure_entry_partition(timestamptz) TO holdfast_flusher;
    GRANT SELECT, INSERT ON holdfast.entry, holdfast.operation, holdfast.grant_terms,
        holdfast.quarantine TO holdfast_flusher;
    GRANT SELECT, INSERT, UPDATE ON holdfast.account TO holdfast_flusher;
    GRANT SELECT, UPDATE ON holdfast.flush_cursor TO holdfast_flusher;
    GRANT SELECT ON holdfast.partition_epoch TO holdfast_flusher;
    GRANT SELECT ON holdfast.entry, holdfast.tenant_operation, holdfast.grant_terms,
        holdfast.account, holdfast.flush_cursor, holdfast.partition_epoch, holdfast.deployment,
        holdfast.quarantine, holdfast.credit_type, holdfast.policy_audit, holdfast.config_version,
        holdfast.process, holdfast.audit_finding, holdfast.fencing, holdfast.acknowledged,
        holdfast.loss_report, holdfast.checkpoint_head, holdfast.tree_snapshot TO holdfast_reader;
    GRANT SELECT, INSERT ON holdfast.deployment, holdfast.token_key, holdfast.credit_type,
        holdfast.policy_audit, holdfast.partition_epoch, holdfast.flush_cursor,
        holdfast.fencing, holdfast.loss_report TO holdfast_control;
    GRANT SELECT, INSERT ON holdfast.quarantine, holdfast.audit_finding TO holdfast_control;
    GRANT UPDATE (epoch) ON holdfast.flush_cursor TO holdfast_control;
    GRANT SELECT, UPDATE ON holdfast.config_version, holdfast.checkpoint_head TO holdfast_control;
    GRANT SELECT, INSERT, UPDATE, DELETE ON holdfast.process, holdfast.acknowledged, holdfast.tree_snapshot
        TO holdfast_control;
    FOREACH target IN ARRAY ARRAY['entry', 'grant_terms', 'account', 'tree_snapshot'] LOOP
        EXECUTE format('CREATE POLICY tenant_reads ON holdfast.%I FOR SELECT TO holdfast_reader '
            'USING (tenant = current_setting(''holdfast.tenant'', true) '
            'OR current_setting(''holdfast.tenant'', true) = ''*'')', target);
    END LOOP;
    FOREACH target IN ARRAY ARRAY['entry', 'grant_terms', 'account'] LOOP
        EXECUTE format('CREATE POLICY flusher_writes ON holdfast.%I TO holdfast_flusher '
            'USING (true) WITH CHECK (true)', target);
    END LOOP;
    CREATE POLICY control_writes ON holdfast.tree_snapshot TO holdfast_control USING (true) WITH CHECK (true);
    -- Postgres asks this of whoever becomes the owner of a schema.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO holdfast_owner', current_database());
    ALTER SCHEMA holdfast OWNER TO holdfast_owner;
    FOR target IN SELECT format('%s %s', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass)
                  FROM pg_class c WHERE c.relnamespace = 'holdfast'::regnamespace AND c.relkind IN ('r', 'p', 'v') LOOP
        EXECUTE format('ALTER %s OWNER TO holdfast_owner', target);
    END LOOP;
    FOR target IN SELECT p.oid::regprocedure::text FROM pg_proc p
                  WHERE p.pronamespace = 'holdfast'::regnamespace LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO holdfast_owner', target);
    END LOOP;
END
$$;
