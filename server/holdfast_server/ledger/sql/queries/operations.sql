-- find_operation --
-- What was answered under an idempotency key.
SELECT fingerprint, answer, partition, epoch, first_seq
FROM holdfast.tenant_operation
WHERE tenant = %(tenant)s AND method = %(method)s AND idempotency_key = %(key)s;

-- hold_sums --
-- All that happened to a hold, by kind and credit type, from first to last. The entry that ends it is by itself.
-- A Commit that is not final says so in its detail; nothing follows on one that is.
SELECT
    kind, credit_type, ends_hold, min(actor) AS actor, max(partition) AS partition,
    max(epoch) AS epoch, max(first_seq) AS first_seq, max(seq) AS seq,
    sum(delta_burned)::bigint AS burned, bool_or(detail ->> 'final' IS NULL) AS is_final
FROM (
    SELECT * FROM holdfast.entry
    WHERE tenant = %(tenant)s AND hold = %(hold)s::uuid AND ends_hold = 0
    UNION ALL
    SELECT e.*
    FROM holdfast.tenant_operation AS o
    JOIN holdfast.entry AS e ON e.partition = o.partition AND e.seq = o.first_seq
    WHERE o.tenant = %(tenant)s AND o.hold_ended = %(hold)s::uuid AND e.tenant = o.tenant
) AS story
GROUP BY kind, credit_type, ends_hold
ORDER BY min(seq);

-- hold_debts --
-- The debt that a hold had booked, less what no grant paid of its Commits before a place.
SELECT account, credit_type, sum(
    CASE kind
        WHEN 3 THEN delta_debt
        ELSE (
            SELECT coalesce(sum(posting.burned), 0)
            FROM holdfast.postings(grant_ids, grant_changes) AS posting
        ) - delta_burned
    END
)::bigint AS debt
FROM holdfast.entry
WHERE tenant = %(tenant)s AND hold = %(hold)s::uuid AND ends_hold = 0
  AND (kind = 3 OR kind = 4 AND seq < %(before_seq)s)
GROUP BY account, credit_type;

-- refunded_of --
-- How much was given back of a transaction: by all of its refunds, or more would go back than was burned.
SELECT credit_type, -sum(delta_burned)::bigint AS amount
FROM holdfast.entry
WHERE tenant = %(tenant)s AND refund_of = %(refund_of)s
GROUP BY credit_type;

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
