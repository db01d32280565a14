-- Settle one call: its usage event goes to the stream, its record and its places in the concurrency limits are freed.
-- A second run for the same event changes nothing, so whoever lost the reply may send it again.
--
-- KEYS  1 open calls (hash)  2 usage stream  3 this event's mark  4.. concurrency keys the call holds a place in
-- ARGV  1 event id  2 event (JSON)  3 replica id  4 seconds to keep the mark
-- Reply 1 settled, 0 it was before

if not redis.call('SET', KEYS[3], '1', 'NX', 'EX', ARGV[4]) then
  return 0
end
redis.call('XADD', KEYS[2], '*', 'event', ARGV[2])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 1 then
  for i = 4, #KEYS do
    if redis.call('HINCRBY', KEYS[i], ARGV[3], -1) <= 0 then
      redis.call('HDEL', KEYS[i], ARGV[3])
    end
  end
end
return 1
