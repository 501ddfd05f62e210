-- A started call whose result is shared: is it known, is somebody else at it, or does this one
-- compute it for all?
--
-- KEYS: 1 call  2 worker's calls  3 slots  4 cached  5 flight  6 followers
-- ARGV: 1 id  2 worker  3 how long a flight may take, in ms  4 record ttl ms
-- Returns: {'outcome', encoded outcome} | {'follow'}: it waits again, aside | {'lead'} | {'late'}
local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'created_ms', 'place')
if call[1] ~= 'started' or call[2] ~= ARGV[2] then return {'late'} end
local cached = redis.call('HMGET', KEYS[4], 'outcome', 'status', 'at_ms')
-- A failure answers those who waited for it, and nobody who comes later.
if cached[1] and (cached[2] == 'ok' or tonumber(call[3]) < tonumber(cached[3])) then
  return {'outcome', cached[1]}
end
local leader = redis.call('GET', KEYS[5])
if leader and leader ~= ARGV[1] then
  redis.call('SADD', KEYS[6], ARGV[1] .. ':' .. call[4])
  redis.call('PEXPIRE', KEYS[6], ARGV[4])
  redis.call('HSET', KEYS[1], 'status', 'queued')
  redis.call('HDEL', KEYS[1], 'worker')
  redis.call('HINCRBY', KEYS[1], 'attempt', -1)
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {'follow'}
end
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[3])
return {'lead'}
