-- One beat of a process: a worker's lease runs on, and somebody looks for what is overdue: workers
-- whose lease has run out, calls whose pause before a retry is over, browsers that have been absent
-- for too long. One process looks at a time; the others are told nothing. Both in one command,
-- because this is all that an idle process asks of Redis. Redis' clock is the only one that counts,
-- so that machines whose clocks differ agree.
--
-- Time in which nobody looked is time in which nobody could renew a lease either: Redis was away,
-- or stopped. After such a gap the workers have the length of a lease to say that they are alive.
-- Every process looks once per lock ttl, so two of them are a gap, and shorter ones a lease bears.
--
-- KEYS: 1 workers  2 sweeper's lock  3 when somebody looked last  4 later  5 absent
--       6 the worker's running calls
-- ARGV: 1 worker, or '' for a web process  2 lease ms
--       3 '1' to join; else a worker that has been given up stays so
--       4 lock ttl ms, or '' not to look  5 how many at most
-- Returns: {1, or 0 when this worker has been given up or its calls are being settled still;
-- how many calls it has claimed; lost workers; due calls; sessions}. All stay listed until they have
-- been dealt with, and a sweeper that dies half-way is followed by another. A worker that comes back
-- to life meanwhile gets nothing: its lease is 0.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function renew(worker)
  local lease = redis.call('ZSCORE', KEYS[1], worker)
  if lease and tonumber(lease) == 0 then return 0 end
  if ARGV[3] ~= '1' and not lease then return 0 end
  redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), worker)
  return 1
end

-- Until when nobody is given up.
local function patience_until()
  local looked = redis.call('HMGET', KEYS[3], 'at_ms', 'patience_ms')
  local patience_ms = tonumber(looked[2] or 0)
  if looked[1] and now_ms - tonumber(looked[1]) > 2 * tonumber(ARGV[4]) then
    patience_ms = now_ms + tonumber(ARGV[2])
  end
  redis.call('HSET', KEYS[3], 'at_ms', now_ms, 'patience_ms', patience_ms)
  return patience_ms
end

local alive, claimed, lost, due, sessions = 1, 0, {}, {}, {}
if ARGV[1] ~= '' then
  alive = renew(ARGV[1])
  claimed = redis.call('HLEN', KEYS[6])
end
if ARGV[4] ~= '' then
  local patience_ms = patience_until()
  if redis.call('SET', KEYS[2], 1, 'NX', 'PX', ARGV[4]) then
    due = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_ms, 'LIMIT', 0, ARGV[5])
    if now_ms >= patience_ms then
      lost = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms)
      for _, worker in ipairs(lost) do redis.call('ZADD', KEYS[1], 0, worker) end
      sessions = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now_ms, 'LIMIT', 0, ARGV[5])
    end
  end
end
return {alive, claimed, lost, due, sessions}
