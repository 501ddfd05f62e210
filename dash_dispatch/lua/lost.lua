-- Whose lease has run out? One process asks at a time; the others are told nothing.
--
-- Time in which nobody asked is time in which nobody could renew a lease either: Redis was away,
-- or stopped. After such a gap the workers have the length of a lease to say that they are alive.
-- Every process asks once per lock ttl, so two of them are a gap, and shorter ones a lease bears.
--
-- KEYS: 1 workers  2 sweeper's lock  3 when it was asked last
-- ARGV: 1 lock ttl ms  2 lease ms
-- Returns: ids of lost workers. They stay listed until their calls have been dealt with, and a
-- sweeper that dies half-way is followed by another.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local asked = redis.call('HMGET', KEYS[3], 'at_ms', 'patience_ms')
local patience_ms = tonumber(asked[2] or 0)
if asked[1] and now_ms - tonumber(asked[1]) > 2 * tonumber(ARGV[1]) then
  patience_ms = now_ms + tonumber(ARGV[2])
end
redis.call('HSET', KEYS[3], 'at_ms', now_ms, 'patience_ms', patience_ms)
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then return {} end
if now_ms < patience_ms then return {} end
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
