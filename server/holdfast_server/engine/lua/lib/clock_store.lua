-- The store's own clock, in milliseconds. It stands still while a script runs.
local function clock_ms(header)
  local time = call("TIME")
  return time[1] * 1000 + floor(time[2] / 1000)
end
