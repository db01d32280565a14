"""The queues of one replica: a call that its upstream has no place for waits here, and gives its place back at the end.

Invariants
1. A place is given back once, whatever becomes of the call: answered, failed, cancelled, its client gone.
2. A call that waits holds what it was admitted with; the replica's heartbeat keeps that held.
3. A client that leaves ends the wait at once, and so does patience. Nothing was sent upstream, nothing is charged.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from prometheus_client import Gauge, Histogram

from models.errors import PlatformError, RateLimited, Unavailable
from models.usage import CallKind
from serve.asgi import Receive
from serve.attempts import Attempt
from serve.config import GatewayConfig, Queueing
from serve.hangup import HangUp
from serve.metrics import Metrics
from serve.queueing import FairQueue, Rank, Rules, Ticket, Where
from serve.queueing_tiers import with_priority
from serve.records import Call

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 60.0
# How much of the pace the last end of a call says.
RECENT = 0.1
UNAVAILABLE = "resource_unavailable"


class UpstreamQueue:
    """Of one upstream."""

    def __init__(self, name: str, concurrency: int, config: Queueing, metrics: Metrics) -> None:
        self._queue = FairQueue(
            Rules(concurrency, config.waiting_max, config.low_share, config.batch_beside, config.batch_alone)
        )
        patient = config.patient_seconds_max
        self._patience = {Rank.LIVE: config.live_seconds_max, Rank.FLEX: patient, Rank.BATCH: patient}
        self._metrics: dict[Rank, tuple[Gauge, Histogram]] = {
            rank: metrics.of_queue(name, rank.name.lower()) for rank in Rank
        }
        self._loop = asyncio.get_running_loop()
        self._pace_seconds = 0.0
        self._left_at = 0.0

    async def enter(self, call: Call, receive: Receive) -> Ticket:
        """A place, to be given back with ``leave``. Raises Unavailable, RateLimited, ClientDisconnected."""
        turn, principal = call.turn, call.principal
        weight = principal.organisation_limits.weight or 1
        ticket = Ticket(principal.organisation_id, weight, turn.rank, turn.cost)
        self._queue.enter(ticket)
        if ticket.where is Where.WAITING:
            await self._wait(ticket, receive)
        if ticket.where is not Where.THROUGH:
            raise self._busy(ticket.rank, call.asked)
        return ticket

    def leave(self, ticket: Ticket, call: Call) -> None:
        """The call has ended, well or not."""
        now = self._loop.time()
        if self._queue.waiting:
            self._pace_seconds += RECENT * (now - self._left_at - self._pace_seconds)
        self._left_at = now
        self._queue.leave(ticket, call.reported.total if call.reported is not None else None)

    async def _wait(self, ticket: Ticket, receive: Receive) -> None:
        """Returns with the ticket through, or out of the queue."""
        called: asyncio.Future[None] = self._loop.create_future()

        def told() -> None:
            if not called.done():
                called.set_result(None)

        ticket.told = told
        began, ended = self._loop.time(), False
        length, seconds = self._metrics[ticket.rank]
        length.inc()
        try:
            async with HangUp(receive), asyncio.timeout(self._patience[ticket.rank]):
                await called
            ended = True
        except TimeoutError:
            # It may have been let through in that very moment.
            ended = ticket.where is not Where.WAITING
        finally:
            length.dec()
            seconds.observe(self._loop.time() - began)
            if not ended:
                self._queue.leave(ticket)

    def _busy(self, rank: Rank, model: str) -> PlatformError:
        """What OpenAI says of an overloaded engine, and of flex calls that there is no room for."""
        before = sum(self._queue.waiting_of(above) for above in Rank if above <= rank)
        wait = min(max(before * self._pace_seconds, RETRY_SECONDS_MIN), RETRY_SECONDS_MAX)
        if rank is Rank.LIVE:
            return Unavailable(f"The model '{model}' is overloaded at the moment.", retry_after_seconds=wait)
        message = f"The model '{model}' has no capacity to spare at the moment."
        return RateLimited(message, code=UNAVAILABLE, retry_after_seconds=wait)


def queues(config: GatewayConfig, metrics: Metrics) -> dict[str, UpstreamQueue]:
    """By the names of the upstreams that take a bounded number of calls at once."""
    bounded = {route.upstream.name: route.upstream.concurrency for route in config.routes}
    bounded |= {other.upstream.name: other.upstream.concurrency for route in config.routes for other in route.others}
    return {name: UpstreamQueue(name, many, config.queueing, metrics) for name, many in bounded.items() if many}


def yielding(plan: Sequence[Attempt], kind: CallKind, rank: Rank) -> list[Attempt]:
    """The attempts; those at our engines say that others go first there, too."""
    if kind not in {"chat", "completion"}:
        return list(plan)
    return [replace(one, raw=with_priority(one.raw, rank)) if _engine(one) else one for one in plan]


def _engine(attempt: Attempt) -> bool:
    return attempt.target.upstream.internal and not attempt.target.upstream.own
