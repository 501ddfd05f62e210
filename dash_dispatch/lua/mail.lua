-- Entries for a mailbox, for the scripts that write them; it stands before their own text.
--
-- A hint tells the web process that there is something new. It brings a small entry along, and the
-- id of the one before it: a reader that has that one needs not ask for this one. That saves most
-- results a round trip. The form: "before id" and name and length of each field, a new line, their
-- values.
local HINTED_BYTES = 8192

local function post(mailbox, entries, ttl_ms, channel)
  local before = '0-0'
  if #entries == 1 then
    local info = redis.pcall('XINFO', 'STREAM', mailbox)
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then before = info[i + 1] end
    end
  end
  local id
  for _, entry in ipairs(entries) do id = redis.call('XADD', mailbox, '*', unpack(entry)) end
  redis.call('PEXPIRE', mailbox, ttl_ms)
  local hint = ''
  if #entries == 1 then
    local head, values, bytes = {before, id}, {}, 0
    for i = 1, #entries[1], 2 do
      local value = tostring(entries[1][i + 1])
      head[#head + 1] = entries[1][i] .. #value
      values[#values + 1] = value
      bytes = bytes + #value
    end
    if bytes <= HINTED_BYTES then hint = table.concat(head, ' ') .. '\n' .. table.concat(values) end
  end
  redis.call('PUBLISH', channel, hint)
end

