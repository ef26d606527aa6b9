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
