-- try_to_lead --
-- True for the one session that may flush. Held until the session ends.
SELECT pg_try_advisory_lock(hashtextextended('holdfast.flusher', 0)) AS leading;

-- limit_silence --
-- Ends sessions that keep the lead without working.
SELECT
    set_config('idle_session_timeout', %(limit)s, false),
    set_config('idle_in_transaction_session_timeout', %(limit)s, false);

-- leave_a_mark --
-- Changes nothing, but has something to commit: a commit waits for the standby, where there must be
-- one, and with it for all that was committed before.
SELECT pg_logical_emit_message(true, 'holdfast', '');

-- flush_cursors --
-- Where the flusher continues. The last entry in the outbox is checked against the hashes.
SELECT
    c.partition, c.epoch, c.last_seq AS seq, c.last_hash AS hash,
    (SELECT e.hash FROM holdfast.entry AS e
     WHERE e.partition = c.partition AND e.seq = c.last_seq - 1) AS hash_before,
    p.start_seq, p.home
FROM holdfast.flush_cursor AS c
JOIN holdfast.partition_epoch AS p USING (partition, epoch)
ORDER BY c.partition;

-- advance_cursors --
-- Compare-and-set of many cursors: how many were where they should be, and the table of the month in
-- which the rows of this transaction are recorded, made if need be. Hashes are joined, 32 bytes each.
-- Rows are locked in order, so that flushers cannot deadlock.
WITH expected AS (
    SELECT
        partition, epoch, seq, new_seq, new_event_ms,
        substring(%(hashes)s::bytea FROM 32 * n::integer - 31 FOR 32) AS hash,
        substring(%(new_hashes)s::bytea FROM 32 * n::integer - 31 FOR 32) AS new_hash
    FROM unnest(
        %(partitions)s::integer[], %(epochs)s::bigint[], %(seqs)s::bigint[], %(new_seqs)s::bigint[],
        %(new_event_ms)s::bigint[]
    ) WITH ORDINALITY AS e (partition, epoch, seq, new_seq, new_event_ms, n)
), locked AS (
    SELECT c.partition FROM holdfast.flush_cursor AS c
    WHERE c.partition = ANY(%(partitions)s::integer[])
    ORDER BY c.partition
    FOR UPDATE
), advanced AS (
    UPDATE holdfast.flush_cursor AS c
    SET last_seq = e.new_seq, last_hash = e.new_hash,
        last_event_time = greatest(c.last_event_time, holdfast.instant(e.new_event_ms))
    FROM expected AS e JOIN locked USING (partition)
    WHERE c.partition = e.partition AND c.epoch = e.epoch AND c.last_seq = e.seq AND c.last_hash = e.hash
    RETURNING c.partition
)
SELECT count(*) AS advanced, holdfast.ensure_entry_partition(now()) AS entry_table FROM advanced;

-- insert_grant_terms --
-- Plain INSERT: a grant that exists already is a fork.
INSERT INTO holdfast.grant_terms (
    tenant, grant_id, account, credit_type, amount, source, priority, effective_at, expires_at,
    cost_amount, cost_currency, reason_code, repay_debt, labels, issuer, granted_at,
    partition, epoch, first_seq
) VALUES (
    %(tenant)s, %(grant_id)s, %(account)s, %(credit_type)s, %(amount)s, %(source)s, %(priority)s,
    %(effective_at)s, %(expires_at)s, %(cost_amount)s, %(cost_currency)s, %(reason_code)s,
    %(repay_debt)s, %(labels)s, %(issuer)s, %(granted_at)s, %(partition)s, %(epoch)s, %(first_seq)s
);

-- upsert_account --
-- The newest terms of an account win.
INSERT INTO holdfast.account AS a (tenant, account, root, parent, version, partition, terms)
VALUES (
    %(tenant)s, %(account)s, %(root)s, %(parent)s, %(version)s, %(partition)s, %(terms)s
)
ON CONFLICT (tenant, account) DO UPDATE SET
    root = excluded.root, parent = excluded.parent, version = excluded.version,
    partition = excluded.partition, terms = excluded.terms
WHERE excluded.version > a.version;

-- ensure_entry_partitions --
-- Makes the tables of this month and of those to come.
SELECT holdfast.ensure_entry_partition(now() + ahead * interval '1 month')
FROM generate_series(0, %(months_ahead)s) AS ahead;

-- quarantine --
-- Keeps an entry that could not be recorded. Finding the same again adds nothing.
INSERT INTO holdfast.quarantine (partition, epoch, seq, raw, fault, explanation)
VALUES (%(partition)s, %(epoch)s, %(seq)s, %(raw)s, %(fault)s, %(explanation)s)
ON CONFLICT DO NOTHING;
