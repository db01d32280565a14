"""Under whose key a hosted upstream is called: the organisation's where it has one, else the platform's.

Invariants
1. The control plane decides, and only where it has said "none" is the platform's key used: an organisation that pays
   for itself is not moved to another account because nobody could be asked.
2. A key is in memory only, hidden in representations, and goes to its upstream and nowhere else.
3. A call under an organisation's own key bears none of the platform's headers, and costs ``byok_price_percent`` of the
   price book.
4. A target without any key is left out where another one may answer; else the caller is told which upstream lacks it.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import aiohttp

from models.channels import UPSTREAM_KEY_HEADER
from models.credentials import Credential, from_wire
from models.errors import Conflict, PermissionDenied, PlatformError, Unavailable
from models.identity import Principal
from serve.config import GatewayConfig
from serve.internal import InternalClient, project_path
from serve.ownkey import OwnKey
from serve.refusals import CREDENTIAL_MISSING, CREDENTIAL_UNUSABLE
from serve.remembered import Remembered
from serve.routing import Target
from serve.upstreams import UpstreamClient

CLIENTS_MAX = 1_000
AWAY = "The credentials of this model's upstream cannot be looked up at the moment."


@dataclass(frozen=True, slots=True)
class Question:
    """Whose calls, of which upstream."""

    organisation_id: str
    project_id: str
    upstream: str


@dataclass(frozen=True, slots=True)
class Found:
    """What the control plane said. ``refused``: there is a credential, and it must not be used."""

    credential: Credential | None = field(default=None, repr=False)
    refused: str | None = None


class Credentials:
    """The keys of one replica's calls. ``invalidate``, ``hears`` and ``deaf`` are told like the cache of API keys."""

    def __init__(
        self, config: GatewayConfig, http: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = config.keys
        self._control_plane = InternalClient(
            http, config.control_plane_url, config.cluster_secret, limits.ask_seconds_max
        )
        self._places = asyncio.Semaphore(limits.asks_max)
        self._percent = config.byok_price_percent
        self._remembered = Remembered[Question, Found](limits, clock)
        self._clients: dict[tuple[UpstreamClient, str | None], UpstreamClient] = {}
        self.hears = self._remembered.hears
        self.deaf = self._remembered.deaf

    def invalidate(self, message: str) -> None:
        """Forget what a message of ``channels.INVALIDATIONS`` names; an unknown kind forgets everything."""
        kind, _, owner = message.partition(":")
        if kind != "key":
            self._remembered.forget(lambda question, _: kind != "organisation" or question.organisation_id == owner)

    async def bound(self, principal: Principal, chain: Sequence[Target]) -> tuple[Target, ...]:
        """The targets that can be called, each under the right key. Raises the first one's refusal where none can."""
        found: list[Target] = []
        refusal: PlatformError | None = None
        for target in chain:
            try:
                found.append(await self._target(principal, target) if target.upstream.hosted else target)
            except (PermissionDenied, Unavailable) as error:
                refusal = refusal or error
        if refusal is not None and not found:
            raise refusal
        return tuple(found)

    async def _target(self, principal: Principal, target: Target) -> Target:
        """Raises PermissionDenied, Unavailable."""
        name = target.upstream.name
        question = Question(principal.organisation_id, principal.project_id, name)
        known = await self._remembered.answer(question, partial(self._ask, question))
        if known.refused is not None:
            raise PermissionDenied(known.refused, code=CREDENTIAL_UNUSABLE)
        credential = known.credential
        if credential is not None:
            return self._under(target, credential)
        if target.upstream.shared:
            return target
        raise PermissionDenied(
            f"There is no credential for the upstream '{name}': your organisation has to bring one.",
            code=CREDENTIAL_MISSING,
        )

    def _under(self, target: Target, credential: Credential) -> Target:
        key = credential.api_key.get_secret_value()
        upstream = target.upstream
        headers = {UPSTREAM_KEY_HEADER: key} if upstream.internal else {"authorization": f"Bearer {key}"}
        client = self._client(upstream, credential.base_url)
        return replace(target, upstream=client, own_key=OwnKey(headers, self._percent))

    def _client(self, upstream: UpstreamClient, base_url: str | None) -> UpstreamClient:
        found = self._clients.get((upstream, base_url))
        if found is None:
            # Only addresses of organisations' own can be so many.
            eldest = next((key for key in self._clients if key[1] is not None), None)
            if eldest is not None and len(self._clients) >= CLIENTS_MAX:
                del self._clients[eldest]
            found = self._clients[upstream, base_url] = upstream.under_their_key(base_url)
        return found

    async def _ask(self, question: Question) -> Found:
        path = f"{project_path(question, 'credentials')}/{question.upstream}"
        try:
            async with self._places:
                return Found(from_wire(await self._control_plane.ask("GET", path)))
        except Conflict as error:
            return Found(refused=error.message)
        except (PlatformError, ValueError):
            raise Unavailable(AWAY, retry_after_seconds=1.0) from None
