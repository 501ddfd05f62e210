-- What is overdue: workers whose lease has run out, calls whose pause before a retry is over,
-- browsers that have been absent for too long. One process asks at a time; the others are told
-- nothing.
--
-- Time in which nobody asked is time in which nobody could renew a lease either: Redis was away,
-- or stopped. After such a gap the workers have the length of a lease to say that they are alive.
-- Every process asks once per lock ttl, so two of them are a gap, and shorter ones a lease bears.
--
-- KEYS: 1 workers  2 sweeper's lock  3 when it was asked last  4 later  5 absent
-- ARGV: 1 lock ttl ms  2 lease ms  3 how many at most
-- Returns: {lost workers, due calls, sessions}. All stay listed until they have been dealt with, and
-- a sweeper that dies half-way is followed by another. A worker that comes back to life meanwhile
-- gets nothing: its lease is 0.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local asked = redis.call('HMGET', KEYS[3], 'at_ms', 'patience_ms')
local patience_ms = tonumber(asked[2] or 0)
if asked[1] and now_ms - tonumber(asked[1]) > 2 * tonumber(ARGV[1]) then
  patience_ms = now_ms + tonumber(ARGV[2])
end
redis.call('HSET', KEYS[3], 'at_ms', now_ms, 'patience_ms', patience_ms)
if not redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[1]) then return {{}, {}, {}} end
local due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_ms, 'LIMIT', 0, ARGV[3])
if now_ms < patience_ms then return {{}, due, {}} end
local lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
for _, worker in ipairs(lost) do redis.call('ZADD', KEYS[1], 0, worker) end
return {
  lost,
  due,
  redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', 0, ARGV[3]),
}
