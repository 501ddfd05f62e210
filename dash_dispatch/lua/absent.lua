-- A session has no connection to this process any more. If none comes, it has left at that time.
-- Or it has been dealt with, and is to be forgotten, unless it has left once more since.
--
-- KEYS: 1 absent
-- ARGV: 1 session  2 grace ms, or '' to forget
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[2] ~= '' then return redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), ARGV[1]) end
local left_ms = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or math.huge)
if left_ms <= now_ms then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
