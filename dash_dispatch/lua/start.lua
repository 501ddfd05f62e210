-- A claimed call begins to run. Only a queued one does: it may have been cancelled or have
-- expired meanwhile.
--
-- KEYS: 1 call  2 worker's calls
-- ARGV: 1 id  2 worker
-- Returns: the record as fields and values, or {} when there is nothing to run
if redis.call('HGET', KEYS[1], 'status') ~= 'queued' then
  redis.call('SREM', KEYS[2], ARGV[1])
  return {}
end
redis.call('HSET', KEYS[1], 'status', 'started', 'worker', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'attempt', 1)
return redis.call('HGETALL', KEYS[1])
