-- Commit, Release and expiry: what of a hold is burned, and where the rest goes (twin: settle.py).

-- Where a receipt has its first share; each share has six values.
local FIRST_SHARE = 9

-- Adds to one grant's share of a receipt: part 2 burned, 3 returned, 4 expired, 5 revoked.
local function share(receipt, source, account, part, amount)
  local place = FIRST_SHARE
  while receipt[place] and (receipt[place] ~= source or receipt[place + 1] ~= account) do
    place = place + 6
  end
  if not receipt[place] then
    receipt[place], receipt[place + 1], receipt[place + 2] = source, account, 0
    receipt[place + 3], receipt[place + 4], receipt[place + 5] = 0, 0, 0
  end
  receipt[place + part] = receipt[place + part] + amount
end

-- What a line came to (see apply.lua, "settled line"), without its shares.
function settle.receipt(credit_type, settled, returned, overage, debt, unenforced, held, available)
  return { credit_type, settled, returned, overage, debt, unenforced, held, available, nil, nil, nil, nil, nil, nil }
end

-- Who owes what no credits cover: the first on the path that was ever granted this credit type, whose
-- next grant will repay it; the root when nobody was.
local function debtor(tree, path, credit_type)
  for i = 1, #path do
    local account = path[i]
    local credit = trees.credit(tree.accounts[account], credit_type)
    if credit and credit[C_GRANTED] > 0 then
      return account
    end
  end
  return path[#path]
end

-- Available credits in burn order; the rest is owed, or unenforced in shadow and, beyond what was held
-- once (`within`, for a late Commit), with CAP.
function settle.plan_overflow(tree, account, credit_type, amount, mode, overage, within)
  if amount <= 0 then
    return NONE
  end
  local list = draws.list()
  local path = trees.path(tree, account)
  local missing = draws.from_grants(tree, path, credit_type, amount, list)
  if missing > 0 then
    local excess = overage == OVERAGE_CAP and min(missing, max(0, amount - (within or 0))) or 0
    local forgiven = mode == MODE_SHADOW and missing or excess
    if missing > forgiven then
      draws.push(list, debtor(tree, path, credit_type), SOURCE_DEBT, missing - forgiven)
    end
    if forgiven > 0 then
      draws.push(list, account, SOURCE_UNENFORCED, forgiven)
    end
  end
  return list, draws.check_room(tree, credit_type, list)
end

-- Burns the first `amount` of a line's draws; the rest is kept or goes back. Changes nothing yet.
function settle.plan_line(tree, account, line, amount, keep, mode, overage)
  local burned, rest, excess = draws.split(line[N_DRAWS], amount)
  local overflow, failed = settle.plan_overflow(tree, account, line[N_CREDIT_TYPE], excess, mode, overage)
  return { burned, keep and NONE or rest, keep and rest or NONE, overflow }, failed
end

-- Held credits become burned; debt and unenforced stay on the left side, now for good.
local function burn(journal, kind, credit_type, list, receipt)
  for i = 1, #list, 3 do
    local account, source, amount = list[i], list[i + 1], list[i + 2]
    local posting, credit = journals.posting(journal, kind, account, credit_type)
    if draws.BUCKET_OF[source] then
      journals.transfer(posting, credit, C_HELD, C_BURNED, amount)
      draws.pledge(credit, source, -amount)
    else
      local grant = draws.find_grant(credit, source)
      journals.transfer(posting, credit, C_HELD, C_BURNED, amount, grant)
      draws.forget(journal.tree, account, credit_type, credit, grant)
      share(receipt, source, account, 2, amount)
    end
  end
end

local function give_back_to_grant(journal, posting, credit, grant, amount, now)
  local account, credit_type = posting[E_ACCOUNT], posting[E_CREDIT_TYPE]
  local target = C_AVAILABLE
  if grant[G_REVOKED] == 1 then
    target = C_REVOKED
  elseif grant[G_EXPIRES] > 0 and grant[G_EXPIRES] <= now then
    target = C_EXPIRED
  end
  journals.transfer(posting, credit, C_HELD, target, amount, grant)
  -- What still had something left has its due time.
  if target == C_AVAILABLE and grant[G_EXPIRES] > 0 and grant[G_REMAINING] == amount then
    trees.add_due(journal.tree, draws.due_member(journal.tree, "g", grant, account, credit_type), grant[G_EXPIRES])
  end
  draws.forget(journal.tree, account, credit_type, credit, grant)
  return target == C_AVAILABLE and 3 or target == C_EXPIRED and 4 or 5
end

-- Last drawn, first returned: back, or where its grant went meanwhile.
local function give_back(journal, kind, credit_type, list, receipt, now)
  for i = #list - 2, 1, -3 do
    local account, source, amount = list[i], list[i + 1], list[i + 2]
    local posting, credit = journals.posting(journal, kind, account, credit_type)
    local bucket = draws.BUCKET_OF[source]
    if bucket then
      journals.book(posting, credit, bucket, C_HELD, -amount)
      draws.pledge(credit, source, -amount)
    else
      local grant = draws.find_grant(credit, source)
      share(receipt, source, account, give_back_to_grant(journal, posting, credit, grant, amount, now), amount)
    end
  end
end

-- Adds what draws burned to the shares of their grants.
function settle.share_burned(receipt, list)
  for i = 1, #list, 3 do
    if not draws.BUCKET_OF[list[i + 1]] then
      share(receipt, list[i + 1], list[i], 2, list[i + 2])
    end
  end
end

-- What was burned beyond what the line held.
local function add_overage(receipt, list)
  local overage, debt, unenforced = draws.totals(list)
  receipt[2], receipt[4] = receipt[2] + overage, overage
  receipt[5], receipt[6] = receipt[5] + debt, receipt[6] + unenforced
  settle.share_burned(receipt, list)
end

-- Books a plan; answers the receipt of the line (see apply.lua, "settled line").
function settle.line(journal, account, line, plan, kind, now)
  local credit_type = line[N_CREDIT_TYPE]
  local returned, kept, overflow = plan[P_RETURNED], plan[P_KEPT], plan[P_OVERFLOW]
  local settled, debt, unenforced = draws.totals(plan[P_BURNED])
  local receipt = settle.receipt(credit_type, settled, (draws.totals(returned)), 0, debt, unenforced, 0, 0)
  burn(journal, kind, credit_type, plan[P_BURNED], receipt)
  give_back(journal, kind, credit_type, returned, receipt, now)
  if overflow ~= NONE then
    draws.apply(journal, kind == KIND_COMMIT and KIND_OVERAGE or kind, credit_type, overflow, C_BURNED)
    add_overage(receipt, overflow)
  end
  if kept ~= NONE then
    receipt[7] = draws.totals(kept)
  end
  line[N_DRAWS], line[N_CAPTURED] = kept, line[N_CAPTURED] + receipt[2]
  receipt[8] = draws.available(trees.account(journal.tree, account), credit_type)
  return receipt
end

function settle.captured(hold)
  local total, lines = 0, hold[H_LINES]
  for i = 1, #lines do
    total = total + lines[i][N_CAPTURED]
  end
  return total
end

-- Forgets an ended hold; an end that moved nothing is written down all the same.
function settle.close(journal, tree, hold_id, hold, kind)
  if journals.is_empty(journal) then
    journals.posting(journal, kind, hold[H_ACCOUNT], hold[H_LINES][1][N_CREDIT_TYPE])
  end
  trees.set_hold(tree, hold_id, false)
  trees.remove_due(tree, "h" .. hold_id)
  trees.count_hold(tree, hold[H_ACCOUNT], -1)
end

-- Remembers how a hold ended, for as long as idempotency keys are remembered.
function settle.remember_end(partition, hold_id, state, lines, first_seq)
  local committed = ""
  for i = 1, #lines do
    local line = lines[i]
    committed = committed .. (i > 1 and "," or "") .. line[N_CREDIT_TYPE] .. "=" .. text(line[N_CAPTURED])
  end
  partitions.remember(partition, "h" .. hold_id, pack({ state, committed, first_seq }))
end

local STATE_NAMES = { [OPEN] = "OPEN", [COMMITTED] = "COMMITTED", [RELEASED] = "RELEASED", [EXPIRED] = "EXPIRED" }

-- Why a hold cannot be settled or extended; `hold_missing` where only the ledger can know.
function settle.gone(partition, hold_id, committing)
  local packed = partitions.record(partition, "h" .. hold_id)
  if not packed then
    if partitions.late_hold(partition, hold_id) then
      return failure(R_HOLD_EXPIRED)
    end
    return { special = HOLD_MISSING }
  end
  local ended = unpack_message(packed)
  if committing and ended[1] == COMMITTED then
    return failure(R_HOLD_ALREADY_COMMITTED, "committed", ended[2], "first_seq", text(ended[3]))
  end
  return failure(R_HOLD_ALREADY_SETTLED, "state", STATE_NAMES[ended[1]])
end

-- Gives back what a settlement did not use, counts what it used above the hold.
function settle.count(tree, hold, lines, nothing, now, warnings)
  local path, _, is_limited = trees.path(tree, hold[H_ACCOUNT])
  local limited = is_limited and limits.settle(tree, path, now) or NONE
  if #limited == 0 and #hold[H_COUNTS] == 0 then
    return
  end
  for i = 1, #lines do
    local line = lines[i]
    limits.give_back(tree, hold[H_COUNTS], line[1], line[3], now)
    if line[4] > 0 then
      limits.count(tree, limited, hold[H_FEATURE], line[1], line[4], now, nil, warnings)
    end
  end
  if nothing then
    limits.give_back(tree, hold[H_COUNTS], "", 1, now)
  end
end

-- The new end of a hold, within its maximum age; nil when it is as old as it may become.
function settle.extended(hold, ttl_ms, now)
  local latest = hold[H_PLACED] + HOLD_AGE_MS_MAX
  if now < latest then
    return min(now + ttl_ms, latest)
  end
end
