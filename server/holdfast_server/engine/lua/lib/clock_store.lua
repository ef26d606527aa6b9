-- The store's own clock, in milliseconds. It stands still while a script runs.
local store_ms
local function clock_ms()
  if not store_ms then
    local time = call("TIME")
    store_ms = time[1] * 1000 + floor(time[2] / 1000)
  end
  return store_ms
end
