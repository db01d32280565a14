-- Admit one call, or say why not: every scope's limits and budgets hold at once, and nothing is written unless all do.
--
-- A call that is settled already (its admission was stuck on the way) is not opened again.
--
-- KEYS  1 open calls (hash)  2 this replica's heartbeat  3 the mark of the settled event  4 holds of open calls (hash)
--       5.. three a limited scope: its request rate, its concurrency, its token rate;  then one a budget's window
-- ARGV  1 event id  2 what to keep of the call ("<replica>|<event>")  3 replica id  4 lease in seconds
--       5 prefix of heartbeat keys  6 number of scopes  7 the call's hold (models.budgets; empty: none)
--       8 tokens to reserve  9 micro-units to hold  10 whether a hard budget that nobody has counted passes (1)
--       11.. three a scope: requests a minute, concurrent requests, tokens a minute (0: unlimited)
--       then two a budget: its limit in micro-units, whether it is hard (1)
-- Reply {admitted, place, what, wait, request limit, remaining, reset, token limit, remaining, reset}
--       place (from 1): the scope, or the budget where what is 4 to 6; limits are the tightest, 0 without one
--       what: 1 requests a minute, 2 concurrency, 3 tokens a minute, 4 a budget is spent, 5 its rest is held by
--       running calls, 6 nobody has counted it yet;  wait and reset in milliseconds
--
-- Rates: GCRA, a burst of a whole minute's worth. A rate key holds the time (ms) at which the burst is whole again.
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
  return {1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
end

local shown = {{0, nil, 0}, {0, nil, 0}}
local full = {}

local function answer(admitted, place, what, wait)
  local one, two = shown[1], shown[2]
  return {admitted, place, what, wait, one[1], one[2] or 0, one[3], two[1], two[2] or 0, two[3]}
end

-- Milliseconds to wait until a rate takes the amount; nil where it takes it now.
local function rated(show, key, rate, amount)
  local step = MINUTE / rate
  local whole = math.max(tonumber(redis.call('GET', key) or 0), now) + math.min(amount, rate) * step
  local early = whole - MINUTE - now
  if early > 0.001 then
    local before = whole - math.min(amount, rate) * step
    shown[show] = {rate, math.max(0, math.floor((MINUTE - (before - now)) / step + 0.001)), math.ceil(before - now)}
    return math.ceil(early)
  end
  full[key] = whole
  local left = math.floor((MINUTE - (whole - now)) / step + 0.001)
  if shown[show][2] == nil or left < shown[show][2] then
    shown[show] = {rate, left, math.ceil(whole - now)}
  end
end

local scopes = tonumber(ARGV[6])
for scope = 1, scopes do
  local key, arg = 2 + 3 * scope, 8 + 3 * scope
  local requests, concurrent, tokens = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1]), tonumber(ARGV[arg + 2])
  local wait = requests > 0 and rated(1, KEYS[key], requests, 1)
  if wait then return answer(0, scope, 1, wait) end
  if concurrent > 0 and running(KEYS[key + 1]) >= concurrent then return answer(0, scope, 2, 1000) end
  wait = tokens > 0 and rated(2, KEYS[key + 2], tokens, tonumber(ARGV[8]))
  if wait then return answer(0, scope, 3, wait) end
end

local micro = tonumber(ARGV[9])
local first = 4 + 3 * scopes
local budgets = #KEYS - first
for budget = 1, budgets do
  local arg = 9 + 3 * scopes + 2 * budget
  if ARGV[arg + 1] == '1' and micro > 0 then
    local kept = redis.call('HMGET', KEYS[first + budget], 'spent', 'held')
    local spent, held, limit = tonumber(kept[1]), tonumber(kept[2] or 0), tonumber(ARGV[arg])
    if spent == nil then
      if ARGV[10] ~= '1' then return answer(0, budget, 6, 1000) end
    elseif spent + micro > limit then
      return answer(0, budget, 4, 0)
    elseif spent + held + micro > limit then
      return answer(0, budget, 5, 1000)
    end
  end
end

for key, whole in pairs(full) do
  redis.call('SET', key, string.format('%.3f', whole), 'PX', math.ceil(whole - now) + 1)
end
for scope = 1, scopes do
  if tonumber(ARGV[9 + 3 * scope]) > 0 then
    redis.call('HINCRBY', KEYS[3 + 3 * scope], replica, 1)
    redis.call('EXPIRE', KEYS[3 + 3 * scope], 86400)
  end
end
if micro > 0 then
  for budget = 1, budgets do
    redis.call('HINCRBY', KEYS[first + budget], 'held', ARGV[9])
    -- What nobody has counted has no end yet; the count gives it its own.
    if redis.call('HEXISTS', KEYS[first + budget], 'spent') == 0 then
      redis.call('EXPIRE', KEYS[first + budget], 3456000)
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[7] ~= '' then redis.call('HSET', KEYS[4], ARGV[1], ARGV[7]) end
return answer(1, 0, 0, 0)
