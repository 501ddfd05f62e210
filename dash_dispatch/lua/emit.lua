-- Events of a running call go into its session's mailbox. Only the worker that runs the call
-- may say anything about it, only while no later run has superseded it, and each event counts
-- once, however often it is sent.
--
-- KEYS: 1 call  2 mailbox  3 instance
-- ARGV: 1 id  2 worker  3 number of the first event  4 mailbox bound  5 mailbox ttl ms  6 hint channel
--       7 page  8 request  9 overlap  10.. JSON texts
-- Returns: 'ok' | 'stale' | 'full'
local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'events', 'place')
if call[1] ~= 'started' or call[2] ~= ARGV[2] then return 'stale' end
-- Also where nobody stands there: a later run was there, and has ended.
if ARGV[9] == 'latest' and redis.call('LINDEX', KEYS[3], 0) ~= ARGV[1] .. ':' .. call[4] then return 'stale' end
local first, known = tonumber(ARGV[3]), tonumber(call[3] or 0)
local last = first + #ARGV - 10
if last <= known then return 'ok' end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[4]) then return 'full' end
local entries = {}
for number = math.max(first, known + 1), last do
  entries[#entries + 1] = {'p', ARGV[7], 'r', ARGV[8], 'c', ARGV[1], 'd', ARGV[10 + number - first]}
end
post(KEYS[2], entries, ARGV[5], ARGV[6])
redis.call('HSET', KEYS[1], 'events', last)
return 'ok'
