-- What `holdfast doctor` looks at: settings that decide whether a commit lasts, the roles that the
-- schema makes and whether we may step down to them, and how much room there is for connections.
SELECT
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_version') AS version,
    current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('max_connections')::integer AS connections_max,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer
        AS connections,
    pg_is_in_recovery() AS in_recovery,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
    ARRAY(SELECT rolname::text FROM pg_roles
          WHERE rolname IN ('holdfast_owner', 'holdfast_flusher', 'holdfast_reader', 'holdfast_control')
          AND pg_has_role(current_user, oid, 'MEMBER')) AS roles,
    -- Rows of append-only tables that were changed or deleted since statistics began.
    (SELECT coalesce(sum(n_tup_upd + n_tup_del), 0) FROM pg_stat_user_tables
     WHERE relid IN (SELECT tgrelid FROM pg_trigger WHERE tgname = 'refuse_row_change'))::bigint
        AS rewritten,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
