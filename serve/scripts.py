"""Lua scripts on Redis for the request path: one connection, calls grouped as they come, no wait without an end.

Invariants
1. While one group is at Redis the next one gathers: alone a call waits for one round trip, in a crowd many share one.
   Calls run in the order in which they were submitted; a patient one goes with the next that is not, or a moment later.
2. A call ends within ``seconds_max`` of its group's start, with a reply or with ``RedisAway``.
3. After a failure Redis is left alone for ``rest_seconds``: calls fail at once and none of them waits for it.
4. ``RedisAway`` leaves open whether the script ran; scripts that must not run twice guard themselves.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("lua")
GROUP_MAX = 128
# A write costs the loop more than the script in it: what nobody waits for goes with what somebody does.
PATIENCE_SECONDS = 0.005

Argument = str | bytes | int


class RedisAway(Exception):
    """Redis did not answer, or was not asked because it just did not.

    ``maybe_ran``: it was asked, so the script may have run all the same.
    """

    def __init__(self, *, maybe_ran: bool = True) -> None:
        super().__init__()
        self.maybe_ran = maybe_ran


class Script:
    """A script of ``serve/lua``, known to Redis by its SHA-1; ``functions`` are the Lua functions it calls."""

    def __init__(self, name: str, functions: str = "") -> None:
        self.text = functions + (FOLDER / f"{name}.lua").read_text(encoding="utf-8")
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Call:
    script: Script
    keys: Sequence[Argument]
    arguments: Iterable[Argument]
    reply: asyncio.Future[Any]
    patient: bool

    def command(self) -> tuple[Argument, ...]:
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.arguments)


class ScriptRunner:
    """Runs scripts. It connects with the first call and after each failure; ``close`` fails what still waits."""

    def __init__(self, url: SecretStr, seconds_max: float, rest_seconds: float) -> None:
        self._connection = connection(url, seconds_max)
        self._seconds_max = seconds_max
        self._rest_seconds = rest_seconds
        self._asleep_until = 0.0
        self._waiting: list[_Call] = []
        self._loaded: set[Script] = set()
        self._urgent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def resting(self) -> bool:
        """Whether Redis is left alone at the moment."""
        return time.monotonic() < self._asleep_until

    async def run(self, script: Script, keys: Sequence[Argument], arguments: Iterable[Argument]) -> Any:
        """The script's reply. Raises RedisAway, also where Redis refuses (out of memory, read-only); that is logged."""
        return await self.submit(script, keys, arguments)

    def submit(
        self, script: Script, keys: Sequence[Argument], arguments: Iterable[Argument], *, patient: bool = False
    ) -> asyncio.Future[Any]:
        """Like ``run``, for who has many: a future of the reply. ``patient``: a few milliseconds later will do."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self.resting:
            reply.set_exception(RedisAway(maybe_ran=False))
            return reply
        self._waiting.append(_Call(script, keys, arguments, reply, patient))
        self._urgent += not patient
        if self._pump is None:
            if not patient:
                self._begin()
            elif self._timer is None:
                self._timer = loop.call_later(PATIENCE_SECONDS, self._begin)
        return reply

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pump is None:
            self._pump = asyncio.ensure_future(self._run_groups())

    async def close(self) -> None:
        """End the connection."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        self._fail([])
        await self._connection.disconnect(nowait=True)

    async def _run_groups(self) -> None:
        group: list[_Call] = []
        healthy = False
        try:
            # What is patient alone does not keep it going; what began it may be.
            while self._waiting and (self._urgent or not group):
                group, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
                self._urgent -= sum(not call.patient for call in group)
                async with asyncio.timeout(self._seconds_max):
                    await self._run_group(group)
            healthy = True
        except (RedisError, OSError):
            self._asleep_until = time.monotonic() + self._rest_seconds
        finally:
            self._pump = None
            if not healthy:
                # Half a reply may be under way: a connection that failed is never used again.
                self._loaded.clear()
                await self._connection.disconnect(nowait=True)
                self._fail(group)
            elif self._waiting:
                self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._begin)

    def _fail(self, group: list[_Call]) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost, self._waiting, self._urgent = [*group, *self._waiting], [], 0
        for call in lost:
            if not call.reply.done():
                call.reply.set_exception(RedisAway())

    async def _run_group(self, group: list[_Call]) -> None:
        # Known before they are first called: one that had to be loaded in between would run after those behind it.
        fresh = {call.script for call in group} - self._loaded
        loads: list[tuple[Argument, ...]] = [("SCRIPT", "LOAD", script.text) for script in fresh]
        replies = (await self._send(loads + [call.command() for call in group]))[len(loads) :]
        self._loaded |= fresh
        unknown = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            texts = {group[index].script.text for index in unknown}
            await self._send([("SCRIPT", "LOAD", text) for text in texts])
            again = await self._send([group[index].command() for index in unknown])
            for index, reply in zip(unknown, again, strict=True):
                replies[index] = reply
        for call, reply in zip(group, replies, strict=True):
            if call.reply.done():
                continue
            if isinstance(reply, ResponseError):
                logger.error("Redis refused a script: %s", reply)
                call.reply.set_exception(RedisAway())
            else:
                call.reply.set_result(reply)

    async def _send(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        await self._connection.send_packed_command(b"".join(map(packed, commands)))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self._connection.read_response())
            except ResponseError as error:
                replies.append(error)
        return replies


def packed(command: Iterable[Argument]) -> bytes:
    """A command on Redis's wire (RESP): https://redis.io/docs/latest/develop/reference/protocol-spec/."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def connection(url: SecretStr, connect_seconds_max: float) -> Connection:
    """A connection to ``url`` (redis://, rediss:// or unix://) that is made once and retried by nobody else."""
    pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py leaves its **kwargs untyped
        url.get_secret_value(),
        socket_connect_timeout=connect_seconds_max,
        socket_timeout=None,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return cast("Connection", pool.make_connection())
