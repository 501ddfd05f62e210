-- Record how a call ended, once: the first outcome wins. A worker may end only what it runs;
-- an empty worker stands for those who may end any call (cancel, the sweeper).
--
-- KEYS: 1 call  2 mailbox  3 active  4 waiting  5 worker's calls
-- ARGV: 1 id  2 worker or ''  3 status  4 record ttl ms  5 mailbox ttl ms  6 hint channel
--       7.. entry fields, values
-- Returns: 'ok' | 'late' | 'expired', and the worker that was running it
local call = redis.call('HMGET', KEYS[1], 'status', 'worker')
redis.call('SREM', KEYS[5], ARGV[1])
if not call[1] then return {'expired', ''} end
if call[1] ~= 'queued' and call[1] ~= 'started' then return {'late', ''} end
if ARGV[2] ~= '' and (call[1] ~= 'started' or call[2] ~= ARGV[2]) then return {'late', ''} end

local entry = {}
for i = 7, #ARGV do entry[#entry + 1] = ARGV[i] end
redis.call('XADD', KEYS[2], '*', unpack(entry))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('HSET', KEYS[1], 'status', ARGV[3])
-- What the call was asked with may be large or private, and nobody needs it any more. What is left
-- keeps a request that is sent again from being run again, for as long as its page may come back.
redis.call('HDEL', KEYS[1], 'payload', 'snapshot', 'page', 'request', 'output', 'lane',
  'timeout_s', 'stream', 'events', 'created_ms')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('PUBLISH', ARGV[6], '')
return {'ok', call[1] == 'started' and call[2] or ''}
