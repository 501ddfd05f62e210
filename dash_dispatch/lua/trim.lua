-- A browser has received everything up to its cursor: it need not be kept.
--
-- KEYS: 1 mailbox
-- ARGV: 1 cursor  2 the id that follows it
-- Returns: ids of the trimmed calls whose results stand aside, to be removed as well
local aside = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', ARGV[1])) do
  local fields, call, stands_aside = entry[2], nil, false
  for i = 1, #fields, 2 do
    if fields[i] == 'c' then call = fields[i + 1] end
    if fields[i] == 'a' then stands_aside = true end
  end
  if stands_aside then aside[#aside + 1] = call end
end
redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])
return aside
