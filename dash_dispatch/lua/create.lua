-- Accept a call: its record, its place in the queue, and a wake-up, in one step. A call that is
-- known already is left as it is.
--
-- KEYS: 1 call  2 waiting  3 wake  4 active  5 instance  6 gates of the lane  7 lanes of the gate
--       8 turns  9 clock  10 announced  11 limits
-- ARGV: 1 id  2 session  3 spec  4 ttl ms  5 queue bound  6 session bound  7 active entry  8 overlap
--       9 gate or ''  10 limit  11 lane  12 priority  13 user  14 retries  15 '1': tell its position
--       16 bound of the wake list  17 bytes of a spec that a wake-up may bring along
-- Returns: {'created', how many wait before it, ids that it supersedes...}
--   | {status of the known call, its session, ids that it supersedes...} | {'dropped', ''}
--   | {'full', length} | {'many', count}
local known = redis.call('HMGET', KEYS[1], 'status', 'session', 'supersedes')
if known[1] then
  local answer = {known[1], known[2]}
  -- Whoever was told so at first may not have lived to end them.
  for id in string.gmatch(known[3] or '', '%S+') do answer[#answer + 1] = id end
  return answer
end
if ARGV[8] == 'drop' and redis.call('EXISTS', KEYS[5]) == 1 then return {'dropped', ''} end
local active = redis.call('HLEN', KEYS[4])
if active >= tonumber(ARGV[6]) then return {'many', active} end
local waiting = redis.call('ZCARD', KEYS[2])
if waiting >= tonumber(ARGV[5]) then return {'full', waiting} end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl_ms = tonumber(ARGV[4])

-- Users take turns: a user's calls have numbered turns, and those who come new begin at the turn
-- that is served now (start-time fair queueing, Goyal et al. 1996). A full gate holds its line
-- back, so each line has a turn that is served; one that is empty is as far as its lane. Priorities
-- stand above turns, and count them apart; the order of arrival stands below. All of it fits into
-- the 53 bits of a score.
local class = 10 - tonumber(ARGV[12])
local user = class .. ' ' .. ARGV[13]
local field = 'turn ' .. class .. ' ' .. ARGV[9]
local clock = redis.call('HMGET', KEYS[9], field, 'turn ' .. class, 'arrivals')
local served = tonumber(clock[1] or 0)
local function nobody_waits()
  local low, high = class * 2 ^ 48, (class + 1) * 2 ^ 48 - 1
  return waiting == 0
    or redis.call('ZCOUNT', KEYS[2], string.format('%.0f', low), string.format('%.0f', high)) == 0
end
if not clock[1] or nobody_waits() then served = math.max(served, tonumber(clock[2] or 0), class * 2 ^ 36) end
local turn = math.max(served, tonumber(redis.call('ZSCORE', KEYS[8], user) or 0)) + 1
local arrival = tonumber(clock[3] or 0) + 1
redis.call('HSET', KEYS[9], field, served, 'arrivals', arrival)
redis.call('ZADD', KEYS[8], turn, user)
local place = string.format('%.0f', turn * 2 ^ 12 + arrival % 2 ^ 12)
redis.call('PEXPIRE', KEYS[8], ttl_ms)
redis.call('PEXPIRE', KEYS[9], ttl_ms)

redis.call('HSET', KEYS[1], 'status', 'queued', 'session', ARGV[2], 'spec', ARGV[3],
  'created_ms', now_ms, 'place', place, 'retries', ARGV[14], 'gate', ARGV[9])
redis.call('PEXPIRE', KEYS[1], ttl_ms)
redis.call('HSET', KEYS[4], ARGV[1], ARGV[7])
redis.call('PEXPIRE', KEYS[4], ttl_ms)
if ARGV[15] == '1' then
  redis.call('ZADD', KEYS[10], now_ms, ARGV[1])
  redis.call('PEXPIRE', KEYS[10], ttl_ms)
end

-- Who is idle, and so comes at once, need not ask what it is; see take.lua.
local tokens = {ARGV[1] .. ' ' .. ARGV[9]}
if waiting == 0 and #ARGV[3] <= tonumber(ARGV[17]) then tokens[1] = ARGV[3] end
if ARGV[9] ~= '' then
  redis.call('SADD', KEYS[6], ARGV[9])
  redis.call('PEXPIRE', KEYS[6], ttl_ms)
  redis.call('SADD', KEYS[7], ARGV[11])
  redis.call('PEXPIRE', KEYS[7], ttl_ms)
  local more = tonumber(ARGV[10]) - tonumber(redis.call('HGET', KEYS[11], ARGV[9]) or ARGV[10])
  redis.call('HSET', KEYS[11], ARGV[9], ARGV[10])
  redis.call('PEXPIRE', KEYS[11], ttl_ms)
  -- The limit has been raised: there is room for those who have been waiting, too.
  for _ = 1, math.min(more, waiting) do tokens[#tokens + 1] = ' ' end
end

local answer, runs = {'created', waiting}, true
if ARGV[8] ~= 'parallel' then
  local behind = redis.call('LRANGE', KEYS[5], 0, -1)
  if ARGV[8] == 'latest' and #behind > 0 then
    for _, item in ipairs(behind) do answer[#answer + 1] = string.match(item, '^[^:]*') end
    redis.call('HSET', KEYS[1], 'supersedes', table.concat(answer, ' ', 3))
    redis.call('DEL', KEYS[5])
  end
  redis.call('RPUSH', KEYS[5], ARGV[1] .. ':' .. place)
  redis.call('PEXPIRE', KEYS[5], ttl_ms)
  if ARGV[8] == 'queue' and #behind > 0 then
    answer[2] = waiting + #behind
    runs = false
  end
end

if runs then
  redis.call('ZADD', KEYS[2], place, ARGV[1])
  redis.call('PEXPIRE', KEYS[2], ttl_ms)
  local length
  for _, token in ipairs(tokens) do length = redis.call('LPUSH', KEYS[3], token) end
  if length > tonumber(ARGV[16]) then redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[16]) - 1) end
  redis.call('PEXPIRE', KEYS[3], ttl_ms)
end
return answer
