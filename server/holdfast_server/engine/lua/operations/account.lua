-- CreateAccount and UpdateAccount: who exists, below whom, with which limits (twin: accounts.py).
--
-- Create: account, parent, status, overdraft {credit type = limit}, limits, offsets, unread terms, all
--   terms, whereabouts (the index of the key that says where the account's root is, or 0 for an
--   account below a parent; behind it is the key of the set that knows the new tree), its number there.
-- Update: the same, with the expected version in place of whereabouts.
-- Both answer [version, created_ms, all terms]. Unread terms are what no decision reads, packed by the
-- caller, "" for none; all terms are packed too and only repeated in the answer.
local ACCOUNT, PARENT, STATUS, OVERDRAFT, LIMITS, OFFSETS, TERMS, ALL, LAST = 11, 12, 13, 14, 15, 16, 17, 18, 19
local HOT_NUMBER = 20

local function check_place(tree, op, height)
  local path = trees.path(tree, op[PARENT])
  if #path == 0 then
    return failure(R_ACCOUNT_TREE_INVALID, "account", op[ACCOUNT], "rule", "parent")
  elseif #path + 1 + height > TREE_LEVELS_MAX then
    return failure(R_ACCOUNT_TREE_INVALID, "account", op[ACCOUNT], "rule", "levels")
  end
end

local function check_move(tree, op, state)
  if state[A_PARENT] == "" or op[PARENT] == "" then
    return failure(R_ACCOUNT_TREE_INVALID, "account", op[ACCOUNT], "rule", "root")
  end
  for _, above in ipairs(trees.path(tree, op[PARENT])) do
    if above == op[ACCOUNT] then
      return failure(R_ACCOUNT_TREE_INVALID, "account", op[ACCOUNT], "rule", "below")
    end
  end
  return check_place(tree, op, state[A_HEIGHT])
end

-- Heights are never lowered: a later move may be refused too early, never too late.
local function raise_heights(tree, state)
  local height = state[A_HEIGHT]
  for _, above in ipairs(trees.path(tree, state[A_PARENT])) do
    height = height + 1
    local above_state = trees.account(tree, above)
    if above_state[A_HEIGHT] < height then
      above_state[A_HEIGHT] = height
      trees.touch(tree, above)
    end
  end
end

local function write(op, tree, state)
  trees.set_terms(tree, op[ACCOUNT], op[TERMS])
  raise_heights(tree, state)
  local journal = journals.new(tree)
  journals.posting(journal, KIND_ACCOUNT, op[ACCOUNT], "")
  local first_seq, last_seq, entry = journals.write(journal, op[O_CONTEXT])
  return { first_seq, last_seq, state[A_VERSION], state[A_CREATED], op[ALL] }, entry
end

-- A tree that must be in the store and is not was removed by hand: it is not made anew.
local function begin_tree(op, tree)
  local whereabouts, hot_key = KEYS[op[LAST]], KEYS[op[LAST] + 1]
  if call("GET", whereabouts) then
    return failure(R_ACCOUNT_ALREADY_EXISTS, "account", op[ACCOUNT])
  elseif call("SISMEMBER", hot_key, op[HOT_NUMBER]) == 1 then
    return failure(R_FENCED, "account", op[ACCOUNT])
  end
  trees.join(tree, hot_key, op[HOT_NUMBER])
end

function describing.create_account(op, tree)
  if trees.account(tree, op[ACCOUNT]) then
    return failure(R_ACCOUNT_ALREADY_EXISTS, "account", op[ACCOUNT])
  end
  local failed
  if op[PARENT] ~= "" then
    failed = check_place(tree, op, 0)
  else
    failed = begin_tree(op, tree)
  end
  if failed then
    return failed
  end
  local now = tree.partition.now
  local state = { op[STATUS], op[PARENT], 1, now, 0, 0, 0, op[OVERDRAFT], op[LIMITS], op[OFFSETS] }
  tree.accounts[op[ACCOUNT]] = state
  return write(op, tree, state)
end

function describing.update_account(op, tree)
  local state = trees.account(tree, op[ACCOUNT])
  if not state then
    return failure(R_ACCOUNT_NOT_FOUND, "account", op[ACCOUNT])
  elseif state[A_VERSION] ~= op[LAST] then
    return failure(R_VERSION_CONFLICT, "version", text(state[A_VERSION]))
  end
  local failed = op[PARENT] ~= state[A_PARENT] and check_move(tree, op, state)
  if failed then
    return failed
  end
  -- What left a window until now left it by the terms that held until now.
  limits.settle_account(state, tree.partition.now)
  state[A_STATUS], state[A_PARENT], state[A_VERSION] = op[STATUS], op[PARENT], state[A_VERSION] + 1
  state[A_OVERDRAFT], state[A_OFFSETS] = op[OVERDRAFT], op[OFFSETS]
  state[A_LIMITS] = limits.merge(trees.limits(state), op[LIMITS])
  return write(op, tree, state)
end
