-- step_down --
-- Takes a role for the rest of the session, where it exists and may be taken.
SELECT set_config('role', rolname, false)
FROM pg_roles
WHERE rolname = %(role)s AND pg_has_role(rolname, 'MEMBER');

-- begin_reading --
-- What a reading transaction may see, and for how many milliseconds each statement may run.
SELECT
    set_config('holdfast.tenant', %(tenant)s, true),
    set_config('statement_timeout', %(limit)s, true);

-- limit_statements --
-- For how many milliseconds each statement of a session may run that is in no such transaction.
SELECT set_config('statement_timeout', %(limit)s, false);
