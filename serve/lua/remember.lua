-- Store one answer within the room there is, or leave it. The names of the keys are told in models.answers.
--
-- KEYS  1 all members by their end (zset)  2 the organisation's (zset)  3 sizes (hash)  4 totals (hash)  5 the answer
-- ARGV  1 the answer's bytes  2 its member  3 organisation  4 milliseconds to keep it
--       5 bytes an organisation may hold  6 bytes all may hold  7 what a member costs beside its bytes
--       8 how many other answers may go in one call
-- Reply 1 stored, 0 there was no room
--
-- What ends soonest goes first, what has ended before all else. A call that would have to forget more than ARGV[8]
-- others leaves its own: Redis has other work.

local clock = redis.call('TIME')
local now = math.floor(clock[1] * 1000 + clock[2] / 1000)
local size = #ARGV[1] + tonumber(ARGV[7])
local left = tonumber(ARGV[8])

forget_answer(ARGV[2])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, left)) do
  forget_answer(member)
end

local function room(whose, from, most)
  if size > most then return false end
  while tonumber(redis.call('HGET', KEYS[4], whose) or 0) + size > most do
    local soonest = redis.call('ZRANGE', from, 0, 0)[1]
    if soonest == nil or left == 0 then return false end
    left = left - 1
    forget_answer(soonest)
  end
  return true
end

if not (room(ARGV[3], KEYS[2], tonumber(ARGV[5])) and room('*', KEYS[1], tonumber(ARGV[6]))) then return 0 end

local ends = now + tonumber(ARGV[4])
redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[4])
redis.call('ZADD', KEYS[1], ends, ARGV[2])
redis.call('ZADD', KEYS[2], ends, ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], size)
redis.call('HINCRBY', KEYS[4], ARGV[3], size)
redis.call('HINCRBY', KEYS[4], '*', size)
return 1
