-- find_operation --
-- What was answered under an idempotency key.
SELECT fingerprint, answer, partition, epoch, first_seq
FROM holdfast.tenant_operation
WHERE tenant = %(tenant)s AND method = %(method)s AND idempotency_key = %(key)s;

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
