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
-- The facts of the deployment, and what the ledger's clock shows.
SELECT partitions, created_at, clock_timestamp() AS read_at FROM holdfast.deployment;

-- token_keys --
-- The newest first: it signs.
SELECT key_id, secret FROM holdfast.token_key ORDER BY created_at DESC, key_id DESC;

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
