"""Asking the control plane's ``/internal`` routes, whatever the noun."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp
import orjson
from pydantic import BaseModel, SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from serve.config import Timeouts

REFUSALS: Mapping[int, type[PlatformError]] = {400: InvalidRequest, 404: NotFound, 409: Conflict}
KEEPALIVE_SECONDS = 15.0
AWAY = "This cannot be looked up at the moment."


class OfProject(Protocol):
    """Whoever acts for a project."""

    @property
    def organisation_id(self) -> str:
        """The organisation's id."""
        ...

    @property
    def project_id(self) -> str:
        """The project's id."""
        ...


def session(timeouts: Timeouts) -> aiohttp.ClientSession:
    """A pool for the control plane; it never follows the environment's proxies nor keeps cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect_seconds),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        auto_decompress=True,
    )


class InternalClient:
    """Each question within ``seconds_max``; answers are bytes, for many go to a client as they are."""

    def __init__(
        self, http: aiohttp.ClientSession, control_plane_url: str, secret: SecretStr, seconds_max: float
    ) -> None:
        self._http = http
        self._url = f"{control_plane_url.rstrip('/')}/internal"
        self._headers = {CLUSTER_SECRET_HEADER: secret.get_secret_value()}
        self._seconds_max = seconds_max

    async def ask(
        self, method: str, path: str, body: BaseModel | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        """The answer's body. Raises what the control plane refuses with: InvalidRequest, NotFound, Conflict.

        Raises Unavailable where it does not say; then it may have done what was asked, or not.
        """
        data, answer, headers = None, b"", self._headers
        if body is not None:
            data, headers = body.model_dump_json().encode(), {**headers, "content-type": "application/json"}
        try:
            async with asyncio.timeout(self._seconds_max):
                request = self._http.request(method, self._url + path, params=query, data=data, headers=headers)
                async with request as response:
                    answer = await response.read()
                    if response.status < 300:
                        return answer
                    kind = REFUSALS.get(response.status)
        except (aiohttp.ClientError, OSError):
            kind = None
        raise Unavailable(AWAY, retry_after_seconds=1.0) if kind is None else refusal(kind, answer)


def project_path(who: OfProject, noun: str) -> str:
    """Where the control plane keeps a noun of a project."""
    return f"/organisations/{who.organisation_id}/projects/{who.project_id}/{noun}"


def refusal(kind: type[PlatformError], answer: bytes) -> PlatformError:
    """The control plane's error object as an error; Unavailable where it is none."""
    try:
        told: dict[str, Any] = orjson.loads(answer)["error"]
        return kind(told["message"], param=told["param"], code=told["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Unavailable(AWAY, retry_after_seconds=1.0)
