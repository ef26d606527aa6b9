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
