-- A worker is alive: its lease runs on. Redis' clock is the only one that counts, so that
-- machines whose clocks differ agree.
--
-- KEYS: 1 workers
-- ARGV: 1 worker  2 lease ms  3 '1' to join; else a worker that has been given up stays so
-- Returns: 1, or 0 when this worker has been given up, or its calls are being settled still
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
if lease and tonumber(lease) == 0 then return 0 end
if ARGV[3] ~= '1' and not lease then return 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), ARGV[1])
return 1
