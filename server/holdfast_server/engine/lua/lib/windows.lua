-- Limits: which window an instant lies in, what is used of it, and when it frees (twin: windows.py).

local DAY_MS = 86400000

function windows.applies(limit, feature, credit_type)
  if limit[L_FEATURE] ~= "" and limit[L_FEATURE] ~= feature then
    return false
  end
  if limit[L_UNIT] == UNIT_REQUESTS then
    return credit_type == ""
  end
  return credit_type ~= "" and limit[L_CREDIT_TYPE] == credit_type
end

-- `offsets` are [from_ms, offset_ms] pairs, rising.
function windows.offset_at(offsets, instant_ms)
  local offset = 0
  for _, pair in ipairs(offsets) do
    if pair[1] <= instant_ms then
      offset = pair[2]
    end
  end
  return offset
end

-- The month, counted from year 0, of a day counted from 1970-01-01 (proleptic Gregorian).
function windows.month_of_day(day)
  local shifted = day + 719468
  local era = floor(shifted / 146097)
  local day_of_era = shifted - era * 146097
  local year_of_era = floor((day_of_era - floor(day_of_era / 1460) + floor(day_of_era / 36524) - floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + floor(year_of_era / 4) - floor(year_of_era / 100))
  local march_month = floor((5 * day_of_year + 2) / 153)
  return (year_of_era + era * 400) * 12 + march_month + 2
end

function windows.first_day_of_month(month)
  local year = floor((month - 2) / 12)
  local march_month = month - 2 - year * 12
  local era = floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = floor((153 * march_month + 2) / 5)
  local day_of_era = year_of_era * 365 + floor(year_of_era / 4) - floor(year_of_era / 100) + day_of_year
  return era * 146097 + day_of_era - 719468
end

-- A tenth of a sliding window, rounded up: with the one that now lies in aside, ten slices cover all of it.
function windows.slice_ms(limit)
  return ceil_div(limit[L_WINDOW_MS], SLIDING_SLICES)
end

-- The number of the window or slice that an instant lies in; for a burst bucket the instant itself.
function windows.window_at(limit, offsets, now)
  local window = limit[L_WINDOW]
  if window == WINDOW_BURST then
    return now
  elseif window == WINDOW_SLIDING then
    return floor(now / windows.slice_ms(limit))
  end
  local day = floor((now + windows.offset_at(offsets, now)) / DAY_MS)
  return window == WINDOW_DAY and day or windows.month_of_day(day)
end

function windows.calendar_end_ms(limit, offsets, now)
  local window = windows.window_at(limit, offsets, now)
  local day = limit[L_WINDOW] == WINDOW_DAY and window + 1 or windows.first_day_of_month(window + 1)
  local local_ms = day * DAY_MS
  local ends = local_ms - windows.offset_at(offsets, now)
  -- A zone may skip its midnight: then the day ends with the change.
  for _, pair in ipairs(offsets) do
    if now < pair[1] and pair[1] <= ends then
      ends = max(pair[1], local_ms - pair[2])
    end
  end
  return ends
end

-- Forgets what has left the window.
function windows.settle(limit, offsets, now)
  if limit[L_WINDOW] == WINDOW_BURST then
    limit[L_LEVEL] = max(0, limit[L_LEVEL] - (now - limit[L_LEVEL_MS]) * limit[L_MAXIMUM])
    limit[L_LEVEL_MS] = now
    return
  end
  local window = windows.window_at(limit, offsets, now)
  local oldest = limit[L_WINDOW] == WINDOW_SLIDING and window - SLIDING_SLICES or window
  local used, kept = limit[L_USED], {}
  for i = 1, #used, 2 do
    if used[i] >= oldest then
      kept[#kept + 1], kept[#kept + 2] = used[i], used[i + 1]
    end
  end
  limit[L_USED] = kept
end

-- What is used, after `settle`. A burst bucket counts a part of a unit as one.
function windows.used(limit)
  if limit[L_WINDOW] == WINDOW_BURST then
    return ceil_div(limit[L_LEVEL], limit[L_WINDOW_MS])
  end
  local total = 0
  for i = 2, #limit[L_USED], 2 do
    total = total + limit[L_USED][i]
  end
  return min(AMOUNT_MAX, total)
end

function windows.remaining(limit)
  return max(0, limit[L_MAXIMUM] - windows.used(limit))
end

-- Answers how much of `amount` may be given back one day.
function windows.count(limit, window, amount)
  if limit[L_WINDOW] == WINDOW_BURST then
    -- Use beyond a second window is forgotten: one commit beyond all measure does not deny for ever.
    local before, most = limit[L_LEVEL], min(AMOUNT_MAX, 2 * limit[L_MAXIMUM] * limit[L_WINDOW_MS])
    limit[L_LEVEL] = max(before, min(most, before + amount * limit[L_WINDOW_MS]))
    return floor_div(limit[L_LEVEL] - before, limit[L_WINDOW_MS])
  end
  local used = limit[L_USED]
  for i = 1, #used, 2 do
    if used[i] == window then
      used[i + 1] = min(AMOUNT_MAX, used[i + 1] + amount)
      return amount
    end
  end
  used[#used + 1], used[#used + 2] = window, amount
  return amount
end

-- Takes an amount back from the window it was counted in, if that is still remembered. From a burst
-- bucket only what cannot have drained since it was counted.
function windows.give_back(limit, window, amount, now)
  if limit[L_WINDOW] == WINDOW_BURST then
    local left = min(AMOUNT_MAX, amount * limit[L_WINDOW_MS]) - (now - window) * limit[L_MAXIMUM]
    limit[L_LEVEL] = max(0, limit[L_LEVEL] - max(0, left))
    return
  end
  local used = limit[L_USED]
  for i = 1, #used, 2 do
    if used[i] == window then
      used[i + 1] = max(0, used[i + 1] - amount)
    end
  end
end

-- When all of the present use will have left, after `settle`.
function windows.resets_at_ms(limit, offsets, now)
  if limit[L_WINDOW] == WINDOW_BURST then
    return now + ceil_div(limit[L_LEVEL], limit[L_MAXIMUM])
  elseif limit[L_WINDOW] ~= WINDOW_SLIDING then
    return windows.calendar_end_ms(limit, offsets, now)
  end
  local newest = -1
  for i = 1, #limit[L_USED], 2 do
    if limit[L_USED][i + 1] > 0 then
      newest = max(newest, limit[L_USED][i])
    end
  end
  return newest < 0 and now or (newest + SLIDING_SLICES + 1) * windows.slice_ms(limit)
end

local function sliding_retry_ms(limit, now, amount)
  local slices = {}
  for i = 1, #limit[L_USED], 2 do
    insert(slices, { limit[L_USED][i], limit[L_USED][i + 1] })
  end
  table.sort(slices, function(a, b)
    return a[1] < b[1]
  end)
  local used = windows.used(limit)
  for _, slice in ipairs(slices) do
    used = used - slice[2]
    if used + amount <= limit[L_MAXIMUM] then
      return (slice[1] + SLIDING_SLICES + 1) * windows.slice_ms(limit) - now
    end
  end
  return 0
end

-- After how long `amount` could fit; 0 when it never does.
function windows.retry_after_ms(limit, offsets, now, amount)
  if amount > limit[L_MAXIMUM] then
    return 0
  elseif limit[L_WINDOW] == WINDOW_BURST then
    return ceil_div(limit[L_LEVEL] - (limit[L_MAXIMUM] - amount) * limit[L_WINDOW_MS], limit[L_MAXIMUM])
  elseif limit[L_WINDOW] == WINDOW_SLIDING then
    return sliding_retry_ms(limit, now, amount)
  end
  return windows.calendar_end_ms(limit, offsets, now) - now
end
