-- Tell a page how far its call has come in the queue: only while it waits, and only forward.
--
-- KEYS: 1 call  2 announced  3 mailbox  4 instance
-- ARGV: 1 id  2 position  3 mailbox bound  4 mailbox ttl ms  5 hint channel  6 page  7 request
--       8 overlap  9.. JSON texts
-- Returns: 1 while the call waits, else 0
local call = redis.call('HMGET', KEYS[1], 'status', 'position', 'place')
local superseded = ARGV[8] == 'latest' and call[3]
  and redis.call('LINDEX', KEYS[4], 0) ~= ARGV[1] .. ':' .. call[3]
if call[1] ~= 'queued' or superseded then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
if call[2] and tonumber(call[2]) <= tonumber(ARGV[2]) then return 1 end
redis.call('HSET', KEYS[1], 'position', ARGV[2])
-- A page that does not read will not miss this.
if redis.call('XLEN', KEYS[3]) >= tonumber(ARGV[3]) then return 1 end
local entries = {}
for i = 9, #ARGV do entries[#entries + 1] = {'p', ARGV[6], 'r', ARGV[7], 'c', ARGV[1], 'd', ARGV[i]} end
if #entries > 0 then post(KEYS[3], entries, ARGV[4], ARGV[5]) end
return 1
