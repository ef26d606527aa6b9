-- cursors_now --
-- How far the ledger is.
SELECT partition, epoch, last_seq FROM holdfast.flush_cursor;

-- roots_of --
-- The trees of some accounts, by tenant and name.
SELECT tenant, account, a.root
FROM unnest(%(tenants)s::text[], %(accounts)s::text[]) AS wanted (tenant, account)
JOIN holdfast.account AS a USING (tenant, account);

-- prefer_indexes --
-- An account is guessed to have its share of each month. Where few accounts have nearly all of one, that is a
-- reading of the whole month for whatever account.
SELECT set_config('enable_seqscan', 'off', true);

-- entries_of_trees --
-- All entries of some trees, tree by tree, with what a tree is rebuilt from (rows.py, `told_entry`). The
-- entries of each are in order. `OFFSET 0` keeps each account's apart, since a join may be planned as one
-- reading of the whole ledger.
SELECT wanted.number, told.*
FROM unnest(%(tenants)s::text[], %(roots)s::text[]) WITH ORDINALITY AS wanted (tenant, root, number)
CROSS JOIN LATERAL (
    SELECT
        e.tenant, e.account, e.credit_type, e.actor, e.partition, e.epoch, e.seq, e.first_seq, e.kind, e.version,
        e.event_time, e.mode, e.ends_hold, e.hold, e.grant_ids, e.grant_changes, e.idempotency_key, e.feature,
        e.detail, e.delta_granted, e.delta_debt, e.delta_unenforced, e.delta_available, e.delta_held,
        e.delta_burned, e.delta_expired, e.delta_revoked, e.granted, e.debt, e.unenforced, e.available, e.held,
        e.burned, e.expired, e.revoked
    FROM holdfast.account AS a
    CROSS JOIN LATERAL (
        SELECT * FROM holdfast.entry AS entry
        WHERE entry.tenant = wanted.tenant AND entry.account = a.account
        OFFSET 0
    ) AS e
    WHERE a.tenant = wanted.tenant AND a.root = wanted.root
    ORDER BY e.seq
) AS told;

-- entries_behind --
-- The same of the first entries behind a place of each tree, up to a number. Times never fall within a tree,
-- so the index by time finds them, for each credit type of each account. The types are found one by one in
-- the same index, since what an account has of them would else be read from its first entry on. Of each as
-- many are read as are wanted, by time: the first of all by number are among those. The sums keep the index
-- by number out of it, which would be searched through all partitions.
SELECT wanted.number, told.*
FROM unnest(%(tenants)s::text[], %(roots)s::text[], %(seqs)s::bigint[], %(times_ms)s::bigint[])
    WITH ORDINALITY AS wanted (tenant, root, seq, time_ms, number)
CROSS JOIN LATERAL (
    WITH RECURSIVE credits AS (
        SELECT a.account, (
            SELECT e.credit_type FROM holdfast.entry AS e
            WHERE e.account = a.account AND e.tenant = wanted.tenant
            ORDER BY e.credit_type LIMIT 1
        ) AS credit_type
        FROM holdfast.account AS a
        WHERE a.tenant = wanted.tenant AND a.root = wanted.root
        UNION ALL
        SELECT c.account, (
            SELECT e.credit_type FROM holdfast.entry AS e
            WHERE e.account = c.account AND e.tenant = wanted.tenant AND e.credit_type > c.credit_type
            ORDER BY e.credit_type LIMIT 1
        )
        FROM credits AS c
        WHERE c.credit_type IS NOT NULL
    )
    SELECT
        e.tenant, e.account, e.credit_type, e.actor, e.partition, e.epoch, e.seq, e.first_seq, e.kind, e.version,
        e.event_time, e.mode, e.ends_hold, e.hold, e.grant_ids, e.grant_changes, e.idempotency_key, e.feature,
        e.detail, e.delta_granted, e.delta_debt, e.delta_unenforced, e.delta_available, e.delta_held,
        e.delta_burned, e.delta_expired, e.delta_revoked, e.granted, e.debt, e.unenforced, e.available, e.held,
        e.burned, e.expired, e.revoked
    FROM credits AS c
    CROSS JOIN LATERAL (
        SELECT * FROM holdfast.entry AS entry
        WHERE entry.tenant = wanted.tenant AND entry.account = c.account
          AND entry.credit_type = c.credit_type
          AND entry.event_time >= holdfast.instant(wanted.time_ms)
          AND entry.seq + 0 > wanted.seq AND entry.seq + 0 <= %(until)s
        ORDER BY entry.event_time
        FETCH FIRST %(limit)s ROWS WITH TIES
    ) AS e
    ORDER BY e.seq
    LIMIT %(limit)s
) AS told;

-- snapshots_of --
-- The snapshots of some trees, and whether the ledger has the entry that each ends with.
SELECT s.*, EXISTS (
    SELECT FROM holdfast.entry AS e
    WHERE e.partition = s.partition AND e.seq = s.seq AND e.epoch = s.epoch AND e.tenant = s.tenant
) AS is_recorded
FROM unnest(%(tenants)s::text[], %(roots)s::text[]) AS wanted (tenant, root)
JOIN holdfast.tree_snapshot AS s USING (tenant, root);

-- snapshot_behind --
-- The first snapshot behind a digest that stands for so many entries at most.
SELECT * FROM holdfast.tree_snapshot
WHERE sha256 > %(behind)s AND entries <= %(entries_max)s
ORDER BY sha256
LIMIT 1;

-- snapshots_in --
-- The snapshots of a partition's trees, read beside all of its entries.
SELECT * FROM holdfast.tree_snapshot WHERE partition = %(partition)s;

-- roots_at --
-- The trees of some entries. What is looked up is limited and a scalar, since a join may be planned as one
-- reading of all entries or all accounts.
SELECT DISTINCT e.tenant, (
    SELECT a.root FROM holdfast.account AS a
    WHERE a.tenant = e.tenant AND a.account = e.account
) AS root
FROM unnest(%(partitions)s::integer[], %(seqs)s::bigint[]) AS wanted (partition, seq)
CROSS JOIN LATERAL (
    SELECT entry.tenant, entry.account FROM holdfast.entry
    WHERE entry.partition = wanted.partition AND entry.seq = wanted.seq
    LIMIT 1
) AS e;

-- save_snapshot --
-- Keeps a snapshot. It never takes the place of one that goes further, unless nobody here can read that.
INSERT INTO holdfast.tree_snapshot AS s
    (tenant, root, partition, epoch, seq, event_time, entries, layout, state, sha256)
VALUES (
    %(tenant)s, %(root)s, %(partition)s, %(epoch)s, %(seq)s, holdfast.instant(%(event_ms)s), %(entries)s,
    %(layout)s, %(state)s, %(sha256)s
)
ON CONFLICT (tenant, root) DO UPDATE SET
    partition = excluded.partition, epoch = excluded.epoch, seq = excluded.seq,
    event_time = excluded.event_time, entries = excluded.entries, layout = excluded.layout,
    state = excluded.state, sha256 = excluded.sha256, made_at = now()
WHERE excluded.seq > s.seq OR excluded.layout <> s.layout;

-- drop_snapshot --
-- Removes a snapshot that must not be used, unless another has taken its place.
DELETE FROM holdfast.tree_snapshot WHERE tenant = %(tenant)s AND root = %(root)s AND sha256 = %(sha256)s;

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
