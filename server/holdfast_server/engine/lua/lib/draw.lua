-- Burn order: from which grants an amount is taken, and how the draw is booked (twin: draw.py).
-- Draws are a flat list [account, source, amount, ...]; a source is a grant id, "D" or "U".

function draws.available(state, credit_type)
  local credit = trees.credit(state, credit_type)
  return credit and credit[C_AVAILABLE] or 0
end

-- How much more debt a Reserve may take on here.
local function overdraft_room(state, credit_type, credit)
  local limit = state[A_OVERDRAFT] ~= "" and trees.overdraft(state)[credit_type]
  return limit and max(0, limit - (credit and credit[C_DEBT] or 0)) or 0
end

function draws.spendable(tree, path, credit_type)
  local total, accounts = 0, tree.accounts
  for i = 1, #path do
    local state = accounts[path[i]]
    local credit = trees.credit(state, credit_type)
    total = total + (credit and credit[C_AVAILABLE] or 0) + overdraft_room(state, credit_type, credit)
  end
  return min(AMOUNT_MAX, total)
end

-- An empty list of draws. Most have one, and have room for it: a table that grows is made anew.
function draws.list()
  return { nil, nil, nil }
end

local function push(list, account, source, amount)
  local n = #list
  list[n + 1], list[n + 2], list[n + 3] = account, source, amount
end
draws.push = push

-- Takes from the own grants first, then from those above; appends to `list`, answers what is missing.
function draws.from_grants(tree, path, credit_type, amount, list)
  local accounts = tree.accounts
  for i = 1, #path do
    local account = path[i]
    local credit = trees.credit(accounts[account], credit_type) or NONE
    for place = C_FIRST_GRANT, #credit do
      local grant = trees.grant_at(credit, place)
      local part = grant[G_REVOKED] == 1 and 0 or grant[G_REMAINING]
      if part > amount then
        part = amount
      end
      if part > 0 then
        push(list, account, grant[G_ID], part)
        amount = amount - part
        if amount == 0 then
          return 0
        end
      end
    end
  end
  return amount
end

-- Takes from the own overdraft first, then from that of the accounts above.
function draws.from_overdraft(tree, path, credit_type, amount, list)
  for i = 1, #path do
    local account = path[i]
    local state = tree.accounts[account]
    local part = min(amount, overdraft_room(state, credit_type, trees.credit(state, credit_type)))
    if part > 0 then
      push(list, account, SOURCE_DEBT, part)
      amount = amount - part
    end
  end
  return amount
end

-- Refuses draws whose booking would take a bucket past 2^53-1.
function draws.check_room(tree, credit_type, list)
  local booked
  for i = 1, #list, 3 do
    local account, source = list[i], list[i + 1]
    if source == SOURCE_DEBT or source == SOURCE_UNENFORCED then
      booked = booked or {}
      booked[account] = (booked[account] or 0) + list[i + 2]
      if booked[account] > journals.room(trees.account(tree, account), credit_type) then
        return failure(R_BALANCE_LIMIT_EXCEEDED, "credit_type", credit_type)
      end
    end
  end
end

-- A grant and its place. The id of a packed one stands behind one byte.
function draws.find_grant(credit, grant_id)
  for place = C_FIRST_GRANT, #credit do
    local grant = credit[place]
    if (grant[G_ID] or sub(grant, 2, 17)) == grant_id then
      return trees.grant_at(credit, place), place
    end
  end
end

-- Drops a grant that has nothing left, and its due time when nothing is left to expire.
function draws.forget(tree, account, credit_type, credit, grant)
  if grant[G_REMAINING] > 0 then
    return
  end
  if grant[G_EXPIRES] > 0 then
    trees.remove_due(tree, draws.due_member(tree, "g", grant, account, credit_type))
  end
  if grant[G_HELD] == 0 then
    local _, place = draws.find_grant(credit, grant[G_ID])
    if place then
      remove(credit, place)
    end
  end
end

-- The member of the tree's index for a grant (due.lua): a root, which most accounts are, goes without
-- saying.
function draws.due_member(tree, mark, grant, account, credit_type)
  local is_root = trees.account(tree, account)[A_PARENT] == ""
  return mark .. grant[G_ID] .. (is_root and "" or account) .. "/" .. credit_type
end

-- Smaller burns first (semantics section 2): priority, sooner expiry, free, earlier effective, id.
local function burns_before(a, b)
  if a[G_PRIORITY] ~= b[G_PRIORITY] then
    return a[G_PRIORITY] < b[G_PRIORITY]
  end
  local expires_a = a[G_EXPIRES] == 0 and math.huge or a[G_EXPIRES]
  local expires_b = b[G_EXPIRES] == 0 and math.huge or b[G_EXPIRES]
  if expires_a ~= expires_b then
    return expires_a < expires_b
  elseif a[G_PAID] ~= b[G_PAID] then
    return a[G_PAID] < b[G_PAID]
  elseif a[G_EFFECTIVE] ~= b[G_EFFECTIVE] then
    return a[G_EFFECTIVE] < b[G_EFFECTIVE]
  end
  return comes_before(a[G_ID], b[G_ID])
end

-- Puts a grant where the burn order wants it.
function draws.insert_grant(credit, grant)
  local place = #credit + 1
  while place > C_FIRST_GRANT and burns_before(grant, trees.grant_at(credit, place - 1)) do
    place = place - 1
  end
  insert(credit, place, grant)
end

local BUCKET_OF = { [SOURCE_DEBT] = C_DEBT, [SOURCE_UNENFORCED] = C_UNENFORCED }
draws.BUCKET_OF = BUCKET_OF

local PLEDGED = { [SOURCE_DEBT] = C_DEBT_PLEDGED, [SOURCE_UNENFORCED] = C_UNENFORCED_PLEDGED }

-- Pledges debt or unenforced use to an open hold; a negative amount takes it back.
function draws.pledge(credit, source, amount)
  credit[PLEDGED[source]] = credit[PLEDGED[source]] + amount
end

-- The debt or unenforced use of work that was done.
function draws.settled(credit, source)
  return credit[BUCKET_OF[source]] - credit[PLEDGED[source]]
end

-- Books draws into `held` or `burned`.
function draws.apply(journal, kind, credit_type, list, target)
  local tree = journal.tree
  for i = 1, #list, 3 do
    local account, source, amount = list[i], list[i + 1], list[i + 2]
    local posting, credit = journals.posting(journal, kind, account, credit_type)
    local bucket = BUCKET_OF[source]
    if bucket then
      journals.book(posting, credit, bucket, target, amount)
      if target == C_HELD then
        draws.pledge(credit, source, amount)
      end
    else
      local grant = draws.find_grant(credit, source)
      journals.transfer(posting, credit, C_AVAILABLE, target, amount, grant)
      draws.forget(tree, account, credit_type, credit, grant)
    end
  end
end

-- What draws take together, and how much of it is debt and unenforced.
function draws.totals(list)
  local total, debt, unenforced = 0, 0, 0
  for i = 1, #list, 3 do
    local source, amount = list[i + 1], list[i + 2]
    total = total + amount
    if source == SOURCE_DEBT then
      debt = debt + amount
    elseif source == SOURCE_UNENFORCED then
      unenforced = unenforced + amount
    end
  end
  return total, debt, unenforced
end

-- The first `amount` of the draws, the rest, and how much of `amount` they lack.
function draws.split(list, amount)
  local first, rest = draws.list(), draws.list()
  for i = 1, #list, 3 do
    local part = min(amount, list[i + 2])
    if part > 0 then
      push(first, list[i], list[i + 1], part)
    end
    if list[i + 2] > part then
      push(rest, list[i], list[i + 1], list[i + 2] - part)
    end
    amount = amount - part
  end
  return first, rest, amount
end
