"""The exact response cache of one gateway replica.

Invariants
1. Nothing is looked up or kept unless the request asks for it, or its model is kept by configuration.
2. An answer is given to callers of its own organisation alone, and only for the same request to the same model.
3. Only an answer that came to its own end is kept, and whose tokens the upstream told (``serve.cache.assembly``).
4. Redis away, slow or full: the call goes on as if there were no cache, and is told ``bypass``.
5. An answer is on its way to its client before it is stored; storing it holds no call up.

What the client reads in ``x-objecta-cache``: ``hit``; ``miss``: looked for, or to be made anew; ``bypass``: not looked
for.
"""

import asyncio
import time
from dataclasses import dataclass

from prometheus_client import Counter

from models.usage import BUCKETS
from serve.asgi import Message, Send
from serve.cache.answer import Origin, StoredAnswer
from serve.cache.assembly import kept
from serve.cache.config import CacheConfig, millionths
from serve.cache.keys import digest, fingerprint
from serve.cache.store import Store
from serve.cache.wishes import ON, OUTCOME, Wish
from serve.config import GatewayConfig, ModelRoute
from serve.records import Call
from serve.routing import Endpoint, Target
from serve.scripts import RedisAway, ScriptRunner
from serve.validation import Body

# Answers that are being stored at once; those beyond are not kept.
STORING_MAX = 64


@dataclass(frozen=True, slots=True)
class _Kept:
    """A model of which answers may be kept: what it is, for how long unasked (0: not at all), at which price."""

    fingerprint: bytes
    ttl_seconds: int
    share: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is to be kept, and for how long."""

    organisation_id: str
    digest: str
    ttl_seconds: int


class Lookup:
    """What became of one call's look at the cache, and the caller's ``send`` until its answer is whole.

    ``stored``: the answer to give; ``share``: the millionths of its price that it costs.
    """

    __slots__ = ("_bytes_max", "_outcome", "_parts", "_send", "_size", "_whole", "place", "share", "stored")

    def __init__(self, send: Send, outcome: bytes, place: Place | None = None, bytes_max: int = 0) -> None:
        self._send = send
        self._outcome = (OUTCOME, outcome)
        self._bytes_max = bytes_max if place else 0
        self._parts: list[bytes] = []
        self._size = 0
        self._whole = False
        self.place = place
        self.stored: StoredAnswer | None = None
        self.share = 0

    async def send(self, message: Message) -> None:
        """One ASGI message on its way to the caller."""
        if message["type"] == "http.response.start":
            await self._send({**message, "headers": [*message["headers"], self._outcome]})
            return
        if self._bytes_max:
            part = message.get("body", b"")
            self._size += len(part)
            if self._size > self._bytes_max:
                self._bytes_max, self._parts = 0, []
            else:
                self._parts.append(part)
                self._whole = not message.get("more_body", False)
        await self._send(message)

    def body(self) -> bytes | None:
        """What was sent, if it is to be kept and came to its end."""
        return b"".join(self._parts) if self._whole and self._bytes_max else None


class ResponseCache:
    """Looks answers up and keeps them. ``models``: those whose answers are kept unasked."""

    def __init__(self, config: GatewayConfig, store: Store | None, outcomes: Counter) -> None:
        self._config = config.cache or CacheConfig()
        self._store = store
        self._outcomes = outcomes
        self._known = {route.entry.id: self._kept(route) for route in config.routes}
        self.models = frozenset(name for name, one in self._known.items() if one.ttl_seconds and store is not None)
        self._storing: set[asyncio.Task[None]] = set()

    def _kept(self, route: ModelRoute) -> _Kept:
        own = route.cache
        ratio = self._config.hit_price_ratio
        if own is not None and own.hit_price_ratio is not None:
            ratio = own.hit_price_ratio
        return _Kept(fingerprint(route), own.ttl_seconds if own else 0, millionths(ratio))

    async def look(
        self, organisation_id: str, wish: Wish | None, endpoint: Endpoint, target: Target, body: Body, send: Send
    ) -> Lookup | None:
        """Whether there is an answer; None where neither the request nor its model's configuration asks."""
        known = self._known.get(target.entry.id) if target.entry else None
        if wish is None:
            if known is None or not known.ttl_seconds:
                return None
            wish = ON
        if known is None or self._store is None or not (wish.look or wish.keep) or body.get("store"):
            return self._lookup(send, "bypass")
        ttl = wish.ttl_seconds or known.ttl_seconds or self._config.ttl_seconds
        place = Place(organisation_id, digest(endpoint, known.fingerprint, body), ttl)
        if not wish.look:
            return self._lookup(send, "miss", place)
        try:
            found = await self._store.get(place.organisation_id, place.digest)
        except RedisAway:
            self._outcomes.labels("away").inc()
            return self._lookup(send, "bypass")
        stored = None if found is None else StoredAnswer.load(found)
        if stored is None:
            return self._lookup(send, "miss", place)
        lookup = self._lookup(send, "hit")
        lookup.stored, lookup.share = stored, known.share
        return lookup

    def _lookup(self, send: Send, outcome: str, place: Place | None = None) -> Lookup:
        self._outcomes.labels(outcome).inc()
        return Lookup(send, outcome.encode(), place, self._config.answer_bytes_max)

    def keep(self, lookup: Lookup, call: Call, asked: Target) -> None:
        """Keep what ``call`` answered, where that is right: by the model that was asked, in one go."""
        body = lookup.body()
        if lookup.place is None or body is None or call.status != "ok" or call.source != "provider":
            return
        right = asked.entry is not None and call.model == asked.entry.id and (call.attempts == 1 or not call.streamed)
        if not right or len(self._storing) >= STORING_MAX:
            self._outcomes.labels("not_kept").inc()
            return
        usage = {name: count for name in BUCKETS if (count := getattr(call.usage, name))}
        origin = Origin(time.time_ns() // 1_000_000, call.model, call.upstream, call.upstream_model, usage)
        task = asyncio.ensure_future(self._put(lookup.place, body, origin, streamed=call.streamed))
        self._storing.add(task)
        task.add_done_callback(self._storing.discard)

    async def _put(self, place: Place, body: bytes, origin: Origin, *, streamed: bool) -> None:
        if self._store is None:
            return
        # A long stream has thousands of chunks: joining them would hold every other call up.
        value = await asyncio.to_thread(_stored, body, origin, streamed=streamed)
        outcome = "not_kept"
        if value is not None:
            try:
                if await self._store.put(place.organisation_id, place.digest, value, place.ttl_seconds):
                    outcome = "kept"
            except RedisAway:
                outcome = "away"
        self._outcomes.labels(outcome).inc()

    async def close(self) -> None:
        """What is being stored is given up."""
        for task in self._storing:
            task.cancel()
        if self._storing:
            await asyncio.wait(self._storing)
        if self._store is not None:
            await self._store.close()


def response_cache(config: GatewayConfig, outcomes: Counter) -> ResponseCache:
    """The cache over Redis; it connects with the first answer that is looked for. ``outcomes`` has one label."""
    store = None
    if config.cache is not None:
        runner = ScriptRunner(config.redis_url, config.cache.redis_seconds_max, config.redis_rest_seconds)
        store = Store(runner, config.cache)
    return ResponseCache(config, store, outcomes)


def _stored(body: bytes, origin: Origin, *, streamed: bool) -> bytes | None:
    answer = kept(body, streamed=streamed)
    return None if answer is None else StoredAnswer.of(answer, origin).dump()
