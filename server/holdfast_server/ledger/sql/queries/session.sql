-- begin_session --
-- Takes a role for the rest of the session, where it exists and may be taken. Times are told in UTC: in a
-- zone east of it the last hours of the year 9999 are of a year that the driver cannot read. Postgres looks
-- after 10 seconds of silence whether the other host still lives, in place of two hours, and gives it 15: what
-- a session has locked is nobody else's until then.
SELECT
    set_config('TimeZone', 'UTC', false),
    set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false), (
    SELECT set_config('role', rolname, false)
    FROM pg_roles
    WHERE rolname = %(role)s AND pg_has_role(rolname, 'MEMBER')
);

-- begin_reading --
-- What a reading transaction may see, and for how many milliseconds each statement may run.
SELECT
    set_config('holdfast.tenant', %(tenant)s, true),
    set_config('statement_timeout', %(limit)s, true);

-- limit_changes --
-- Ends a session that is silent in the middle of a change, which others wait behind, and a statement that takes
-- too long: its process may be gone and nobody have heard of that.
SELECT
    set_config('idle_in_transaction_session_timeout', %(silent)s, false),
    set_config('statement_timeout', %(limit)s, false);

-- limit_statements --
-- For how many milliseconds each statement of a session may run that is in no such transaction.
SELECT set_config('statement_timeout', %(limit)s, false);
