-- The calls of a lost worker are settled: it may join again. Several processes may be at that, and
-- the last to come finds a worker that has joined again: what that has claimed since is its own.
--
-- KEYS: 1 workers  2 capacity  3 worker's calls
-- ARGV: 1 worker
-- Returns: 1, or 0 when it is not given up (any more), or not all of its calls are settled
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or -1) ~= 0 then return 0 end
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
