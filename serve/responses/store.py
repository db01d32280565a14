"""The control plane as the keeper of responses and conversations: this replica keeps none.

Invariants
1. Everything is asked for in the project of the principal who calls.
2. What the control plane refuses is refused in its words; where it does not answer, that is a 503.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import aiohttp
import orjson
from pydantic import SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import BodyTooLarge, Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from models.identity import Principal
from serve.config import ResponsesConfig

Object = dict[str, Any]
REFUSALS: Mapping[int, type[PlatformError]] = {
    400: InvalidRequest,
    404: NotFound,
    409: Conflict,
    413: BodyTooLarge,
}
RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 2.0

log = logging.getLogger(__name__)


class ResponseStore:
    """A client of ``/internal/organisations/…/projects/…/{responses,conversations}``."""

    def __init__(
        self, session: aiohttp.ClientSession, control_plane_url: str, secret: SecretStr, config: ResponsesConfig
    ) -> None:
        self._session = session
        self._url = f"{control_plane_url.rstrip('/')}/internal"
        self._headers = {CLUSTER_SECRET_HEADER: secret.get_secret_value(), "content-type": "application/json"}
        self._config = config
        self._places = asyncio.Semaphore(config.asks_max)

    async def ask(
        self,
        method: str,
        principal: Principal,
        path: str,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """One question. Raises NotFound, InvalidRequest, Conflict, BodyTooLarge, Unavailable."""
        project = f"/organisations/{principal.organisation_id}/projects/{principal.project_id}"
        return await self._send(method, project + path, body, query)

    async def beat(self, ids: Sequence[str]) -> list[str]:
        """Renew leases; those of the responses that are not to run any more. Raises Unavailable."""
        order = {"ids": ids, "lease_seconds": self._config.lease_seconds}
        return (await self._send("POST", "/responses/beat", order))["lost"]

    async def finish(self, principal: Principal, response_id: str, order: Object, seconds_max: float) -> bool:
        """Report an end, again and again for a while; whether it was taken, as this end or as another one before."""
        pause = RETRY_SECONDS_MIN
        try:
            async with asyncio.timeout(seconds_max):
                while True:
                    try:
                        await self.ask("POST", principal, f"/responses/{response_id}/finish", order)
                        return True
                    except Unavailable:
                        await asyncio.sleep(pause)
                    pause = min(2 * pause, RETRY_SECONDS_MAX)
        except TimeoutError:
            log.warning("the end of response %s could not be recorded: the control plane does not answer", response_id)
        except PlatformError as error:
            log.warning("the end of response %s was not taken: %s", response_id, error)
        return False

    async def _send(
        self, method: str, path: str, body: Object | None, query: Mapping[str, str] | None = None
    ) -> Object:
        data = None if body is None else orjson.dumps(body)
        try:
            async with asyncio.timeout(self._config.ask_seconds_max), self._places:
                request = self._session.request(
                    method, self._url + path, data=data, params=query, headers=self._headers, allow_redirects=False
                )
                async with request as response:
                    answer: object = orjson.loads(await response.read())
                    if response.status == 200 and isinstance(answer, dict):
                        return cast("Object", answer)
                    refusal = REFUSALS.get(response.status)
        except (aiohttp.ClientError, OSError, orjson.JSONDecodeError):
            raise _away() from None
        if refusal is None or not isinstance(answer, dict):
            raise _away()
        error = cast("Object", cast("Object", answer).get("error") or {})
        raise refusal(error.get("message") or "The request was refused.", error.get("param"), error.get("code"))


def _away() -> Unavailable:
    return Unavailable("Responses and conversations cannot be stored or read at the moment.", retry_after_seconds=1.0)
