-- A claimed call begins to run. Only a queued one does: it may have been cancelled or have
-- expired meanwhile. And only in the hands of its claimer: of a worker that was given up since,
-- nobody would notice the death. Safe to repeat after a lost reply.
--
-- KEYS: 1 call  2 worker's calls
-- ARGV: 1 id  2 worker
-- Returns: {spec, attempt} | {'ended'}: the claim is to be forgotten | {}: not its own
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return {} end
local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'spec', 'attempt')
local attempt = tonumber(call[4] or 0)
if call[1] == 'started' then
  if call[2] == ARGV[2] then return {call[3] or '', attempt} end
  redis.call('HDEL', KEYS[2], ARGV[1])
  return {}
end
if call[1] ~= 'queued' then return {'ended'} end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
attempt = attempt + 1
redis.call('HSET', KEYS[1], 'status', 'started', 'worker', ARGV[2], 'started_ms', now_ms, 'attempt', attempt)
return {call[3] or '', attempt}
