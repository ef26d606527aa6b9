-- The store's own clock, in milliseconds. It stands still while a script runs.
-- The header says what the caller expects it to show (engine/store_clock.py), 0 where it does not know. A
-- clock that is further ahead than any drift explains has jumped: then time goes on as if it had not, so
-- that nothing ends before its time.
local function clock_ms(header)
  if not header.now_ms then
    local time, expected = call("TIME"), header[4]
    local store_ms = time[1] * 1000 + floor(time[2] / 1000)
    local has_jumped = expected > 0 and store_ms - expected > CLOCK_JUMP_MS
    header.now_ms = has_jumped and expected or store_ms
  end
  return header.now_ms
end
