-- Judges limits on an account and everything above it, counts use, and warns (twin: limits.py).
-- A path is a list of account ids, the acting account first.

local BALANCE_WARN_PERCENTS = { 80, 95 }

local function settle_limits(limited, account, state, now)
  local of_account = trees.limits(state)
  for i = 1, #of_account do
    local limit, n = of_account[i], #limited
    windows.settle(limit, trees.offsets(state), now)
    limited[n + 1], limited[n + 2], limited[n + 3] = account, state, limit
  end
end

-- Brings the limits of a path to the present and lists them, as [account, state, limit, ...]. What
-- follows takes this list: where nothing is limited it is empty, and nothing needs to be asked of it.
function limits.settle(tree, path, now)
  local limited = NONE
  for i = 1, #path do
    local account = path[i]
    local state = tree.accounts[account]
    if state[A_LIMITS] ~= "" then
      limited = limited == NONE and {} or limited
      settle_limits(limited, account, state, now)
    end
  end
  return limited
end

-- Brings the limits of one account to the present.
function limits.settle_account(state, now)
  for _, limit in ipairs(trees.limits(state)) do
    windows.settle(limit, trees.offsets(state), now)
  end
end

local function judges(limit, feature, credit_type)
  return limit[L_ENFORCEMENT] == LIMIT_HARD and windows.applies(limit, feature, credit_type)
end

-- Whether waiting for one limit is no answer to another: 0 stands for one that never has room.
local function outlasts(retry_ms, known_ms)
  return known_ms > 0 and (retry_ms == 0 or retry_ms > known_ms)
end

-- Of the hard limits that `amount` more would pass, and the one in `found`, that for which one has to wait
-- longest, the first of equals: what a denial says of it.
function limits.exceeded(limited, feature, credit_type, amount, now, found)
  for i = 1, #limited, 3 do
    local account, state, limit = limited[i], limited[i + 1], limited[i + 2]
    if judges(limit, feature, credit_type) and amount > windows.remaining(limit) then
      local retry_ms = windows.retry_after_ms(limit, trees.offsets(state), now, amount)
      if not found or outlasts(retry_ms, found[2]) then
        found = { limits.use(account, state, limit, now), retry_ms }
      end
    end
  end
  return found
end

-- How much of `amount` every hard limit lets pass.
function limits.remaining(limited, feature, credit_type, amount)
  for i = 3, #limited, 3 do
    if judges(limited[i], feature, credit_type) then
      amount = min(amount, windows.remaining(limited[i]))
    end
  end
  return amount
end

function limits.use(account, state, limit, now)
  local resets_ms = windows.resets_at_ms(limit, trees.offsets(state), now)
  return { account, limit[L_ID], limit[L_MAXIMUM], windows.used(limit), resets_ms }
end

-- Whether use passed `percent` of `whole`, in arithmetic that stays exact in doubles.
local function crossed(whole, percent, before, after)
  local rest = fmod(whole, 100)
  local threshold = (whole - rest) / 100 * percent + ceil_div(rest * percent, 100)
  return before < threshold and threshold <= after
end

local function limit_warnings(warnings, account, limit, before, after)
  for _, percent in ipairs(limit[L_WARN]) do
    if crossed(limit[L_MAXIMUM], percent, before, after) then
      insert(warnings, { WARN_LIMIT, account, limit[L_ID], limit[L_CREDIT_TYPE], percent })
    end
  end
  if limit[L_ENFORCEMENT] == LIMIT_SOFT and after > limit[L_MAXIMUM] then
    insert(warnings, { WARN_SOFT, account, limit[L_ID], limit[L_CREDIT_TYPE], 100 })
  end
end

-- Older scripts knew a count by the id of its limit: so do the holds that they placed.
local function counter_of(limit)
  return limit[L_COUNTER] or limit[L_ID]
end

local function append_count(counts, account, limit, window, amount, credit_type)
  local n = #counts
  counts[n + 1], counts[n + 2], counts[n + 3] = account, counter_of(limit), window
  counts[n + 4], counts[n + 5] = amount, credit_type
end

-- Counts `amount` in every matching limit ("" as the credit type stands for the request itself);
-- appends to `counts` (may be nil) and `warnings`.
function limits.count(tree, limited, feature, credit_type, amount, now, counts, warnings)
  for i = 1, #limited, 3 do
    local account, state, limit = limited[i], limited[i + 1], limited[i + 2]
    if windows.applies(limit, feature, credit_type) then
      local before = windows.used(limit)
      local window = windows.window_at(limit, trees.offsets(state), now)
      local counted = windows.count(limit, window, amount)
      trees.touch(tree, account)
      if counts then
        append_count(counts, account, limit, window, counted, credit_type)
      end
      limit_warnings(warnings, account, limit, before, windows.used(limit))
    end
  end
end

local function find(state, counter)
  for _, limit in ipairs(trees.limits(state)) do
    if counter_of(limit) == counter then
      return limit
    end
  end
end

-- Gives up to `amount` of one credit type ("" the request) back to the windows it was counted in.
function limits.give_back(tree, counts, credit_type, amount, now)
  for i = 1, #counts, 5 do
    if counts[i + 4] == credit_type then
      local part = min(amount, counts[i + 3])
      counts[i + 3] = counts[i + 3] - part
      local state = trees.account(tree, counts[i])
      local limit = state and find(state, counts[i + 1])
      if limit then
        windows.settle(limit, trees.offsets(state), now)
        windows.give_back(limit, counts[i + 2], part, now)
        trees.touch(tree, counts[i])
      end
    end
  end
end

-- Warns when what is left of the credits that the last grant found passes a threshold.
function limits.balance_warnings(warnings, account, credit_type, credit, before)
  local topped = credit[C_TOPPED]
  local after = topped - credit[C_AVAILABLE]
  -- No threshold lies below a half, which doubles tell exactly.
  if after < topped / 2 then
    return
  end
  for i = 1, #BALANCE_WARN_PERCENTS do
    local percent = BALANCE_WARN_PERCENTS[i]
    if crossed(topped, percent, topped - before, after) then
      insert(warnings, { WARN_BALANCE, account, "", credit_type, percent })
    end
  end
end

-- Only an account whose credits were drawn can have passed a threshold.
function limits.warn_balances(journal, warnings)
  for i = 1, #journal, 2 do
    local posting, credit = journal[i], journal[i + 1]
    if credit[C_TOPPED] > 0 then
      local before = credit[C_AVAILABLE] - posting[C_AVAILABLE + E_DELTA_OF]
      limits.balance_warnings(warnings, posting[E_ACCOUNT], posting[E_CREDIT_TYPE], credit, before)
    end
  end
end

-- Keeps what was counted under a limit that still counts the same over the same window.
function limits.merge(old, new)
  for _, limit in ipairs(new) do
    for _, before in ipairs(old) do
      local same = before[L_ID] == limit[L_ID] and before[L_UNIT] == limit[L_UNIT]
        and before[L_WINDOW] == limit[L_WINDOW] and before[L_WINDOW_MS] == limit[L_WINDOW_MS]
        and before[L_CREDIT_TYPE] == limit[L_CREDIT_TYPE] and before[L_FEATURE] == limit[L_FEATURE]
      if same then
        limit[L_USED], limit[L_LEVEL], limit[L_LEVEL_MS] = before[L_USED], before[L_LEVEL], before[L_LEVEL_MS]
        limit[L_COUNTER] = counter_of(before)
      end
    end
  end
  return new
end
