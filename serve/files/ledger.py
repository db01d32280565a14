"""What the control plane knows of files, asked over its ``/internal/files``; it has the last word on who sees what."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
import orjson
from pydantic import BaseModel, SecretStr

from models.channels import CLUSTER_SECRET_HEADER, PRINCIPAL_HEADER
from models.errors import Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from models.files import FileObject, FilePlace, FilePlaces, SweepOrder, UploadEnd, UploadStart
from models.identity import Principal

REFUSALS: Mapping[int, type[PlatformError]] = {400: InvalidRequest, 404: NotFound, 409: Conflict}


class FileLedger:
    """Each question within ``seconds_max``. Answers are bytes where they go to the client as they are.

    Every method raises Unavailable where the control plane does not say; then it may have done what was asked, or not.
    """

    def __init__(
        self, http: aiohttp.ClientSession, control_plane_url: str, secret: SecretStr, seconds_max: float
    ) -> None:
        self._http = http
        self._url = f"{control_plane_url.rstrip('/')}/internal/files"
        self._secret = secret
        self._seconds_max = seconds_max

    async def start(self, who: Principal, lease_seconds: float) -> FilePlace:
        """A row for bytes to come, seen by nobody."""
        body = UploadStart(lease_seconds=lease_seconds)
        return FilePlace.model_validate_json(await self._ask("POST", "", who, body))

    async def finish(self, who: Principal, file_id: str, end: UploadEnd) -> bytes:
        """The file object, visible from now on. Raises Conflict where the upload was given up."""
        return await self._ask("POST", f"/{file_id}/finish", who, end)

    async def abandon(self, who: Principal, file_id: str) -> None:
        """Hide the file, whether its end was heard or not. Raises NotFound."""
        await self._ask("POST", f"/{file_id}/abandon", who)

    async def find(self, who: Principal, file_id: str) -> bytes:
        """The file object. Raises NotFound."""
        return await self._ask("GET", f"/{file_id}", who)

    async def found(self, who: Principal, file_id: str) -> FileObject:
        """The file object. Raises NotFound."""
        return FileObject.model_validate_json(await self.find(who, file_id))

    async def page(self, who: Principal, query: Mapping[str, str]) -> bytes:
        """The list object. Raises InvalidRequest that names the parameter."""
        return await self._ask("GET", "", who, query=query)

    async def delete(self, who: Principal, file_id: str) -> None:
        """Hide the file for ever. Raises NotFound."""
        await self._ask("DELETE", f"/{file_id}", who)

    async def claim(self, limit: int, lease_seconds: float) -> tuple[FilePlace, ...]:
        """Files, of any organisation, whose bytes the caller is to remove."""
        order = SweepOrder(limit=limit, lease_seconds=lease_seconds)
        return FilePlaces.model_validate_json(await self._ask("POST", "/claim", None, order)).data

    async def purge(self, places: Iterable[FilePlace]) -> None:
        """Forget files whose bytes are gone."""
        await self._ask("POST", "/purge", None, FilePlaces(data=tuple(places)))

    async def _ask(
        self,
        method: str,
        rest: str,
        who: Principal | None,
        body: BaseModel | None = None,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        headers = {CLUSTER_SECRET_HEADER: self._secret.get_secret_value()}
        if who is not None:
            headers[PRINCIPAL_HEADER] = who.model_copy(update={"agents": (), "allowed_models": None}).to_header()
        data, answer = None, b""
        if body is not None:
            data, headers["content-type"] = body.model_dump_json().encode(), "application/json"
        try:
            async with asyncio.timeout(self._seconds_max):
                request = self._http.request(method, self._url + rest, params=query, data=data, headers=headers)
                async with request as response:
                    answer = await response.read()
                    if response.status < 300:
                        return answer
                    kind = REFUSALS.get(response.status)
        except (aiohttp.ClientError, OSError):
            kind = None
        if kind is None:
            raise Unavailable("Files cannot be looked up at the moment.", retry_after_seconds=1.0)
        raise refusal(kind, answer)


def refusal(kind: type[PlatformError], answer: bytes) -> PlatformError:
    """The control plane's error object as an error. Raises Unavailable where it is none."""
    try:
        told: dict[str, Any] = orjson.loads(answer)["error"]
        return kind(told["message"], param=told["param"], code=told["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Unavailable("Files cannot be looked up at the moment.", retry_after_seconds=1.0)
