#!lua
-- The floor of scripts: takes ARGV[1] from every key and does nothing else.
--
-- KEYS: any number of counters. Answers how many they were.
for i = 1, #KEYS do
  redis.call("DECRBY", KEYS[i], ARGV[1])
end
return #KEYS
