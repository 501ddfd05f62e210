-- Hand back a call that its worker claimed and did not start: it goes to the head of its queue.
--
-- KEYS: 1 call  2 waiting  3 wake  4 worker's calls
-- ARGV: 1 id  2 the worker, when it has started the call without being told so, or ''
-- Returns: the call's status (nil: gone)
redis.call('SREM', KEYS[4], ARGV[1])
local call = redis.call('HMGET', KEYS[1], 'status', 'created_ms', 'worker')
if call[1] == 'started' and call[3] == ARGV[2] then
  redis.call('HSET', KEYS[1], 'status', 'queued')
elseif call[1] ~= 'queued' then
  return call[1]
end
redis.call('ZADD', KEYS[2], call[2], ARGV[1])
redis.call('LPUSH', KEYS[3], 1)
return 'queued'
