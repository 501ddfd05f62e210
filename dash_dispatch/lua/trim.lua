-- A browser has received everything up to its cursor: it need not be kept.
--
-- KEYS: 1 mailbox
-- ARGV: 1 cursor  2 the id that follows it
-- Returns: id and writer of each trimmed call whose result stands aside, to be removed as well
local aside = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', ARGV[1])) do
  local fields, call, writer = entry[2], nil, nil
  for i = 1, #fields, 2 do
    if fields[i] == 'c' then call = fields[i + 1] end
    if fields[i] == 'a' then writer = fields[i + 1] end
  end
  if call and writer then
    aside[#aside + 1] = call
    aside[#aside + 1] = writer
  end
end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
return aside
