-- Hand back a call that its worker claimed and did not start: it goes to its old place. Two may
-- try at once, and a third have claimed it in between: only a claim that still stands is undone.
--
-- KEYS: 1 call  2 waiting  3 wake  4 worker's calls  5 slots
-- ARGV: 1 id  2 worker  3 '1': also when it has started the call, without being told so  4 gate
--       5 bound of the wake list  6 call ttl ms
-- Returns: the call's status (nil: gone)
local call = redis.call('HMGET', KEYS[1], 'status', 'place', 'worker')
if redis.call('HEXISTS', KEYS[4], ARGV[1]) == 0 then return call[1] end
local mine = call[1] == 'started' and call[3] == ARGV[2]
-- It stays where it is found until its end, or its next run, is written down.
if mine and ARGV[3] ~= '1' then return call[1] end
redis.call('HDEL', KEYS[4], ARGV[1])
-- The slot is that of the one who runs it.
if call[1] ~= 'queued' and call[3] and call[3] ~= ARGV[2] then return call[1] end
redis.call('ZREM', KEYS[5], ARGV[1])
if mine then
  redis.call('HSET', KEYS[1], 'status', 'queued')
  redis.call('HDEL', KEYS[1], 'worker')
  redis.call('HINCRBY', KEYS[1], 'attempt', -1)
elseif call[1] ~= 'queued' then
  return call[1]
end
redis.call('ZADD', KEYS[2], call[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('LPUSH', KEYS[3], ARGV[1] .. ' ' .. ARGV[4])
redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
redis.call('PEXPIRE', KEYS[3], ARGV[6])
return 'queued'
