-- Trees come back from a snapshot and the entries behind it.
--
-- Contract: what schema.sql says of holdfast.tree_snapshot, for a ledger that was made without it. The
-- code before it does not know the table.

-- The newest snapshot of a tree: its state after the entry at `seq`, as domain/rebuild writes it down.
-- Derived from entries alone and read so that their fold need not begin at the first: rows may be deleted
-- at any time. One whose entry is not in the ledger, or that is not what its digest says, is not used.
CREATE TABLE holdfast.tree_snapshot (
    tenant text COLLATE "C" NOT NULL,
    root text COLLATE "C" NOT NULL,
    partition integer NOT NULL CHECK (partition >= 0),
    epoch bigint NOT NULL CHECK (epoch >= 1),
    seq bigint NOT NULL CHECK (seq >= 1),
    event_time timestamptz NOT NULL,
    -- How many entries it stands for.
    entries bigint NOT NULL CHECK (entries >= 1),
    layout integer NOT NULL,
    state bytea NOT NULL,
    -- Over all of the above, the time of the last entry in milliseconds.
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, root)
);
-- Digests are as good as random: whoever wants any snapshot takes the one behind any bytes.
CREATE INDEX tree_snapshot_sample ON holdfast.tree_snapshot (sha256);

ALTER TABLE holdfast.tree_snapshot ENABLE ROW LEVEL SECURITY;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_owner'
                   AND pg_has_role(rolname, 'MEMBER')) THEN
        RETURN;
    END IF;
    GRANT SELECT ON holdfast.tree_snapshot TO holdfast_reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON holdfast.tree_snapshot TO holdfast_control;
    CREATE POLICY tenant_reads ON holdfast.tree_snapshot FOR SELECT TO holdfast_reader
        USING (tenant = current_setting('holdfast.tenant', true)
               OR current_setting('holdfast.tenant', true) = '*');
    CREATE POLICY control_writes ON holdfast.tree_snapshot TO holdfast_control USING (true) WITH CHECK (true);
    ALTER TABLE holdfast.tree_snapshot OWNER TO holdfast_owner;
END
$$;
