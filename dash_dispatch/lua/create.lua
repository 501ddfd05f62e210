-- Accept a call: its record, its place in the queue, and a wake-up, in one step. A call that is known already is left as it is.
--
-- KEYS: 1 call  2 waiting  3 wake  4 active
-- ARGV: 1 id  2 queue bound  3 call ttl ms  4 active entry  5.. record fields, values
-- Returns: {'created', position} | {status of the known call, its session} | {'full', length}
local known = redis.call('HMGET', KEYS[1], 'status', 'session')
if known[1] then return known end

local waiting = redis.call('ZCARD', KEYS[2])
if waiting >= tonumber(ARGV[2]) then return {'full', waiting} end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl_ms = tonumber(ARGV[3])
local fields = {}
for i = 5, #ARGV do fields[#fields + 1] = ARGV[i] end
redis.call('HSET', KEYS[1], 'status', 'queued', 'created_ms', now_ms, unpack(fields))
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('ZADD', KEYS[2], now_ms, ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[4])
redis.call('PEXPIRE', KEYS[4], ttl_ms)
-- A token more than there are waiting calls would only wake a worker for nothing.
if redis.call('LLEN', KEYS[3]) <= waiting then redis.call('LPUSH', KEYS[3], 1) end
return {'created', waiting}
