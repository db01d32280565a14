-- Admit one call, or say why not: every scope's limits hold at once, and nothing is written unless all of them do.
--
-- A call that is settled already (its admission was stuck on the way) is not opened again.
--
-- KEYS  1 open calls (hash)  2 this replica's heartbeat  3 the mark of the settled event
--       4.. two a limited scope: its rate key, its concurrency key
-- ARGV  1 event id  2 what to keep of the call ("<replica>|<event>")  3 replica id  4 lease in seconds
--       5 prefix of heartbeat keys  6.. two a limited scope: requests a minute, concurrent requests (0: unlimited)
-- Reply {1, limit, remaining, reset}            admitted; the tightest rate limit, 0 0 0 without one
--       {0, scope, what, wait, limit, remaining, reset}   refused by scope (from 1), what: 1 rate, 2 concurrency
--       wait and reset in milliseconds
--
-- Rate: GCRA, a burst of a whole minute's requests. A rate key holds the time (ms) at which the burst is whole again.
-- Concurrency: a hash of replica id -> running calls. The counts of a replica without a heartbeat are void.

local MINUTE = 60000
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local replica = ARGV[3]
redis.call('SET', KEYS[2], '1', 'EX', ARGV[4])

local function running(key)
  local total = 0
  local counts = redis.call('HGETALL', key)
  for i = 1, #counts, 2 do
    if counts[i] == replica or redis.call('EXISTS', ARGV[5] .. counts[i]) == 1 then
      total = total + counts[i + 1]
    else
      redis.call('HDEL', key, counts[i])
    end
  end
  return total
end

if redis.call('EXISTS', KEYS[3]) == 1 then
  return {1, 0, 0, 0}
end

local scopes = (#KEYS - 3) / 2
local full = {}
local limit, remaining, reset = 0, nil, 0
for scope = 1, scopes do
  local rate = tonumber(ARGV[4 + 2 * scope])
  local concurrent = tonumber(ARGV[5 + 2 * scope])
  if rate > 0 then
    local step = MINUTE / rate
    local whole = math.max(tonumber(redis.call('GET', KEYS[2 + 2 * scope]) or 0), now) + step
    local early = whole - MINUTE - now
    if early > 0.001 then
      return {0, scope, 1, math.ceil(early), rate, 0, math.ceil(whole - step - now)}
    end
    full[scope] = whole
    local left = math.floor((MINUTE - (whole - now)) / step + 0.001)
    if remaining == nil or left < remaining then
      limit, remaining, reset = rate, left, math.ceil(whole - now)
    end
  end
  if concurrent > 0 and running(KEYS[3 + 2 * scope]) >= concurrent then
    return {0, scope, 2, 1000, limit, remaining or 0, reset}
  end
end

for scope = 1, scopes do
  if full[scope] then
    redis.call('SET', KEYS[2 + 2 * scope], string.format('%.3f', full[scope]), 'PX', math.ceil(full[scope] - now) + 1)
  end
  if tonumber(ARGV[5 + 2 * scope]) > 0 then
    redis.call('HINCRBY', KEYS[3 + 2 * scope], replica, 1)
    redis.call('EXPIRE', KEYS[3 + 2 * scope], 86400)
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return {1, limit, remaining or 0, reset}
