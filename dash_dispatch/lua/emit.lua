-- An event of a running call goes into its session's mailbox. Only the worker that runs the call
-- may say anything about it, and each event counts once, however often it is sent.
--
-- KEYS: 1 call  2 mailbox
-- ARGV: 1 worker  2 number of the event  3 mailbox bound  4 mailbox ttl ms  5 hint channel
--       6.. entry fields, values
-- Returns: 'ok' | 'stale' | 'full'
local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'events')
if call[1] ~= 'started' or call[2] ~= ARGV[1] then return 'stale' end
if call[3] and tonumber(call[3]) >= tonumber(ARGV[2]) then return 'ok' end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return 'full' end
local entry = {}
for i = 6, #ARGV do entry[#entry + 1] = ARGV[i] end
redis.call('XADD', KEYS[2], '*', unpack(entry))
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('HSET', KEYS[1], 'events', ARGV[2])
redis.call('PUBLISH', ARGV[5], '')
return 'ok'
