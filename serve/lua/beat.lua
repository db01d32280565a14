-- Renew a replica's lease, or end it.
-- KEYS  1 the replica's heartbeat   ARGV  1 lease in seconds, 0 ends it
if ARGV[1] == '0' then
  return redis.call('DEL', KEYS[1])
end
redis.call('SET', KEYS[1], '1', 'EX', ARGV[1])
return 1
