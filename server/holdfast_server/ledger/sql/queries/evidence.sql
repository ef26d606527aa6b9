-- partition_entries --
-- A partition from its first entry on, as the chain runs, and where a list begins that Postgres adds up by
-- its places: the driver does not tell.
SELECT *, coalesce(array_lower(grant_changes, 1), 1) AS changes_begin
FROM holdfast.entry WHERE partition = %(partition)s ORDER BY seq;

-- partitions --
-- Those that have entries, found by stepping over the index.
WITH RECURSIVE found AS (
    SELECT min(e.partition) AS partition FROM holdfast.entry AS e
    UNION ALL
    SELECT (SELECT min(e.partition) FROM holdfast.entry AS e WHERE e.partition > found.partition)
    FROM found
    WHERE found.partition IS NOT NULL
)
SELECT partition FROM found WHERE partition IS NOT NULL;

-- unprotected --
-- What nothing protects from being applied again, although it was asked for under a key that is kept for ever
-- (a Reserve's is not) or ended a hold: how much, and the first. That there is an answer is looked at, and not
-- what it says. Each row is looked up by itself: a join with the view reads all operations there are.
SELECT count(*) AS operations, min(e.seq) AS first
FROM (
    SELECT
        seq, tenant, partition, epoch, first_seq, fingerprint, fingerprint <> '' AS answered,
        CASE WHEN ends_hold <> 0 THEN hold END AS hold_ended,
        CASE WHEN fingerprint <> '' THEN method ELSE 'Expire' END AS method,
        CASE WHEN fingerprint <> '' THEN idempotency_key ELSE replace(hold::text, '-', '') END AS key
    FROM holdfast.entry
    WHERE partition = %(partition)s
      AND (ends_hold <> 0 OR seq = first_seq AND kind <> 3 AND fingerprint <> '')
) AS e
LEFT JOIN LATERAL (
    SELECT * FROM holdfast.tenant_operation AS known
    WHERE known.idempotency_key = e.key AND known.tenant = e.tenant AND known.method = e.method
    LIMIT 1
) AS o ON true
WHERE (o.partition, o.epoch, o.first_seq, o.fingerprint, o.hold_ended, o.answer <> '')
    IS DISTINCT FROM (e.partition, e.epoch, e.first_seq, e.fingerprint, e.hold_ended, e.answered);

-- operations_of_nothing --
-- What is kept from being applied although no entry did it. All operations there are are read once, in an order
-- that suits Postgres; what one is about is compared where the entry is known (`unprotected`).
SELECT o.partition, o.first_seq AS seq, o.tenant, o.method, o.idempotency_key AS name
FROM holdfast.tenant_operation AS o
LEFT JOIN holdfast.entry AS e ON e.partition = o.partition AND e.seq = o.first_seq
WHERE (%(partitions)s::integer[] IS NULL OR o.partition = ANY(%(partitions)s::integer[]))
  AND (
      e.seq = e.first_seq AND e.epoch = o.epoch AND e.tenant = o.tenant
      AND CASE
          WHEN e.fingerprint <> '' THEN
              e.kind <> 3 AND e.method = o.method AND e.idempotency_key = o.idempotency_key
          ELSE
              e.ends_hold <> 0 AND o.method = 'Expire'
              AND o.idempotency_key = replace(e.hold::text, '-', '')
      END
  ) IS NOT TRUE
ORDER BY o.partition, o.first_seq, o.idempotency_key
LIMIT %(limit)s;

-- grants_of_nothing --
-- Terms of grants that no entry gave: neither a GRANT, the first of its transaction, nor a REFUND anywhere in it.
SELECT g.partition, g.first_seq AS seq, g.tenant, replace(g.grant_id::text, '-', '') AS name
FROM holdfast.grant_terms AS g
WHERE (%(partitions)s::integer[] IS NULL OR g.partition = ANY(%(partitions)s::integer[]))
  AND NOT EXISTS (
      SELECT FROM holdfast.entry AS e
      WHERE e.partition = g.partition AND e.seq = g.first_seq AND e.tenant = g.tenant
        AND e.kind = 2 AND e.detail ->> 'grant_id' = replace(g.grant_id::text, '-', '')
  )
  AND NOT EXISTS (
      SELECT FROM holdfast.entry AS e
      WHERE e.partition = g.partition AND e.first_seq = g.first_seq AND e.tenant = g.tenant
        AND e.seq BETWEEN g.first_seq AND g.first_seq + %(transaction_max)s
        AND e.kind = 11 AND g.grant_id = ANY(e.grant_ids)
  )
ORDER BY g.partition, g.first_seq, g.grant_id
LIMIT %(limit)s;

-- accounts_of_nothing --
-- Accounts that no entry made.
SELECT a.partition, 0::bigint AS seq, a.tenant, a.account AS name
FROM holdfast.account AS a
WHERE (%(partitions)s::integer[] IS NULL OR a.partition = ANY(%(partitions)s::integer[]))
  AND NOT EXISTS (
      SELECT FROM holdfast.entry AS e
      WHERE e.account = a.account AND e.tenant = a.tenant AND e.credit_type = ''
        AND e.partition = a.partition AND e.kind = 1
  )
ORDER BY a.partition, a.tenant, a.account
LIMIT %(limit)s;

-- grants_named --
-- The terms of some grants, as they are read. Each is looked up by itself: a join may read all there are.
SELECT found.*
FROM unnest(%(tenants)s::text[], %(names)s::uuid[]) AS wanted (tenant, name)
CROSS JOIN LATERAL (
    SELECT * FROM holdfast.grant_terms AS g
    WHERE g.tenant = wanted.tenant AND g.grant_id = wanted.name
    LIMIT 1
) AS found;

-- accounts_named --
-- The same of accounts.
SELECT found.*
FROM unnest(%(tenants)s::text[], %(names)s::text[]) AS wanted (tenant, name)
CROSS JOIN LATERAL (
    SELECT * FROM holdfast.account AS a
    WHERE a.tenant = wanted.tenant AND a.account = wanted.name
    LIMIT 1
) AS found;

-- tip --
-- Where a partition ends, by what the flusher says.
SELECT partition, epoch, last_seq AS seq, last_hash AS hash FROM holdfast.flush_cursor
WHERE partition = %(partition)s;

-- tips --
-- The same for every partition.
SELECT partition, epoch, last_seq AS seq, last_hash AS hash FROM holdfast.flush_cursor;

-- tree_accounts --
-- The accounts of a tree. None is ever removed, so these are at least those of any earlier moment.
SELECT account FROM holdfast.account WHERE tenant = %(tenant)s AND root = %(root)s;

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
-- Compare-and-set: of all who make the next checkpoint, one gets its number. Whoever does has delivered
-- the one before, also where this database has lost that.
UPDATE holdfast.checkpoint_head
SET number = %(number)s, hash = %(hash)s, pending = %(line)s, made_at = now()
WHERE number < %(number)s;

-- checkpoint_delivered --
-- It is kept elsewhere.
UPDATE holdfast.checkpoint_head SET pending = '' WHERE number = %(number)s;

-- entries_at --
-- The hashes at some places.
SELECT e.partition, e.seq, e.hash
FROM unnest(%(partitions)s::integer[], %(seqs)s::bigint[]) AS wanted (partition, seq)
JOIN holdfast.entry AS e USING (partition, seq);
