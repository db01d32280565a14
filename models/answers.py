"""Stored answers in Redis: what they are called there, and how one is forgotten.

A member is ``<organisation id>:<digest>``. In Redis:

- ``ANSWER_PREFIX<member>``: the answer, until its end.
- ``ANSWER_ENDS``: a sorted set of all members by their end (Unix ms); ``ANSWER_ENDS_PREFIX<organisation id>``: of one.
- ``ANSWER_SIZES``: a hash of members' bytes; ``ANSWER_TOTALS``: of organisations' bytes, and of all under ``*``.
"""

ANSWER_PREFIX = "objecta:answer:"
ANSWER_ENDS = "objecta:answers:ends"
ANSWER_ENDS_PREFIX = "objecta:answers:ends:"
ANSWER_SIZES = "objecta:answers:sizes"
ANSWER_TOTALS = "objecta:answers:totals"

FORGET_ANSWER = f"""
-- Forget one answer and what was counted of it; one that is not there changes nothing.
local function forget_answer(member)
  local owner = string.match(member, '^(.*):')
  local size = tonumber(redis.call('HGET', '{ANSWER_SIZES}', member) or 0)
  redis.call('DEL', '{ANSWER_PREFIX}' .. member)
  redis.call('HDEL', '{ANSWER_SIZES}', member)
  redis.call('ZREM', '{ANSWER_ENDS}', member)
  redis.call('ZREM', '{ANSWER_ENDS_PREFIX}' .. owner, member)
  if size > 0 then
    for _, whose in ipairs({{owner, '*'}}) do
      if redis.call('HINCRBY', '{ANSWER_TOTALS}', whose, -size) <= 0 then
        redis.call('HDEL', '{ANSWER_TOTALS}', whose)
      end
    end
  end
end
"""
"""Shared by whoever makes room or erases."""
