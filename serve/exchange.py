"""One attempt to have a call answered: the request to its upstream, the answer to its client, whole or as a stream.

1. Until the client has read of it a failure is raised, and another target may answer (``serve.attempts``).
2. A stream that breaks after that ends with an error frame, unless the call's stance (``serve.policies``) is to resume
   it: then others are asked to go on, and what each attempt came to is noted apart (``Call.bank``).
3. A client that leaves cuts the upstream off; where its route drains, the answer is read to its end all the same.
"""

from collections.abc import Sequence
from contextlib import nullcontext

from models.channels import PRINCIPAL_HEADER, REQUEST_ID_HEADER
from models.errors import PlatformError, RateHeaders
from serve.asgi import Receive, Send
from serve.attempts import Attempt
from serve.config import GatewayConfig
from serve.hangup import HangUp, Leaving
from serve.metrics import Metrics
from serve.midstream import Resumption, Step
from serve.partial import Partial
from serve.policies import Stance
from serve.records import Call
from serve.relay import HeaderList, Patience, StreamRelay, relay_whole
from serve.routing import Target
from serve.streams import StreamFilter, StreamShape

REQUEST_ID = REQUEST_ID_HEADER.encode()
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
API_VERSION = b"2020-10-01"
COST = b"x-objecta-cost"


class Exchanges:
    """What all exchanges of a replica share. ``closing``: it stops, and reads nothing for nobody any more."""

    def __init__(self, config: GatewayConfig, metrics: Metrics) -> None:
        self.answer_bytes_max = config.answer_bytes_max
        self.metrics = metrics
        self.closing = False


class Exchange:
    """One attempt of one call; the others of its plan may go on with its stream if it breaks."""

    __slots__ = ("_attempt", "_call", "_limits", "_path", "_plan", "_shared")

    def __init__(
        self,
        shared: Exchanges,
        call: Call,
        attempt: Attempt,
        plan: Sequence[Attempt],
        path: str,
        limits: RateHeaders,
    ) -> None:
        self._shared = shared
        self._call = call
        self._attempt = attempt
        self._plan = plan
        self._path = path
        self._limits = limits

    async def run(self, receive: Receive, send: Send) -> None:
        """To the end of the answer. Raises what others may answer or the client is to be told; ClientDisconnected."""
        seconds = self._attempt.target.policy.drain_seconds
        answer = self._whole if self._attempt.shape is None else self._stream
        if seconds:
            leaving = Leaving(send, seconds, self._closing)
            await leaving.outlived_by(answer(leaving, leaving.send), receive)
            return
        async with HangUp(receive) as watch:
            await answer(watch, send)

    def _closing(self) -> bool:
        return self._shared.closing

    async def _whole(self, watch: HangUp | Leaving, send: Send) -> None:
        call, attempt = self._call, self._attempt
        target = attempt.target
        patience = Patience(target.policy)
        try:
            async with patience.timeout:
                headers = _headers_for(call, target)
                response = await target.upstream.post(self._path, attempt.raw, headers, call.asked, streamed=False)
                ours = answer_headers(call, self._limits)
                body = await relay_whole(response, call, self._shared.answer_bytes_max, patience)
        except TimeoutError:
            raise target.upstream.too_slow(call.asked, patience.spent()) from None
        watch.answered()
        call.end("ok", 200)
        call.count()
        if call.price is not None:
            ours.append((COST, b"%d" % call.cost_micro()))
        length = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": length + ours})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, watch: HangUp | Leaving, send: Send) -> None:
        call, attempt = self._call, self._attempt
        stance, shape = call.stance, attempt.shape
        if shape is None:
            raise ValueError("a stream has a shape")
        partial = Partial() if stance is not None and stance.continues else None
        relay = StreamRelay(call, StreamFilter(shape, call.price), send, watch, partial)
        patience = Patience(attempt.target.policy)
        loss = await self._relayed(attempt.target, attempt.raw, relay, patience)
        if loss is not None and stance is not None and relay.passed:
            loss = await self._resumed(stance, shape, relay, watch, loss, patience.end)
        if loss is not None:
            await relay.fail(loss)

    async def _relayed(
        self, target: Target, raw: bytes, relay: StreamRelay, patience: Patience
    ) -> PlatformError | None:
        """One stream, and how it was lost, if it was. Raises what its upstream refused it with."""
        call = self._call
        try:
            async with patience.timeout:
                headers = _headers_for(call, target)
                response = await target.upstream.post(self._path, raw, headers, call.asked, streamed=True)
                return await relay.run(response, [EVENTS, *answer_headers(call, self._limits)], patience)
        except TimeoutError:
            return target.upstream.too_slow(call.asked, patience.spent())

    async def _resumed(
        self,
        stance: Stance,
        shape: StreamShape,
        relay: StreamRelay,
        watch: HangUp | Leaving,
        loss: PlatformError,
        end: float,
    ) -> PlatformError | None:
        """Others go on until the stream ends or nobody can; how it was lost then."""
        call = self._call
        others = [other for other in self._plan if other is not self._attempt]
        resumption = Resumption(call, stance, self._attempt, others, shape, relay.head)
        for _ in range(stance.times):
            resumption.lost()
            if watch.gone:
                return loss
            if rest := resumption.ending(relay.partial):
                self._shared.metrics.resumed(call.model, "ended")
                await relay.close(rest)
                return None
            for step in resumption.steps(relay.partial):
                lost = await self._again(resumption, step, relay, loss, end)
                if lost is None:
                    return None
                if relay.passed:
                    loss = lost
                    break
            else:
                break
        resumption.give_up()
        return loss

    async def _again(
        self, resumption: Resumption, step: Step, relay: StreamRelay, loss: PlatformError, end: float
    ) -> PlatformError | None:
        """One more attempt at the stream; how that was lost. It counts as a retry at its upstream."""
        call, target = self._call, step.attempt.target
        upstream = target.upstream
        if not upstream.retries.withdraw():
            return loss
        call.again(target, len(step.raw))
        relay.again(resumption.seam(step, loss), relay.partial if step.continues else relay.partial and Partial())
        try:
            with target.load.taken() if target.load is not None else nullcontext():
                return await self._relayed(target, step.raw, relay, Patience(target.policy, end))
        except PlatformError as error:
            if relay.passed:
                raise
            return error
        finally:
            if relay.passed:
                upstream.retries.answered()
                resumption.took(step)
                self._shared.metrics.resumed(call.model, "continued" if step.continues else "restarted")


def _headers_for(call: Call, target: Target) -> dict[str, str]:
    if target.own_key is not None:
        return {REQUEST_ID_HEADER: call.request_id, **target.own_key.headers}
    if not target.upstream.own:
        return {REQUEST_ID_HEADER: call.request_id}
    # A header has little room: the runtime needs this agent alone.
    named = tuple(agent for agent in call.principal.agents if agent.model_id == call.asked)
    principal = call.principal.model_copy(update={"agents": named})
    return {REQUEST_ID_HEADER: call.request_id, PRINCIPAL_HEADER: principal.to_header()}


def answer_headers(call: Call, limits: RateHeaders) -> HeaderList:
    """What every successful inference answer bears, beside its type."""
    return [
        (REQUEST_ID, call.request_id.encode()),
        (b"openai-version", API_VERSION),
        (b"openai-organization", call.principal.organisation_id.encode()),
        (b"openai-processing-ms", b"%d" % call.elapsed_ms()),
        (b"x-objecta-model", call.model.encode()),
        (b"x-objecta-upstream", call.upstream.encode()),
        (b"x-objecta-attempts", b"%d" % call.attempts),
        *limits,
    ]
