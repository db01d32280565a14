"""Calling an upstream over HTTP: pooled connections, three timeouts, one retry where nothing can have been sent.

Invariants
1. A request is sent again only after a failure to connect; a server that may have read it is not asked twice.
2. An answer that is not the upstream's (a proxy's page, a wrong type, an error) is raised, never passed through.
3. The caller closes what ``post`` returns; closing before its end cuts the connection, which stops the upstream.
4. No call waits for an upstream of ours that is away: see ``serve.breaker``. One that is not ours is left alone while
   it fails: see ``serve.circuit``.
"""

import asyncio
from collections.abc import Mapping
from copy import copy

from pydantic import SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import PlatformError, Unavailable, UpstreamError, UpstreamTimeout
from serve.breaker import RETRY_SECONDS, Breaker, away
from serve.circuit import FAULTS, Circuit, State
from serve.config import CircuitPolicy, RetryPolicy, Timeouts, Upstream
from serve.http1 import Answer, WireError
from serve.refusals import refusal
from serve.retries import RetryBudget
from serve.wire import NotConnected, Wire, place

ERROR_BYTES_MAX = 65_536
TOKENIZE = "/tokenize"
# The routes an upstream may have, and the parameter that holds what the model reads.
PROMPTS = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/rerank": "documents",
    TOKENIZE: "messages",
}
# What a proxy says of a server that it cannot reach.
PROXY_ERRORS = frozenset({502, 503, 504})
JSON = "application/json"
EVENTS = "text/event-stream"


class UpstreamClient:
    """One upstream. ``own``: it renders our error tree (the agent runtime)."""

    def __init__(
        self,
        wire: Wire,
        upstream: Upstream,
        secret: SecretStr,
        timeouts: Timeouts,
        *,
        own: bool = False,
        retries: RetryPolicy,
        circuit: CircuitPolicy,
    ) -> None:
        self.name = upstream.name
        self.internal = upstream.internal
        self.hosted = upstream.hosted
        self.shared = upstream.shared
        self.own = own
        self._theirs: str | None = None
        self.retries = RetryBudget(retries)
        self._wire = wire
        self._probe_seconds = timeouts.probe_seconds
        self.connect_seconds = timeouts.connect_seconds
        base = upstream.base_url.rstrip("/")
        self._places = {path: place(base + path) for path in PROMPTS}
        self._probe = place(base + ("/health" if upstream.internal else "/v1/models"), "GET")
        self._headers = {"content-type": JSON, "accept-encoding": "identity"}
        # A hosted provider is not ours to ask how it is: its probe may be refused, or counted.
        self._breaker = Breaker(self.alive, timeouts.doubt_seconds) if upstream.internal else None
        self._circuit = None if upstream.internal else Circuit(circuit)
        self._policy = circuit
        # What names the platform's account there.
        self._account: dict[str, str] = {}
        if upstream.internal:
            self._headers[CLUSTER_SECRET_HEADER] = secret.get_secret_value()
        if upstream.api_key is not None:
            self._account["authorization"] = f"Bearer {upstream.api_key.get_secret_value()}"
        self._account |= {name: value.get_secret_value() for name, value in upstream.headers.items()}
        self._headers |= self._account

    def connecting(self, seconds: float) -> "UpstreamClient":
        """The same upstream for calls that wait so long for a connection."""
        if seconds == self.connect_seconds:
            return self
        client = copy(self)
        client.connect_seconds = seconds
        return client

    @property
    def state(self) -> State:
        """Of what watches over it."""
        if self._circuit is not None:
            return self._circuit.state
        return "open" if self._breaker is not None and self._breaker.open else "closed"

    @property
    def shut(self) -> bool:
        """Whether a call would be refused at once."""
        return self._circuit.shut if self._circuit is not None else self.state == "open"

    def too_slow(self, model: str, why: str = "") -> UpstreamTimeout:
        """The error of a call that it left waiting; ``why``: for what, in a caller's words."""
        if self._circuit is not None:
            self._circuit.late()
        return UpstreamTimeout(f"The model '{model}' did not answer in time{why and ': ' + why}.")

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], model: str, *, streamed: bool) -> Answer:
        """An answer with status 200 and the right type, its body unread. Raises what the caller is to be told."""
        response = await self._first_byte(path, body, {**self._headers, **headers}, model)
        if response.status == 200 and response.content_type == (EVENTS if streamed else JSON):
            return response
        try:
            raise await self._error(response, path, model)
        finally:
            response.close()

    async def alive(self) -> bool:
        """Whether the upstream says it is well; of one that is not ours, whether it answers at all."""
        try:
            async with asyncio.timeout(self._probe_seconds):
                answer = await self._wire.send(self._probe, self._headers)
        except OSError:
            return False
        answer.close()
        return answer.status == 200 if self.internal else answer.status < 500

    def under_their_key(self, base_url: str | None) -> "UpstreamClient":
        """The same upstream for calls that bear an organisation's own key, without the platform's account.

        ``base_url``: another address of it, whose health is its own.
        """
        other = copy(self)
        UpstreamClient._without_account(other, base_url)
        return other

    def _without_account(self, base_url: str | None) -> None:
        self._theirs = self.name
        self._headers = {name: value for name, value in self._headers.items() if name not in self._account}
        if base_url is not None:
            self._places = {path: place(base_url + path) for path in PROMPTS}
            self._circuit = Circuit(self._policy)

    async def close(self) -> None:
        """End what watches over it."""
        if self._breaker is not None:
            await self._breaker.close()

    async def _first_byte(self, path: str, body: bytes, headers: Mapping[str, str], model: str) -> Answer:
        if self._breaker is None:
            return await self._counted(path, body, headers, model)
        try:
            async with asyncio.timeout(None) as timeout:
                with self._breaker.waiting(model, timeout):
                    return await self._send(path, body, headers, model)
        except TimeoutError:
            raise away(model) from None

    async def _counted(self, path: str, body: bytes, headers: Mapping[str, str], model: str) -> Answer:
        circuit = self._circuit
        if circuit is None:
            return await self._send(path, body, headers, model)
        probe = circuit.enter(model)
        try:
            answer = await self._send(path, body, headers, model)
        except PlatformError:
            circuit.ended(answered=False, probe=probe)
            raise
        except asyncio.CancelledError:
            circuit.left(probe=probe)
            raise
        circuit.ended(answered=answer.status not in FAULTS, probe=probe)
        return answer

    def _suspect(self) -> None:
        if self._breaker is not None:
            self._breaker.doubt()

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str], model: str) -> Answer:
        late = False
        for last in (False, True):
            try:
                return await self._wire.send(self._places[path], headers, body, self.connect_seconds)
            except NotConnected as error:
                self._suspect()
                if last or error.late:
                    late = error.late
                    break
            except WireError:
                self._suspect()
                raise UpstreamError(f"The model '{model}' failed to answer.") from None
        if late:
            why = f"no connection came about within {self.connect_seconds:g} seconds"
            raise Unavailable(f"The model '{model}' cannot be reached: {why}.", retry_after_seconds=RETRY_SECONDS)
        raise away(model)

    async def _error(self, response: Answer, path: str, model: str) -> PlatformError:
        if response.status == 200:
            return UpstreamError(f"The model '{model}' failed to answer.")
        if response.status in PROXY_ERRORS:
            self._suspect()
        try:
            body = await response.read(ERROR_BYTES_MAX)
        except WireError:
            body = b""
        wait = (response.header(b"retry-after") or b"").decode("latin-1") or None
        how = {"internal": self.internal, "own": self.own}
        return refusal(response.status, body, wait, model, prompt=PROMPTS[path], theirs=self._theirs, **how)
