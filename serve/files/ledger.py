"""What the control plane knows of files, asked over its ``/internal`` routes; it has the last word on who sees what."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
import orjson
from pydantic import BaseModel, SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import Conflict, InvalidRequest, NotFound, PlatformError, Unavailable
from models.files import FileObject, FilePlace, FilePlaces, SweepOrder, UploadEnd, UploadStart
from models.identity import Principal

CLAIM = "/files/claim"
PURGE = "/files/purge"
REFUSALS: Mapping[int, type[PlatformError]] = {400: InvalidRequest, 404: NotFound, 409: Conflict}


class FileLedger:
    """Each question within ``seconds_max``. Answers are bytes where they go to the client as they are.

    Every method raises Unavailable where the control plane does not say; then it may have done what was asked, or not.
    """

    def __init__(
        self, http: aiohttp.ClientSession, control_plane_url: str, secret: SecretStr, seconds_max: float
    ) -> None:
        self._http = http
        self._url = f"{control_plane_url.rstrip('/')}/internal"
        self._secret = secret
        self._seconds_max = seconds_max

    async def start(self, who: Principal, lease_seconds: float) -> FilePlace:
        """A row for bytes to come, seen by nobody."""
        body = UploadStart(lease_seconds=lease_seconds)
        return FilePlace.model_validate_json(await self._ask("POST", files_of(who), body))

    async def finish(self, who: Principal, file_id: str, end: UploadEnd) -> bytes:
        """The file object, visible from now on. Raises Conflict where the upload was given up."""
        return await self._ask("POST", f"{files_of(who)}/{file_id}/finish", end)

    async def abandon(self, who: Principal, file_id: str) -> None:
        """Hide the file, whether its end was heard or not. Raises NotFound."""
        await self._ask("POST", f"{files_of(who)}/{file_id}/abandon")

    async def find(self, who: Principal, file_id: str) -> bytes:
        """The file object. Raises NotFound."""
        return await self._ask("GET", f"{files_of(who)}/{file_id}")

    async def found(self, who: Principal, file_id: str) -> FileObject:
        """The file object. Raises NotFound."""
        return FileObject.model_validate_json(await self.find(who, file_id))

    async def page(self, who: Principal, query: Mapping[str, str]) -> bytes:
        """The list object. Raises InvalidRequest that names the parameter."""
        return await self._ask("GET", files_of(who), query=query)

    async def delete(self, who: Principal, file_id: str) -> None:
        """Hide the file for ever. Raises NotFound."""
        await self._ask("DELETE", f"{files_of(who)}/{file_id}")

    async def claim(self, limit: int, lease_seconds: float) -> tuple[FilePlace, ...]:
        """Files, of any organisation, whose bytes the caller is to remove."""
        order = SweepOrder(limit=limit, lease_seconds=lease_seconds)
        return FilePlaces.model_validate_json(await self._ask("POST", CLAIM, order)).data

    async def purge(self, places: Iterable[FilePlace]) -> None:
        """Forget files whose bytes are gone."""
        await self._ask("POST", PURGE, FilePlaces(data=tuple(places)))

    async def _ask(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        headers = {CLUSTER_SECRET_HEADER: self._secret.get_secret_value()}
        data, answer = None, b""
        if body is not None:
            data, headers["content-type"] = body.model_dump_json().encode(), "application/json"
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
        if kind is None:
            raise Unavailable("Files cannot be looked up at the moment.", retry_after_seconds=1.0)
        raise refusal(kind, answer)


def files_of(who: Principal) -> str:
    """The files of the principal's project."""
    return f"/organisations/{who.organisation_id}/projects/{who.project_id}/files"


def refusal(kind: type[PlatformError], answer: bytes) -> PlatformError:
    """The control plane's error object as an error. Raises Unavailable where it is none."""
    try:
        told: dict[str, Any] = orjson.loads(answer)["error"]
        return kind(told["message"], param=told["param"], code=told["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return Unavailable("Files cannot be looked up at the moment.", retry_after_seconds=1.0)
