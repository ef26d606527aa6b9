-- The store's own clock, in milliseconds. It stands still while a script runs.
-- The header says what the caller expects it to show (engine/store_clock.py), 0 where it does not know. A
-- clock that is further ahead than any drift explains has jumped: then time goes on as if it had not, so
-- that nothing ends before its time.
local store_ms
local function clock_ms(header)
  if not store_ms then
    local time, expected = call("TIME"), header[4]
    store_ms = time[1] * 1000 + floor(time[2] / 1000)
    if expected > 0 and store_ms - expected > CLOCK_JUMP_MS then
      store_ms = expected
    end
  end
  return store_ms
end
