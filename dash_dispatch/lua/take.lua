-- Claim and start one call that a wake-up named: what an idle worker does, in one step.
--
-- KEYS: 1 call  2 waiting  3 wake  4 worker's calls  5 workers  6 slots  7 limits  8 turns  9 clock
-- ARGV: 1 id  2 worker  3 gate or ''  4 slot ttl ms  5 '0': before others that wait  6 '0': the
--       wake-up has brought the spec along
-- Returns: {spec, attempt}; {} when there is nothing to do; {'more'} when this is not
--   the one call to claim, so that claim.lua has to choose
if tonumber(redis.call('ZSCORE', KEYS[5], ARGV[2]) or 0) == 0 then return {} end
local place
if ARGV[5] == '1' then
  -- The wake-ups of others, who may have a better place.
  if redis.call('LLEN', KEYS[3]) > 0 then return {'more'} end
  local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
  if first[1] ~= ARGV[1] then return {'more'} end
  place = first[2]
else
  place = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if not place then return {'more'} end
end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', now_ms - tonumber(ARGV[4]))
  local limit = tonumber(redis.call('HGET', KEYS[7], ARGV[3]) or 0)
  if redis.call('ZCARD', KEYS[6]) >= limit then return {} end
end
redis.call('ZREM', KEYS[2], ARGV[1])
local call = redis.call('HMGET', KEYS[1], 'status', 'spec', 'attempt')
if call[1] ~= 'queued' then return {'more'} end
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[6], now_ms, ARGV[1])
  redis.call('PEXPIRE', KEYS[6], ARGV[4])
end
local attempt = tonumber(call[3] or 0) + 1
redis.call('HSET', KEYS[4], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1], 'status', 'started', 'worker', ARGV[2], 'started_ms', now_ms, 'attempt', attempt)
-- As in claim.lua.
local turn = math.floor(tonumber(place) / 2 ^ 12)
local class = math.floor(turn / 2 ^ 36)
local fields = {'turn ' .. class, 'turn ' .. class .. ' ' .. ARGV[3]}
local served = redis.call('HMGET', KEYS[9], unpack(fields))
for i, field in ipairs(fields) do
  if turn > tonumber(served[i] or 0) then redis.call('HSET', KEYS[9], field, turn) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[8], class * 2 ^ 36, turn)
return {ARGV[6] == '1' and call[2] or '', attempt}
