#!lua name=LIBRARY_NAME
-- What a script with `--- @each_call` becomes (engine/scripts.py): functions that stay in the server.
--
-- KEYS and ARGV of a function: those of the script. It may only look at the server's commands and
-- libraries while it runs, so its definitions are made by the first call. What a call leaves in their
-- tables is there in the next one: each call begins by forgetting it.
-- The second function decides although the store is out of memory; nothing else differs.
local KEYS, ARGV, run

local function define()
--- @definitions
return function()
--- @each_call
end
end

local function decide(keys, arguments)
  KEYS, ARGV = keys, arguments
  run = run or define()
  return run()
end

redis.register_function("LIBRARY_NAME", decide)
redis.register_function({
  function_name = "LIBRARY_NAME_beyond_memory",
  callback = decide,
  flags = { "allow-oom" },
})
