-- Take waiting calls for a worker, first places first, those of a full gate left out. They stand
-- among the worker's calls from the same moment, so that its death between here and start.lua loses
-- none.
--
-- KEYS: 1 wake  2 worker's calls  3 workers  4 gates of the lane  5 limits  6 clock  7 waiting
--       8 turns  9.. waiting, turns and slots of each gate
-- ARGV: 1 worker  2 how many  3 slot ttl ms  4.. the gates' names
-- Returns: {1, or 0 when those are not the lane's gates and the caller has to ask again, call ids...}
local answer = {1}
-- Of a lease that is over, 0 is left while the calls are being settled.
if tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or 0) == 0 then return answer end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local lines = {{waiting = KEYS[7], turns = KEYS[8], gate = '', room = math.huge, served = {}}}
local known = 0
for i = 4, #ARGV do
  local slots = KEYS[3 * i - 1]
  -- A slot is given back when its call ends. Nothing runs for longer than this.
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', now_ms - tonumber(ARGV[3]))
  known = known + redis.call('SISMEMBER', KEYS[4], ARGV[i])
  local limit = tonumber(redis.call('HGET', KEYS[5], ARGV[i]) or 0)
  lines[#lines + 1] = {
    waiting = KEYS[3 * i - 3], turns = KEYS[3 * i - 2], slots = slots, gate = ARGV[i],
    room = limit - redis.call('ZCARD', slots), served = {},
  }
end
if known < #ARGV - 3 or known < redis.call('SCARD', KEYS[4]) then answer[1] = 0 end

local function head(line)
  if line.room <= 0 then return nil end
  local found = redis.call('ZRANGE', line.waiting, 0, 0, 'WITHSCORES')
  return found[1] and {id = found[1], place = tonumber(found[2])}
end

local function first()
  local best
  for _, line in ipairs(lines) do
    if line.head and (not best or line.head.place < best.head.place) then best = line end
  end
  return best
end

for _, line in ipairs(lines) do line.head = head(line) end
local line = first()
while line and #answer <= tonumber(ARGV[2]) do
  local id, place = line.head.id, line.head.place
  redis.call('ZREM', line.waiting, id)
  redis.call('HSET', KEYS[2], id, line.gate)
  if line.slots then
    redis.call('ZADD', line.slots, now_ms, id)
    redis.call('PEXPIRE', line.slots, ARGV[3])
  end
  answer[#answer + 1] = id
  -- Priority and turn; see create.lua.
  local turn = math.floor(place / 2 ^ 12)
  local class = math.floor(turn / 2 ^ 36)
  line.served[class] = math.max(turn, line.served[class] or 0)
  line.room = line.room - 1
  line.head = head(line)
  line = first()
end

for _, each in ipairs(lines) do
  for class, turn in pairs(each.served) do
    for _, field in ipairs({'turn ' .. class, 'turn ' .. class .. ' ' .. each.gate}) do
      if turn > tonumber(redis.call('HGET', KEYS[6], field) or 0) then redis.call('HSET', KEYS[6], field, turn) end
    end
    -- Who waits for no later turn than this is as good as new.
    redis.call('ZREMRANGEBYSCORE', each.turns, class * 2 ^ 36, turn)
  end
end
-- Nothing is left that anybody could claim now; a slot that is given back wakes workers again.
if not line and answer[1] == 1 then redis.call('DEL', KEYS[1]) end
return answer
