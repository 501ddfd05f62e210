-- Whose lease has run out? One process asks at a time; the others are told nothing.
--
-- KEYS: 1 workers  2 sweeper's lock
-- ARGV: 1 lock ttl ms
-- Returns: ids of lost workers. They stay listed until their calls have been dealt with, and a
-- sweeper that dies half-way is followed by another.
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then return {} end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
