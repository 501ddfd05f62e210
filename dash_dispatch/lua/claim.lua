-- Take the oldest waiting calls for a worker. They stand in the worker's set from the same
-- moment, so that its death between here and start.lua loses none.
--
-- KEYS: 1 waiting  2 wake  3 worker's calls  4 workers
-- ARGV: 1 worker  2 how many
-- Returns: the call ids
if not redis.call('ZSCORE', KEYS[4], ARGV[1]) then return {} end
local popped = redis.call('ZPOPMIN', KEYS[1], ARGV[2])
local ids = {}
for i = 1, #popped, 2 do ids[#ids + 1] = popped[i] end
if #ids > 0 then redis.call('SADD', KEYS[3], unpack(ids)) end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end
return ids
