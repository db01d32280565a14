"""Stored answers in Redis, over a connection of their own: an answer of a megabyte holds no admission up.

Raises RedisAway where Redis does not answer in time or refuses (out of memory, read-only).
"""

from typing import cast

from models.answers import (
    ANSWER_ENDS,
    ANSWER_ENDS_PREFIX,
    ANSWER_PREFIX,
    ANSWER_SIZES,
    ANSWER_TOTALS,
    FORGET_ANSWER,
)
from serve.cache.config import CacheConfig
from serve.scripts import Script, ScriptRunner

# What Redis spends on an answer beside its bytes, about: the key and its places in the indices.
MEMBER_BYTES = 700
FORGOTTEN_MAX = 64


class Store:
    """Answers of all organisations, each under its own name."""

    def __init__(self, runner: ScriptRunner, config: CacheConfig) -> None:
        self._runner = runner
        self._config = config
        self._recall = Script("recall")
        self._remember = Script("remember", FORGET_ANSWER)

    async def get(self, organisation_id: str, digest: str) -> bytes | None:
        """One answer."""
        key = f"{ANSWER_PREFIX}{organisation_id}:{digest}"
        return cast("bytes | None", await self._runner.run(self._recall, (key,), ()))

    async def put(self, organisation_id: str, digest: str, value: bytes, seconds: int) -> bool:
        """Keep one answer, in place of the one before; whether there was room."""
        member = f"{organisation_id}:{digest}"
        keys = (
            ANSWER_ENDS,
            ANSWER_ENDS_PREFIX + organisation_id,
            ANSWER_SIZES,
            ANSWER_TOTALS,
            ANSWER_PREFIX + member,
        )
        limits = (self._config.organisation_bytes_max, self._config.bytes_max, MEMBER_BYTES, FORGOTTEN_MAX)
        arguments = (value, member, organisation_id, seconds * 1_000, *limits)
        return await self._runner.run(self._remember, keys, arguments) == 1

    async def close(self) -> None:
        """End the connection."""
        await self._runner.close()
