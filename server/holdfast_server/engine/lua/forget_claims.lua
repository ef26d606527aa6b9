#!lua flags=allow-oom
-- Says that claims made before a time may be missing: older keys have to be looked up in the ledger.
--
-- KEYS: those of one claim shard (lib/claims.lua).
-- ARGV[1]  the time (ms)
redis.call("HSET", KEYS[1], "m", ARGV[1])
redis.call("HSET", KEYS[2], "m", ARGV[1])
return 1
