-- Record how a call ended, once: the first outcome wins. A worker may end only what it runs;
-- an empty worker stands for those who may end any call (cancel, the sweeper). What waits for the
-- end goes on: the next of its instance, and those who want the same result.
--
-- KEYS: 1 call  2 mailbox  3 active  4 waiting  5 worker's calls  6 instance  7 slots  8 wake
--       9 later  10 cached  11 flight  12 followers  13 durations
-- ARGV: 1 id  2 worker or ''  3 status  4 record ttl ms  5 mailbox ttl ms  6 hint channel  7 overlap
--       8 gate or ''  9 cache ttl ms, or '': no cache  10 encoded outcome for it  11 callback, or '':
--       durations are not wanted  12 bound of the wake list  13 call ttl ms  14 how many updates
--       follow, which a call owes its page when it starts or ends  15.. these, then the entry's fields
--       and values
-- Returns: {'ok' | 'superseded' | 'late' | 'expired', the worker that was running it or ''}
local id, worker, status = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function wake(token)
  redis.call('LPUSH', KEYS[8], token)
  redis.call('LTRIM', KEYS[8], 0, tonumber(ARGV[12]) - 1)
  redis.call('PEXPIRE', KEYS[8], ARGV[13])
end

-- Workers of this lane are told at once that a slot is free; those of others, by the caller.
local function free()
  redis.call('HDEL', KEYS[5], id)
  if ARGV[8] == '' or redis.call('ZREM', KEYS[7], id) == 0 then return end
  if redis.call('EXISTS', KEYS[4]) == 1 then wake(' ') end
end

local function enqueue(waiter)
  local name, place = string.match(waiter, '^([^:]*):(.*)$')
  redis.call('ZADD', KEYS[4], place, name)
  redis.call('PEXPIRE', KEYS[4], ARGV[13])
  wake(name .. ' ' .. ARGV[8])
end

-- Those who want the same result need not wait for this call any more. Where nobody computes it,
-- somebody has done so for too long, and they must not wait for that one, either.
local function land(keep)
  if ARGV[9] == '' then return end
  local leader = redis.call('GET', KEYS[11])
  if leader and leader ~= id then return end
  if leader and keep and ARGV[10] ~= '' then
    redis.call('HSET', KEYS[10], 'outcome', ARGV[10], 'status', status, 'at_ms', now_ms)
    redis.call('PEXPIRE', KEYS[10], ARGV[9])
  end
  redis.call('DEL', KEYS[11])
  for _, waiter in ipairs(redis.call('SMEMBERS', KEYS[12])) do enqueue(waiter) end
  redis.call('DEL', KEYS[12])
end

local call = redis.call('HMGET', KEYS[1], 'status', 'worker', 'place', 'started_ms', 'events')
if not call[1] then
  free()
  land(false)
  return {'expired', ''}
end
if call[1] ~= 'queued' and call[1] ~= 'started' then
  -- It was ended from outside, and its run has ended now, too.
  if call[2] == worker then free() end
  return {'late', call[2] or ''}
end
if worker ~= '' and (call[1] ~= 'started' or call[2] ~= worker) then return {'late', ''} end

local item = id .. ':' .. call[3]
local holder = ARGV[7] ~= 'parallel' and redis.call('LINDEX', KEYS[6], 0)
local superseded = ARGV[7] == 'latest' and holder ~= item
local answer, entry = 'ok', {}
-- A later run has begun, and whoever began it did not live to say so.
if superseded and worker ~= '' then answer, status = 'superseded', 'superseded' end
local owed = tonumber(ARGV[14])
for i = 15 + owed, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if answer == 'superseded' then
    if name == 's' then value = status elseif name == 'b' then value = '' end
  end
  -- 'a' and 'h': a body that stands aside, cookies and headers.
  if answer == 'ok' or (name ~= 'a' and name ~= 'h') then
    entry[#entry + 1] = name
    entry[#entry + 1] = value
  end
end
-- They are a call's first updates. Of a superseded one, the later run has them.
local entries = {}
if not superseded and tonumber(call[5] or 0) < owed then
  local whose = {}
  for i = 1, #entry, 2 do whose[entry[i]] = entry[i + 1] end
  for i = 15, 14 + owed do
    entries[#entries + 1] = {'p', whose['p'], 'r', whose['r'], 'c', id, 'd', ARGV[i]}
  end
end
entries[#entries + 1] = entry
post(KEYS[2], entries, ARGV[5], ARGV[6])
-- The wake-up may have brought the spec along, for a worker that has not come.
if call[1] == 'queued' then redis.call('LREM', KEYS[8], 0, redis.call('HGET', KEYS[1], 'spec') or '') end
redis.call('HSET', KEYS[1], 'status', status)
-- What the call was asked with may be large or private, and nobody needs it any more. What is left
-- keeps a request that is sent again from being run again, for as long as its page may come back.
redis.call('HDEL', KEYS[1], 'spec', 'place', 'retries', 'events', 'created_ms', 'started_ms',
  'position', 'supersedes')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HDEL', KEYS[3], id)

if call[1] == 'queued' then
  redis.call('ZREM', KEYS[4], id)
  redis.call('ZREM', KEYS[9], id)
  if ARGV[9] ~= '' then redis.call('SREM', KEYS[12], item) end
end
if ARGV[7] ~= 'parallel' then
  redis.call('LREM', KEYS[6], 1, item)
  local following = redis.call('LINDEX', KEYS[6], 0)
  if holder == item and following then enqueue(following) end
end
-- A run that is ended from outside keeps its slot until its worker has stopped it.
if worker ~= '' or call[1] == 'queued' then free() end
land(answer == 'ok')
if ARGV[11] ~= '' and worker ~= '' and call[4] then
  local took_ms = now_ms - tonumber(call[4])
  local usual_ms = tonumber(redis.call('HGET', KEYS[13], ARGV[11]) or took_ms)
  redis.call('HSET', KEYS[13], ARGV[11], math.floor(0.8 * usual_ms + 0.2 * took_ms))
  redis.call('PEXPIRE', KEYS[13], ARGV[4])
end
return {answer, call[1] == 'started' and call[2] or ''}
