-- config_version --
-- The newest change of configuration.
SELECT version FROM holdfast.config_version;

-- lock_configuration --
-- Puts all changes of configuration in one order.
SELECT version FROM holdfast.config_version FOR UPDATE;

-- raise_config_version --
-- Numbers a change of configuration.
UPDATE holdfast.config_version SET version = version + 1 RETURNING version;

-- credit_types --
-- The credit types of a tenant.
SELECT code, display_name, scale FROM holdfast.credit_type
WHERE tenant = %(tenant)s
ORDER BY code;

-- every_credit_type --
-- The credit types of all tenants.
SELECT tenant, code, display_name, scale FROM holdfast.credit_type ORDER BY tenant, code;

-- create_credit_type --
-- Defines a credit type.
INSERT INTO holdfast.credit_type (tenant, code, display_name, scale, created_by)
VALUES (%(tenant)s, %(code)s, %(display_name)s, %(scale)s, %(created_by)s);

-- policies_that_may_count --
-- Of every scope the newest version that never expires, and those after it that have not expired yet.
SELECT p.* FROM holdfast.policy_audit AS p
WHERE (p.expires_at IS NULL OR p.expires_at > now())
  AND NOT EXISTS (
      SELECT FROM holdfast.policy_audit AS newer
      WHERE newer.tenant = p.tenant AND newer.scope_kind = p.scope_kind
        AND newer.scope_value = p.scope_value AND newer.version > p.version
        AND newer.expires_at IS NULL
  )
ORDER BY p.tenant, p.scope_kind, p.scope_value, p.version;

-- policy_versions --
-- The version of a scope that counts now, and the newest one.
SELECT
    coalesce(max(version) FILTER (WHERE expires_at IS NULL OR expires_at > now()), 0) AS counting,
    coalesce(max(version), 0) AS newest
FROM holdfast.policy_audit
WHERE tenant = %(tenant)s AND scope_kind = %(scope_kind)s AND scope_value = %(scope_value)s;

-- policy_change_under_key --
-- The change that was made under an idempotency key.
SELECT * FROM holdfast.policy_audit
WHERE tenant = %(tenant)s AND idempotency_key = %(idempotency_key)s;

-- set_policy --
-- Adds a version of a policy.
INSERT INTO holdfast.policy_audit (
    tenant, scope_kind, scope_value, version, version_before, mode, evaluate_percent, enforce_percent,
    store_unavailable, bound_amount, idempotency_window_ms, expires_at, changed_by, reason,
    config_version, idempotency_key, fingerprint
) VALUES (
    %(tenant)s, %(scope_kind)s, %(scope_value)s, %(version)s, %(version_before)s, %(mode)s,
    %(evaluate_percent)s, %(enforce_percent)s, %(store_unavailable)s, %(bound_amount)s,
    %(idempotency_window_ms)s, %(expires_at)s, %(changed_by)s, %(reason)s,
    %(config_version)s, %(idempotency_key)s, %(fingerprint)s
) RETURNING *;

-- policy_changes --
-- The audit trail of a tenant, with that of the global policy.
SELECT * FROM holdfast.policy_audit
WHERE tenant IN (%(tenant)s, '') AND config_version < coalesce(%(before)s::bigint, 9223372036854775807)
ORDER BY config_version DESC
LIMIT %(limit)s;
