-- Settle one call: its usage event goes to the stream, its record, its places in the concurrency limits and its hold
-- are freed, and its true cost is booked. A second run for the same event changes nothing, so whoever lost the reply may
-- send it again. Without an event the call never was: it is closed, and one whose admission is stuck will not be opened.
--
-- KEYS  1 open calls (hash)  2 usage stream  3 this event's mark  4 holds of open calls (hash)
--       5.. concurrency keys the call holds a place in
-- ARGV  1 event id  2 event (JSON)  3 replica id  4 seconds to keep the mark
--       5 the call's hold (models.budgets; empty: none)  6 its true cost in micro-units  7 its true tokens
-- Reply 1 settled, 0 it was before

if not redis.call('SET', KEYS[3], '1', 'NX', 'EX', ARGV[4]) then
  return 0
end
if ARGV[2] ~= '' then redis.call('XADD', KEYS[2], '*', 'event', ARGV[2]) end
local opened = redis.call('HDEL', KEYS[1], ARGV[1]) == 1
if opened then
  for i = 5, #KEYS do
    if redis.call('HINCRBY', KEYS[i], ARGV[3], -1) <= 0 then
      redis.call('HDEL', KEYS[i], ARGV[3])
    end
  end
end
if ARGV[5] ~= '' and (opened or ARGV[2] ~= '') then
  redis.call('HDEL', KEYS[4], ARGV[1])
  local clock = redis.call('TIME')
  settle_hold(ARGV[5], opened, tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[1], clock[1] * 1000 + clock[2] / 1000)
end
return 1
