-- The pause before a retry is over: the call waits in its queue again.
--
-- KEYS: 1 call  2 later  3 waiting  4 wake
-- ARGV: 1 id  2 gate  3 bound of the wake list  4 call ttl ms
-- Returns: 1, or 0 when somebody else has done it, or the call has ended
if redis.call('ZREM', KEYS[2], ARGV[1]) == 0 then return 0 end
local call = redis.call('HMGET', KEYS[1], 'status', 'place')
if call[1] ~= 'queued' then return 0 end
redis.call('ZADD', KEYS[3], call[2], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('LPUSH', KEYS[4], ARGV[1] .. ' ' .. ARGV[2])
redis.call('LTRIM', KEYS[4], 0, tonumber(ARGV[3]) - 1)
redis.call('PEXPIRE', KEYS[4], ARGV[4])
return 1
