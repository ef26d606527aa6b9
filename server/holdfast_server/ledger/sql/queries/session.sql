-- begin_session --
-- Takes a role for the rest of the session, where it exists and may be taken. Times are told in UTC: in a
-- zone east of it the last hours of the year 9999 are of a year that the driver cannot read.
SELECT set_config('TimeZone', 'UTC', false), (
    SELECT set_config('role', rolname, false)
    FROM pg_roles
    WHERE rolname = %(role)s AND pg_has_role(rolname, 'MEMBER')
);

-- begin_reading --
-- What a reading transaction may see, and for how many milliseconds each statement may run.
SELECT
    set_config('holdfast.tenant', %(tenant)s, true),
    set_config('statement_timeout', %(limit)s, true);

-- limit_statements --
-- For how many milliseconds each statement of a session may run that is in no such transaction.
SELECT set_config('statement_timeout', %(limit)s, false);
