-- One stored answer.   KEYS  1 the answer   Reply its bytes, or nothing
return redis.call('GET', KEYS[1])
