-- A run failed, and the call may be run again: it waits aside until its pause is over.
--
-- KEYS: 1 call  2 worker's calls  3 slots  4 later  5 instance
-- ARGV: 1 id  2 worker  3 pause ms  4 overlap
-- Returns: 'ok' | 'spent': it has been run as often as it may, or is superseded | 'late': not this
--   worker's any more
local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'attempt', 'retries', 'place')
if call[1] ~= 'started' or call[2] ~= ARGV[2] then return 'late' end
if tonumber(call[3]) > tonumber(call[4] or 0) then return 'spent' end
if ARGV[4] == 'latest' and redis.call('LINDEX', KEYS[5], 0) ~= ARGV[1] .. ':' .. call[5] then return 'spent' end
redis.call('HSET', KEYS[1], 'status', 'queued')
-- The next run counts its events anew.
redis.call('HDEL', KEYS[1], 'worker', 'events')
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[4], now_ms + tonumber(ARGV[3]), ARGV[1])
return 'ok'
