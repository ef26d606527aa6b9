-- step_down --
-- Takes a role for the rest of the session, where it exists and may be taken.
SELECT set_config('role', rolname, false)
FROM pg_roles
WHERE rolname = %(role)s AND pg_has_role(rolname, 'MEMBER');

-- begin_reading --
-- What a reading transaction may see, and for how many milliseconds each statement may run.
SELECT
    set_config('holdfast.tenant', %(tenant)s, true),
    set_config('statement_timeout', %(limit)s, true);

-- limit_statements --
-- For how many milliseconds each statement of a session may run that is in no such transaction.
SELECT set_config('statement_timeout', %(limit)s, false);

-- list_entries --
-- A page of an account's entries, newest first. The index orders each credit type by itself; with none
-- given, the newest of every credit type are merged, whose codes are found by stepping over the index.
WITH RECURSIVE credit_types AS (
    SELECT coalesce(
        %(credit_type)s::text,
        (SELECT min(e.credit_type) FROM holdfast.entry AS e
         WHERE e.tenant = %(tenant)s AND e.account = %(account)s)
    ) AS code, 1 AS position
    UNION ALL
    SELECT (
        SELECT min(e.credit_type) FROM holdfast.entry AS e
        WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type > c.code
    ), c.position + 1
    FROM credit_types AS c
    WHERE c.code IS NOT NULL AND %(credit_type)s::text IS NULL AND c.position < %(credit_types_max)s
)
SELECT newest.*
FROM credit_types AS c
CROSS JOIN LATERAL (
    SELECT e.* FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type = c.code
      AND e.event_time >= coalesce(holdfast.instant(%(from_ms)s::bigint), '-infinity')
      AND e.event_time < coalesce(holdfast.instant(%(to_ms)s::bigint), 'infinity')
      AND e.event_time <= coalesce(holdfast.instant(%(before_ms)s::bigint), 'infinity')
      AND (
          %(before_ms)s::bigint IS NULL
          OR (e.event_time, e.partition, e.seq)
             < (holdfast.instant(%(before_ms)s::bigint), %(before_partition)s::integer, %(before_seq)s::bigint)
      )
    ORDER BY e.event_time DESC, e.version DESC
    LIMIT %(limit)s
) AS newest
ORDER BY newest.event_time DESC, newest.partition DESC, newest.seq DESC
LIMIT %(limit)s;

-- balance_at --
-- The last entry of every credit type of an account at or before an instant.
WITH RECURSIVE credit_types AS (
    SELECT min(e.credit_type) AS code, 1 AS position
    FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type > ''
    UNION ALL
    SELECT (
        SELECT min(e.credit_type) FROM holdfast.entry AS e
        WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type > c.code
    ), c.position + 1
    FROM credit_types AS c
    WHERE c.code IS NOT NULL AND c.position < %(credit_types_max)s
)
SELECT newest.*
FROM credit_types AS c
CROSS JOIN LATERAL (
    SELECT e.* FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type = c.code
      AND e.event_time <= coalesce(holdfast.instant(%(instant_ms)s::bigint), 'infinity')
    ORDER BY e.event_time DESC, e.version DESC
    LIMIT 1
) AS newest
ORDER BY newest.credit_type;

-- account_as_of --
-- Up to when the ledger is complete for the partition of an account.
SELECT f.last_event_time
FROM holdfast.flush_cursor AS f
WHERE f.partition = (
    SELECT e.partition FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s
    LIMIT 1
);

-- transaction_entries --
-- The entries of a transaction stand next to each other in the order of their partition.
SELECT * FROM holdfast.entry
WHERE tenant = %(tenant)s AND partition = %(partition)s AND epoch = %(epoch)s
  AND seq >= %(first_seq)s AND seq < %(end_seq)s AND first_seq = %(first_seq)s
ORDER BY seq;

-- hold_entries --
-- Everything that happened to a hold.
SELECT * FROM holdfast.entry
WHERE tenant = %(tenant)s AND hold = %(hold)s::uuid AND ends_hold = 0
UNION ALL
SELECT e.*
FROM holdfast.tenant_operation AS o
JOIN holdfast.entry AS e ON e.partition = o.partition AND e.seq = o.first_seq
WHERE o.tenant = %(tenant)s AND o.hold_ended = %(hold)s::uuid AND e.tenant = o.tenant
ORDER BY partition, seq
LIMIT %(limit)s;

-- get_account --
-- One account.
SELECT * FROM holdfast.account WHERE tenant = %(tenant)s AND account = %(account)s;

-- list_accounts --
-- A page of accounts by id, all or those directly below a parent.
SELECT * FROM holdfast.account
WHERE tenant = %(tenant)s AND account > %(after)s
  AND (%(parent)s::text IS NULL OR parent = %(parent)s)
ORDER BY account
LIMIT %(limit)s;

-- list_grants --
-- A page of an account's grants, newest first, with the sums of what the entries did to each.
WITH page AS (
    SELECT * FROM holdfast.grant_terms
    WHERE tenant = %(tenant)s AND account = %(account)s
      AND (%(credit_type)s::text IS NULL OR credit_type = %(credit_type)s)
      AND (
          %(before_ms)s::bigint IS NULL
          OR (granted_at, grant_id) < (holdfast.instant(%(before_ms)s::bigint), %(before_id)s::uuid)
      )
    ORDER BY granted_at DESC, grant_id DESC
    LIMIT %(limit)s
), figures AS (
    SELECT
        posting.grant_id,
        sum(posting.remaining)::bigint AS remaining,
        sum(posting.held)::bigint AS held,
        sum(posting.burned)::bigint AS burned,
        sum(posting.expired)::bigint AS expired,
        sum(posting.revoked)::bigint AS revoked
    FROM holdfast.entry AS e, holdfast.postings(e.grant_ids, e.grant_changes) AS posting
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s
      AND e.credit_type IN (SELECT credit_type FROM page)
    GROUP BY 1
)
SELECT
    page.*,
    coalesce(figures.remaining, 0) AS remaining,
    coalesce(figures.held, 0) AS held,
    coalesce(figures.burned, 0) AS burned,
    coalesce(figures.expired, 0) AS expired,
    coalesce(figures.revoked, 0) AS revoked
FROM page LEFT JOIN figures USING (grant_id)
ORDER BY page.granted_at DESC, page.grant_id DESC;

-- find_operation --
-- What was answered under an idempotency key.
SELECT fingerprint, answer, partition, epoch, first_seq
FROM holdfast.tenant_operation
WHERE tenant = %(tenant)s AND method = %(method)s AND idempotency_key = %(key)s;

-- refunds_of --
-- What was given back of a transaction.
SELECT * FROM holdfast.entry
WHERE tenant = %(tenant)s AND refund_of = %(refund_of)s
ORDER BY partition, seq
LIMIT %(limit)s;

-- grant_terms_by_id --
-- The terms of grants whose ids are known.
SELECT * FROM holdfast.grant_terms
WHERE tenant = %(tenant)s AND grant_id = ANY(%(grant_ids)s::uuid[]);

-- revoked_of --
-- Which of some grants were revoked, even if nothing of them was left to take.
SELECT DISTINCT grant_id
FROM holdfast.entry, unnest(grant_ids) AS grant_id
WHERE tenant = %(tenant)s AND account = ANY(%(accounts)s) AND kind = 13
    AND grant_id = ANY(%(grant_ids)s::uuid[]);

-- find_operations --
-- What was answered under some idempotency keys. Each is looked up by itself: a join with the view reads all
-- operations there are.
SELECT method, idempotency_key AS key, fingerprint, answer, partition, epoch, first_seq
FROM unnest(%(methods)s::text[], %(keys)s::text[]) AS wanted (wanted_method, wanted_key)
CROSS JOIN LATERAL (
    SELECT * FROM holdfast.tenant_operation
    WHERE tenant = %(tenant)s AND method = wanted_method AND idempotency_key = wanted_key
    LIMIT 1
) AS found;

-- flushed --
-- How far the ledger is.
SELECT partition, epoch, last_seq
FROM holdfast.flush_cursor
WHERE %(partitions)s::integer[] IS NULL OR partition = ANY(%(partitions)s::integer[])
ORDER BY partition;

-- config_version --
-- The newest change of configuration.
SELECT version FROM holdfast.config_version;

-- lock_configuration --
-- Puts all changes of configuration in one order.
SELECT version FROM holdfast.config_version FOR UPDATE;

-- raise_config_version --
-- Numbers a change of configuration.
UPDATE holdfast.config_version SET version = version + 1 RETURNING version;

-- credit_types --
-- The credit types of a tenant.
SELECT code, display_name, scale FROM holdfast.credit_type
WHERE tenant = %(tenant)s
ORDER BY code;

-- every_credit_type --
-- The credit types of all tenants.
SELECT tenant, code, display_name, scale FROM holdfast.credit_type ORDER BY tenant, code;

-- create_credit_type --
-- Defines a credit type.
INSERT INTO holdfast.credit_type (tenant, code, display_name, scale, created_by)
VALUES (%(tenant)s, %(code)s, %(display_name)s, %(scale)s, %(created_by)s);

-- policies_that_may_count --
-- Of every scope the newest version that never expires, and those after it that have not expired yet.
SELECT p.* FROM holdfast.policy_audit AS p
WHERE (p.expires_at IS NULL OR p.expires_at > now())
  AND NOT EXISTS (
      SELECT FROM holdfast.policy_audit AS newer
      WHERE newer.tenant = p.tenant AND newer.scope_kind = p.scope_kind
        AND newer.scope_value = p.scope_value AND newer.version > p.version
        AND newer.expires_at IS NULL
  )
ORDER BY p.tenant, p.scope_kind, p.scope_value, p.version;

-- policy_versions --
-- The version of a scope that counts now, and the newest one.
SELECT
    coalesce(max(version) FILTER (WHERE expires_at IS NULL OR expires_at > now()), 0) AS counting,
    coalesce(max(version), 0) AS newest
FROM holdfast.policy_audit
WHERE tenant = %(tenant)s AND scope_kind = %(scope_kind)s AND scope_value = %(scope_value)s;

-- policy_change_under_key --
-- The change that was made under an idempotency key.
SELECT * FROM holdfast.policy_audit
WHERE tenant = %(tenant)s AND idempotency_key = %(idempotency_key)s;

-- set_policy --
-- Adds a version of a policy.
INSERT INTO holdfast.policy_audit (
    tenant, scope_kind, scope_value, version, version_before, mode, evaluate_percent, enforce_percent,
    store_unavailable, bound_amount, idempotency_window_ms, expires_at, changed_by, reason,
    config_version, idempotency_key, fingerprint
) VALUES (
    %(tenant)s, %(scope_kind)s, %(scope_value)s, %(version)s, %(version_before)s, %(mode)s,
    %(evaluate_percent)s, %(enforce_percent)s, %(store_unavailable)s, %(bound_amount)s,
    %(idempotency_window_ms)s, %(expires_at)s, %(changed_by)s, %(reason)s,
    %(config_version)s, %(idempotency_key)s, %(fingerprint)s
) RETURNING *;

-- policy_changes --
-- The audit trail of a tenant.
SELECT * FROM holdfast.policy_audit
WHERE tenant = %(tenant)s AND config_version < coalesce(%(before)s::bigint, 9223372036854775807)
ORDER BY config_version DESC
LIMIT %(limit)s;

-- create_deployment --
-- Fixes the number of partitions, the first time.
INSERT INTO holdfast.deployment (partitions) VALUES (%(partitions)s) ON CONFLICT DO NOTHING;

-- create_cursors --
-- Begins the first epoch of every partition.
WITH numbers AS (SELECT generate_series(0, %(partitions)s - 1) AS partition),
epochs AS (
    INSERT INTO holdfast.partition_epoch
        (partition, epoch, start_seq, home, replid, reason, fencing)
    SELECT partition, 1, 0, 1, '', 'deployment', 0 FROM numbers
)
INSERT INTO holdfast.flush_cursor (partition, epoch, last_seq, last_hash)
SELECT partition, 1, 0, %(genesis)s FROM numbers;

-- create_token_key --
-- The first key that signs hold tokens.
INSERT INTO holdfast.token_key (key_id, secret) VALUES (1, %(secret)s);

-- deployment --
-- The facts of the deployment.
SELECT partitions, created_at FROM holdfast.deployment;

-- token_keys --
-- The newest first: it signs.
SELECT key_id, secret FROM holdfast.token_key ORDER BY created_at DESC, key_id DESC;

-- lifeline --
-- Rises with every epoch that begins, and with every fencing.
SELECT
    (SELECT coalesce(sum(epoch), 0) FROM holdfast.flush_cursor)::bigint AS epochs,
    (SELECT coalesce(max(number), 0) FROM holdfast.fencing) AS fencing;

-- epochs --
-- The newest epochs of every partition, oldest first.
SELECT c.partition, p.epoch, p.start_seq, p.home
FROM holdfast.flush_cursor AS c
CROSS JOIN LATERAL (
    SELECT epoch, start_seq, home FROM holdfast.partition_epoch
    WHERE partition = c.partition AND epoch <= c.epoch
    ORDER BY epoch DESC LIMIT %(epochs_max)s
) AS p
ORDER BY c.partition, p.epoch;

-- standings --
-- Where each partition stands: how far the ledger is, in which epoch, and since when it is fenced, if it is.
SELECT
    c.partition, c.epoch, c.last_seq AS seq, p.start_seq, p.home, p.replid, p.reason,
    p.opened_at, f.number AS fencing, f.why, f.fenced_at
FROM holdfast.flush_cursor AS c
JOIN holdfast.partition_epoch AS p USING (partition, epoch)
LEFT JOIN LATERAL (
    SELECT number, why, fenced_at FROM holdfast.fencing
    WHERE number > p.fencing AND c.partition = ANY(partitions)
    ORDER BY number DESC LIMIT 1
) AS f ON true
ORDER BY c.partition;

-- fence --
-- Says that partitions are fenced from now on.
INSERT INTO holdfast.fencing (partitions, why) VALUES (%(partitions)s, %(why)s) RETURNING number;

-- acknowledge --
-- What a process has acknowledged in an epoch. It never takes anything back.
INSERT INTO holdfast.acknowledged AS a (process, role, partition, epoch, seq)
SELECT %(process)s, %(role)s, marks.*
FROM unnest(%(partitions)s::integer[], %(epochs)s::bigint[], %(seqs)s::bigint[]) AS marks
ON CONFLICT (process, role, partition, epoch) DO UPDATE SET
    seq = greatest(a.seq, excluded.seq), voted_at = now();

-- saw_fencing --
-- A process has said all that it had acknowledged before a fencing.
UPDATE holdfast.process SET fencing = greatest(fencing, %(fencing)s)
WHERE process = %(process)s AND role = %(role)s;

-- count_silent --
-- Processes that live and have not answered a fencing yet.
SELECT count(*) AS silent FROM holdfast.process
WHERE seen_at >= now() - %(silent_seconds)s * interval '1 second' AND fencing < %(fencing)s;

-- highest_acknowledged --
-- The highest sequence number that any process acknowledged in the present epoch of each partition.
SELECT a.partition, max(a.seq) AS seq
FROM holdfast.acknowledged AS a
JOIN holdfast.flush_cursor AS c ON c.partition = a.partition AND c.epoch = a.epoch
GROUP BY a.partition;

-- report_losses --
-- Whatever was acknowledged in an epoch and lies behind its end is lost. What is reported already stays.
INSERT INTO holdfast.loss_report (partition, epoch, first_seq, last_seq)
SELECT a.partition, a.epoch, ended.start_seq + 1, max(a.seq)
FROM holdfast.acknowledged AS a
CROSS JOIN LATERAL (
    SELECT start_seq FROM holdfast.partition_epoch AS later
    WHERE later.partition = a.partition AND later.epoch > a.epoch
    ORDER BY later.epoch LIMIT 1
) AS ended
WHERE a.seq > ended.start_seq
GROUP BY a.partition, a.epoch, ended.start_seq
ON CONFLICT DO NOTHING
RETURNING partition, epoch, first_seq, last_seq;

-- forget_acknowledged --
-- Forgets what was said long ago: its losses are reported.
DELETE FROM holdfast.acknowledged WHERE voted_at < now() - %(seconds)s * interval '1 second';

-- losses --
-- Every loss, as the process that knew most of it has it.
SELECT DISTINCT ON (partition, epoch) partition, epoch, first_seq, last_seq, reported_at
FROM holdfast.loss_report
ORDER BY partition, epoch, last_seq DESC;

-- lock_recovery --
-- Takes partitions for recovery, as many of them as nobody else has. Held until the session ends.
SELECT partition FROM unnest(%(partitions)s::integer[]) AS wanted (partition)
WHERE pg_try_advisory_lock(hashtext('holdfast.recovery'), partition);

-- chain_hashes --
-- The hashes of some entries, of each partition from one sequence number to another.
SELECT e.partition, e.seq, e.hash
FROM unnest(%(partitions)s::integer[], %(firsts)s::bigint[], %(lasts)s::bigint[])
    AS wanted (partition, first, last)
JOIN holdfast.entry AS e ON e.partition = wanted.partition AND e.seq BETWEEN wanted.first AND wanted.last;

-- last_event_times --
-- The newest time of each partition.
SELECT partition, last_event_time FROM holdfast.flush_cursor;

-- open_epochs --
-- Begins the next epoch of partitions whose cursors are where they are expected: compare-and-set, which
-- fences every flusher of the epoch before.
WITH expected AS (
    SELECT * FROM unnest(
        %(partitions)s::integer[], %(epochs)s::bigint[], %(seqs)s::bigint[], %(hashes)s::bytea[],
        %(next_epochs)s::bigint[], %(homes)s::bigint[], %(replids)s::text[], %(reasons)s::text[]
    ) AS e (partition, epoch, seq, hash, next_epoch, home, replid, reason)
), locked AS (
    SELECT c.partition FROM holdfast.flush_cursor AS c
    WHERE c.partition = ANY(%(partitions)s::integer[])
    ORDER BY c.partition
    FOR UPDATE
), opened AS (
    UPDATE holdfast.flush_cursor AS c SET epoch = e.next_epoch
    FROM expected AS e JOIN locked USING (partition)
    WHERE c.partition = e.partition AND c.epoch = e.epoch AND c.last_seq = e.seq AND c.last_hash = e.hash
    RETURNING c.partition, e.seq, e.next_epoch, e.home, e.replid, e.reason
)
INSERT INTO holdfast.partition_epoch (partition, epoch, start_seq, home, replid, reason, fencing)
SELECT partition, next_epoch, seq, home, replid, reason, %(fencing)s FROM opened
RETURNING partition;

-- report_process --
-- Says that a process lives.
INSERT INTO holdfast.process AS p
    (process, role, version, started_at, config_version, killed, killed_by)
VALUES (
    %(process)s, %(role)s, %(version)s, %(started_at)s, %(config_version)s, %(killed)s, %(killed_by)s
)
ON CONFLICT (process, role) DO UPDATE SET
    version = excluded.version, started_at = excluded.started_at, seen_at = now(),
    config_version = excluded.config_version, killed = excluded.killed, killed_by = excluded.killed_by;

-- forget_processes --
-- Forgets processes that have been silent for long.
DELETE FROM holdfast.process WHERE seen_at < now() - %(silent_seconds)s * interval '1 second';

-- processes --
-- Every process that reported lately.
SELECT * FROM holdfast.process
WHERE seen_at >= now() - %(silent_seconds)s * interval '1 second'
ORDER BY process, role;

-- partition_entries --
-- A partition from its first entry on, as the chain runs.
SELECT * FROM holdfast.entry WHERE partition = %(partition)s ORDER BY seq;

-- tip --
-- Where a partition ends, by what the flusher says.
SELECT partition, epoch, last_seq AS seq, last_hash AS hash FROM holdfast.flush_cursor
WHERE partition = %(partition)s;

-- tips --
-- The same for every partition.
SELECT partition, epoch, last_seq AS seq, last_hash AS hash FROM holdfast.flush_cursor;

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

-- cursors_now --
-- How far the ledger is.
SELECT partition, epoch, last_seq FROM holdfast.flush_cursor;

-- roots_of --
-- The trees of some accounts, by tenant and name.
SELECT tenant, account, a.root
FROM unnest(%(tenants)s::text[], %(accounts)s::text[]) AS wanted (tenant, account)
JOIN holdfast.account AS a USING (tenant, account);

-- entries_of_trees --
-- All entries of some trees, in order, with what a tree is rebuilt from (rows.py, `told_entry`).
SELECT
    wanted.root, e.tenant, e.account, e.credit_type, e.actor, e.partition, e.epoch, e.seq, e.first_seq, e.kind,
    e.version, e.event_time, e.mode, e.ends_hold, e.hold, e.grant_ids, e.grant_changes, e.idempotency_key,
    e.feature, e.detail, e.delta_granted, e.delta_debt, e.delta_unenforced, e.delta_available, e.delta_held,
    e.delta_burned, e.delta_expired, e.delta_revoked, e.granted, e.debt, e.unenforced, e.available, e.held,
    e.burned, e.expired, e.revoked
FROM unnest(%(tenants)s::text[], %(roots)s::text[]) AS wanted (tenant, root)
JOIN holdfast.account AS a ON a.tenant = wanted.tenant AND a.root = wanted.root
JOIN holdfast.entry AS e ON e.tenant = a.tenant AND e.account = a.account
ORDER BY e.partition, e.seq
LIMIT %(limit)s;

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

-- tree_accounts --
-- The accounts of a tree. None is ever removed, so these are at least those of any earlier moment.
WITH RECURSIVE tree AS (
    SELECT account, 1 AS level FROM holdfast.account
    WHERE tenant = %(tenant)s AND account = %(root)s
    UNION ALL
    SELECT below.account, tree.level + 1
    FROM holdfast.account AS below JOIN tree ON below.parent = tree.account
    WHERE below.tenant = %(tenant)s AND tree.level < %(levels_max)s
)
SELECT DISTINCT account FROM tree;

-- tree_sums --
-- What all entries of some accounts up to a place add up to.
SELECT
    account, credit_type, max(version) AS version,
    sum(delta_granted)::bigint AS granted, sum(delta_debt)::bigint AS debt,
    sum(delta_unenforced)::bigint AS unenforced, sum(delta_available)::bigint AS available,
    sum(delta_held)::bigint AS held, sum(delta_burned)::bigint AS burned,
    sum(delta_expired)::bigint AS expired, sum(delta_revoked)::bigint AS revoked
FROM holdfast.entry
WHERE tenant = %(tenant)s AND account = ANY(%(accounts)s)
  AND partition = %(partition)s AND seq <= %(seq)s
GROUP BY account, credit_type;

-- tree_newest --
-- The newest entry up to a place of each of some credits: it has the buckets after it.
SELECT newest.*
FROM unnest(%(accounts)s::text[], %(credit_types)s::text[]) AS wanted (account, credit_type)
CROSS JOIN LATERAL (
    SELECT
        e.account, e.credit_type, e.version, e.granted, e.debt, e.unenforced, e.available, e.held,
        e.burned, e.expired, e.revoked
    FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = wanted.account
      AND e.credit_type = wanted.credit_type AND e.seq <= %(seq)s
    ORDER BY e.event_time DESC, e.version DESC
    LIMIT 1
) AS newest;

-- tree_grants --
-- What is left of grants and held of them, by all entries up to a place.
SELECT
    account, credit_type, grant_id,
    sum(posting.remaining)::bigint AS remaining, sum(posting.held)::bigint AS held
FROM holdfast.entry AS e, holdfast.postings(e.grant_ids, e.grant_changes) AS posting
WHERE tenant = %(tenant)s AND account = ANY(%(accounts)s)
  AND partition = %(partition)s AND seq <= %(seq)s
GROUP BY account, credit_type, grant_id
HAVING sum(posting.remaining) <> 0 OR sum(posting.held) <> 0;

-- tree_holds --
-- What holds hold that were placed and not ended up to a place, and who placed them.
WITH mine AS (
    SELECT hold, account, credit_type, delta_held, kind, ends_hold, actor
    FROM holdfast.entry
    WHERE tenant = %(tenant)s AND account = ANY(%(accounts)s)
      AND partition = %(partition)s AND seq <= %(seq)s AND hold IS NOT NULL
), left_open AS (
    SELECT hold, max(actor) FILTER (WHERE kind = 3) AS placed_by
    FROM mine
    GROUP BY hold
    HAVING bool_or(kind = 3) AND max(ends_hold) = 0
)
SELECT hold, placed_by, account, credit_type, sum(delta_held)::bigint AS held
FROM mine JOIN left_open USING (hold)
GROUP BY hold, placed_by, account, credit_type;

-- recorded_seq --
-- How far the ledger is in a partition.
SELECT last_seq FROM holdfast.flush_cursor WHERE partition = %(partition)s;

-- roots --
-- A page of all trees.
SELECT tenant, root FROM holdfast.account
WHERE parent = '' AND (tenant, account) > (%(after_tenant)s, %(after_root)s)
ORDER BY tenant, account
LIMIT %(limit)s;

-- count_roots --
-- How many trees there are.
SELECT count(*) AS trees FROM holdfast.account WHERE parent = '';

-- newest_roots --
-- The trees of a partition's newest entries.
SELECT DISTINCT a.tenant, a.root
FROM (
    SELECT tenant, account FROM holdfast.entry
    WHERE partition = %(partition)s
    ORDER BY seq DESC
    LIMIT %(limit)s
) AS newest
JOIN holdfast.account AS a USING (tenant, account);

-- note_finding --
-- Keeps a figure that was not the same in both stores. The same of the same moment adds nothing.
INSERT INTO holdfast.audit_finding
    (partition, epoch, seq, tenant, account, credit_type, part, name, version, hot, ledger)
VALUES (
    %(partition)s, %(epoch)s, %(seq)s, %(tenant)s, %(account)s, %(credit_type)s, %(part)s, %(name)s,
    %(version)s, %(hot)s, %(ledger)s
)
ON CONFLICT DO NOTHING;

-- findings --
-- The newest figures that were not the same.
SELECT * FROM holdfast.audit_finding ORDER BY found_at DESC, account, credit_type, part, name
LIMIT %(limit)s;

-- checkpoint_head --
-- The newest checkpoint, and how long ago it was made.
SELECT
    number, hash, pending,
    greatest(0, extract(epoch FROM now() - made_at) * 1000)::bigint AS age_ms
FROM holdfast.checkpoint_head;

-- keep_checkpoint --
-- Compare-and-set: of all who make the next checkpoint, one gets its number.
UPDATE holdfast.checkpoint_head
SET number = %(number)s, hash = %(hash)s, pending = %(line)s, made_at = now()
WHERE number = %(number)s - 1 AND pending = '';

-- checkpoint_delivered --
-- It is kept elsewhere.
UPDATE holdfast.checkpoint_head SET pending = '' WHERE number = %(number)s;

-- entries_at --
-- The hashes at some places.
SELECT e.partition, e.seq, e.hash
FROM unnest(%(partitions)s::integer[], %(seqs)s::bigint[]) AS wanted (partition, seq)
JOIN holdfast.entry AS e USING (partition, seq);

-- rebuilt --
-- Partitions whose hot state began anew, in which epoch, and behind which number.
SELECT c.partition, p.home, h.start_seq
FROM holdfast.flush_cursor AS c
JOIN holdfast.partition_epoch AS p USING (partition, epoch)
JOIN holdfast.partition_epoch AS h ON h.partition = c.partition AND h.epoch = p.home
WHERE p.home > 1
ORDER BY c.partition;

-- given_up --
-- The homes of hot state that was given up, of each partition the oldest first, and before when.
SELECT partition, home
FROM (
    SELECT partition, home, lead(opened_at) OVER (PARTITION BY partition ORDER BY home) AS given_up_at
    FROM holdfast.partition_epoch
    WHERE home = epoch
) AS homes
WHERE given_up_at <= holdfast.instant(%(until_ms)s)
ORDER BY partition, home;

-- active_in --
-- Trees that have entries in parts of some partitions which are not older than that. Each part is limited by
-- what it can have, and the root of an account is a scalar, since a join may be planned as one reading of
-- all entries or all accounts.
SELECT DISTINCT page.partition, page.tenant, (
    SELECT a.root FROM holdfast.account AS a
    WHERE a.tenant = page.tenant AND a.account = page.account
) AS root
FROM (
    SELECT DISTINCT wanted.partition, e.tenant, e.account
    FROM unnest(%(partitions)s::integer[], %(first_seqs)s::bigint[], %(before_seqs)s::bigint[])
        AS wanted (partition, first_seq, before_seq)
    CROSS JOIN LATERAL (
        SELECT entry.tenant, entry.account FROM holdfast.entry
        WHERE entry.partition = wanted.partition
          AND entry.seq >= wanted.first_seq AND entry.seq < wanted.before_seq
          AND entry.event_time >= holdfast.instant(%(since_ms)s)
        LIMIT wanted.before_seq - wanted.first_seq
    ) AS e
) AS page
ORDER BY page.partition, page.tenant, root;

-- due_between --
-- Trees in which something may be due, by the entries of a part of a partition that placed a hold or gave
-- a grant: holds that have not ended, and grants that time has not changed since. Every entry of a tree
-- brings it to its time first, so what was due before the newest entry of a credit has been booked. Too
-- many trees and too early times do no harm; one that is missing would. What is looked up is a scalar, since
-- a join may be planned as one reading of the whole ledger for each page.
WITH page AS (
    SELECT kind, tenant, actor, hold, grant_ids, detail
    FROM holdfast.entry
    WHERE partition = %(partition)s AND seq >= %(first_seq)s AND seq < %(before_seq)s
      AND kind IN (2, 3, 11) -- GRANT, HOLD, REFUND
), holds AS (
    SELECT DISTINCT tenant, actor AS account, hold FROM page
    WHERE kind = 3 AND (
        SELECT o.first_seq FROM holdfast.tenant_operation AS o
        WHERE o.hold_ended = page.hold AND o.tenant = page.tenant
    ) IS NULL
), given AS MATERIALIZED (
    SELECT tenant, (detail ->> 'grant_id')::uuid AS grant_id FROM page WHERE kind = 2
    UNION
    SELECT tenant, unnest(grant_ids) FROM page WHERE kind = 11
), grants AS (
    SELECT given.tenant, given.grant_id, g.*
    FROM given
    CROSS JOIN LATERAL (
        SELECT terms.account, terms.credit_type, terms.granted_at, terms.effective_at, terms.expires_at
        FROM holdfast.grant_terms AS terms
        WHERE terms.tenant = given.tenant AND terms.grant_id = given.grant_id
        LIMIT 1
    ) AS g
), due AS (
    -- Whatever placed or extended it: the last counts, and the earliest is none too late.
    SELECT holds.tenant, holds.account, (
        SELECT min(e.event_time + (e.detail ->> 'ttl_ms')::bigint * interval '1 millisecond')
        FROM holdfast.entry AS e
        WHERE e.hold = holds.hold AND e.ends_hold = 0 AND (e.detail ->> 'ttl_ms')::bigint > 0
    ) AS due_at
    FROM holds
    UNION ALL
    SELECT grants.tenant, grants.account, least(
        CASE WHEN effective_at > granted_at AND effective_at >= newest.event_time THEN effective_at END,
        CASE WHEN expires_at >= newest.event_time AND newest.available > 0 THEN expires_at END
    )
    FROM grants
    CROSS JOIN LATERAL (
        SELECT e.event_time, e.available FROM holdfast.entry AS e
        WHERE e.tenant = grants.tenant AND e.account = grants.account
          AND e.credit_type = grants.credit_type
        ORDER BY e.event_time DESC, e.version DESC
        LIMIT 1
    ) AS newest
    WHERE (
        SELECT e.seq FROM holdfast.entry AS e
        WHERE e.tenant = grants.tenant AND e.account = grants.account
          AND e.credit_type = grants.credit_type AND e.event_time = grants.expires_at
          AND e.kind = 12 AND grants.grant_id = ANY(e.grant_ids) -- GRANT_EXPIRED
        LIMIT 1
    ) IS NULL
)
SELECT due.tenant, a.root, min(due.due_at) AS due_at
FROM due
CROSS JOIN LATERAL (
    SELECT account.root FROM holdfast.account
    WHERE account.tenant = due.tenant AND account.account = due.account
    LIMIT 1
) AS a
WHERE due.due_at IS NOT NULL
GROUP BY due.tenant, a.root
ORDER BY due.tenant, a.root;
