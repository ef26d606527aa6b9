-- Balance, BookUnenforced and ExpireDue (twin: World.balance, World.book_unenforced, World.expire_due).
--
-- Balance: account; answers [credits, limit uses, open holds, now_ms], a credit being
--   [credit type, buckets, spendable, version, [[grant id, remaining, held, priority, effective_ms, expires_ms], ...]].
-- BookUnenforced: account, lines [[credit type, amount], ...]; answers nothing more.
-- ExpireDue: nothing; answers [holds, grants, next due_ms].
local ACCOUNT, LINES = 11, 12

local function shown(grant)
  return { grant[G_ID], grant[G_REMAINING], grant[G_HELD], grant[G_PRIORITY], grant[G_EFFECTIVE], grant[G_EXPIRES] }
end

local function grant_lines(credit)
  local lines = {}
  for place = C_FIRST_GRANT, #credit do
    insert(lines, shown(trees.grant_at(credit, place)))
  end
  for _, grant in ipairs(trees.pending(credit)) do
    insert(lines, shown(grant))
  end
  return lines
end

local function credit_names(tree, path)
  local seen, names = {}, {}
  local function see(name)
    if not seen[name] then
      seen[name] = true
      insert(names, name)
    end
  end
  for _, account in ipairs(path) do
    local state = trees.account(tree, account)
    for place = A_FIRST_CREDIT, #state, 2 do
      see(state[place])
    end
    for name in pairs(trees.overdraft(state)) do
      see(name)
    end
  end
  return names
end

-- Nothing can be spent where the account, or one above it, is frozen or closed.
local function spendable(tree, path, name)
  for _, account in ipairs(path) do
    local status = trees.account(tree, account)[A_STATUS]
    if status == STATUS_FROZEN or status == STATUS_CLOSED then
      return 0
    end
  end
  return draws.spendable(tree, path, name)
end

local function credit_line(tree, path, name)
  local credit = trees.credit(trees.account(tree, path[1]), name)
  local figures = {}
  for b = 1, 8 do
    figures[b] = credit and credit[b + 1] or 0
  end
  local grants = credit and grant_lines(credit) or {}
  return { name, figures, spendable(tree, path, name), credit and credit[C_VERSION] or 0, grants }
end

function keeping.balance(op, tree)
  local now, path = tree.partition.now, trees.path(tree, op[ACCOUNT])
  if #path == 0 then
    return failure(R_ACCOUNT_NOT_FOUND, "account", op[ACCOUNT])
  end
  limits.settle(tree, path, now)
  local credits, uses = {}, {}
  for _, name in ipairs(credit_names(tree, path)) do
    insert(credits, credit_line(tree, path, name))
  end
  for _, account in ipairs(path) do
    local state = trees.account(tree, account)
    for _, limit in ipairs(trees.limits(state)) do
      insert(uses, limits.use(account, state, limit, now))
    end
  end
  return { 0, 0, credits, uses, trees.account(tree, path[1])[A_OPEN_HOLDS], now }
end

function keeping.book_unenforced(op, tree)
  local account = op[ACCOUNT]
  local state = trees.account(tree, account)
  if not state then
    return failure(R_ACCOUNT_NOT_FOUND, "account", account)
  end
  for _, line in ipairs(op[LINES]) do
    if line[2] > journals.room(state, line[1]) then
      return failure(R_BALANCE_LIMIT_EXCEEDED, "credit_type", line[1])
    end
  end
  local journal = journals.new(tree)
  for _, line in ipairs(op[LINES]) do
    local posting, credit = journals.posting(journal, KIND_UNENFORCED, account, line[1])
    journals.book(posting, credit, C_UNENFORCED, C_BURNED, line[2])
  end
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT])
  return { first_seq, last_seq }, entry
end

-- Time has passed when the tree was loaded; this only says what it did.
-- Whoever asks found the tree in the partition's index: where nothing is due in it, it leaves the index,
-- or it would be found again and again.
function keeping.expire_due(op, tree)
  tree.listed = true
  return { 0, 0, tree.held_ended or 0, tree.grants_changed or 0, tree.due_ms }
end
