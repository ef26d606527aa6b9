-- Fences: whether this server may decide for a partition.
--
-- The field "e" of a partition's `state` is `<epoch> <master_replid> <ARMED|FENCED>`. A server gets a new
-- replication id with every restart and every promotion, so one that lost entries, or that took over
-- without them, is told apart from the one that was armed, on the very first call. A call names the
-- epoch that it is meant for; a server that another one has replaced is in an older one.

local fences = {}
-- What the fence of each epoch must be on this server, by epoch.
local expected_fences
local server_role, server_replid

-- Forgets what this server was in the call before.
function fences.begin()
  expected_fences, server_role, server_replid = {}, nil, nil
end
fences.begin()

-- The role and the replication id of this server, asked once per call.
function fences.server()
  if not server_replid then
    local info = call("INFO", "replication")
    server_role, server_replid = string.match(info, "role:(%a+)"), string.match(info, "master_replid:(%x+)")
  end
  return server_role, server_replid
end

-- The fence under which an epoch is decided here.
function fences.armed(epoch)
  local fence = expected_fences[epoch]
  if not fence then
    fences.server()
    fence = string.format("%.0f %s ARMED", epoch, server_replid)
    expected_fences[epoch] = fence
  end
  return fence
end

-- Why a partition may not be touched; nil where it may.
function fences.why(fence, epoch)
  if fence == fences.armed(epoch) and server_role == "master" then
    return nil
  elseif server_role ~= "master" then
    return "replica"
  elseif not fence then
    return "unarmed"
  end
  local is_epoch, is_replid, state = string.match(fence, "^(%d+) (%x+) (%a+)$")
  if state ~= "ARMED" then
    return "fenced"
  end
  return is_replid == server_replid and "epoch" or "history"
end
