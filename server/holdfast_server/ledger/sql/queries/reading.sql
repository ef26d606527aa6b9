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
-- The entries of a transaction stand next to each other in the order of their partition: one is found after
-- the other, and nothing behind the last is read.
WITH RECURSIVE told AS (
    SELECT * FROM holdfast.entry
    WHERE tenant = %(tenant)s AND partition = %(partition)s AND epoch = %(epoch)s
      AND seq = %(first_seq)s AND first_seq = seq
    UNION ALL
    SELECT following.*
    FROM told
    CROSS JOIN LATERAL (
        SELECT e.* FROM holdfast.entry AS e
        WHERE e.partition = %(partition)s AND e.seq = told.seq + 1 AND e.seq < %(end_seq)s
          AND e.tenant = %(tenant)s AND e.epoch = %(epoch)s AND e.first_seq = %(first_seq)s
        LIMIT 1
    ) AS following
)
SELECT * FROM told ORDER BY seq;

-- hold_entries --
-- What happened to a hold, newest first.
SELECT * FROM holdfast.entry
WHERE tenant = %(tenant)s AND hold = %(hold)s::uuid AND ends_hold = 0
UNION ALL
SELECT e.*
FROM holdfast.tenant_operation AS o
JOIN holdfast.entry AS e ON e.partition = o.partition AND e.seq = o.first_seq
WHERE o.tenant = %(tenant)s AND o.hold_ended = %(hold)s::uuid AND e.tenant = o.tenant
ORDER BY partition DESC, seq DESC
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
-- A page of an account's grants, newest first.
SELECT * FROM holdfast.grant_terms
WHERE tenant = %(tenant)s AND account = %(account)s
  AND (%(credit_type)s::text IS NULL OR credit_type = %(credit_type)s)
  AND (
      %(before_ms)s::bigint IS NULL
      OR (granted_at, grant_id) < (holdfast.instant(%(before_ms)s::bigint), %(before_id)s::uuid)
  )
ORDER BY granted_at DESC, grant_id DESC
LIMIT %(limit)s;

-- count_entries --
-- How many entries some credit types of an account have: their versions have no gaps.
SELECT coalesce(sum(newest.version), 0)::bigint AS entries
FROM unnest(%(credit_types)s::text[]) AS wanted (credit_type)
CROSS JOIN LATERAL (
    SELECT e.version FROM holdfast.entry AS e
    WHERE e.tenant = %(tenant)s AND e.account = %(account)s AND e.credit_type = wanted.credit_type
    ORDER BY e.event_time DESC, e.version DESC
    LIMIT 1
) AS newest;

-- grants_behind --
-- What the entries behind a place changed of what is left of some grants and held of them. Times never fall
-- within an account, so the index by time finds them; the sum keeps the index by number out of it.
SELECT
    posting.grant_id,
    sum(posting.remaining)::bigint AS remaining,
    sum(posting.held)::bigint AS held
FROM holdfast.entry AS e, holdfast.postings(e.grant_ids, e.grant_changes) AS posting
WHERE e.tenant = %(tenant)s AND e.account = %(account)s
  AND e.credit_type = ANY(%(credit_types)s::text[])
  AND e.event_time >= holdfast.instant(%(behind_ms)s) AND e.seq + 0 > %(behind_seq)s
  AND posting.grant_id = ANY(%(grant_ids)s::uuid[])
GROUP BY posting.grant_id;

-- grants_ended --
-- What was lost of some grants, ever: entries that say so are few, and have an index of their own.
SELECT
    posting.grant_id,
    sum(posting.expired)::bigint AS expired,
    sum(posting.revoked)::bigint AS revoked
FROM holdfast.entry AS e, holdfast.postings(e.grant_ids, e.grant_changes) AS posting
WHERE e.tenant = %(tenant)s AND e.account = %(account)s
  AND e.credit_type = ANY(%(credit_types)s::text[])
  AND (e.delta_expired <> 0 OR e.delta_revoked <> 0)
  AND posting.grant_id = ANY(%(grant_ids)s::uuid[])
GROUP BY posting.grant_id;
