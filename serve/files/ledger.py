"""What the control plane knows of files; it has the last word on who sees what."""

from collections.abc import Iterable, Mapping

from models.files import FileObject, FilePlace, FilePlaces, SweepOrder, UploadEnd, UploadStart
from serve.internal import InternalClient, OfProject, project_path

NOUN = "files"
CLAIM = "/files/claim"
PURGE = "/files/purge"


class FileLedger:
    """Answers are bytes where they go to the client as they are. Every method raises Unavailable."""

    def __init__(self, client: InternalClient) -> None:
        self._ask = client.ask

    async def start(self, who: OfProject, lease_seconds: float) -> FilePlace:
        """A row for bytes to come, seen by nobody."""
        body = UploadStart(lease_seconds=lease_seconds)
        return FilePlace.model_validate_json(await self._ask("POST", project_path(who, NOUN), body))

    async def finish(self, who: OfProject, file_id: str, end: UploadEnd) -> bytes:
        """The file object, visible from now on. Raises Conflict where the upload was given up."""
        return await self._ask("POST", f"{project_path(who, NOUN)}/{file_id}/finish", end)

    async def abandon(self, who: OfProject, file_id: str) -> None:
        """Hide the file, whether its end was heard or not. Raises NotFound."""
        await self._ask("POST", f"{project_path(who, NOUN)}/{file_id}/abandon")

    async def find(self, who: OfProject, file_id: str) -> bytes:
        """The file object. Raises NotFound."""
        return await self._ask("GET", f"{project_path(who, NOUN)}/{file_id}")

    async def found(self, who: OfProject, file_id: str) -> FileObject:
        """The file object. Raises NotFound."""
        return FileObject.model_validate_json(await self.find(who, file_id))

    async def page(self, who: OfProject, query: Mapping[str, str]) -> bytes:
        """The list object. Raises InvalidRequest that names the parameter."""
        return await self._ask("GET", project_path(who, NOUN), query=query)

    async def delete(self, who: OfProject, file_id: str) -> None:
        """Hide the file for ever. Raises NotFound."""
        await self._ask("DELETE", f"{project_path(who, NOUN)}/{file_id}")

    async def claim(self, limit: int, lease_seconds: float) -> tuple[FilePlace, ...]:
        """Files, of any organisation, whose bytes the caller is to remove."""
        order = SweepOrder(limit=limit, lease_seconds=lease_seconds)
        return FilePlaces.model_validate_json(await self._ask("POST", CLAIM, order)).data

    async def purge(self, places: Iterable[FilePlace]) -> None:
        """Forget files whose bytes are gone."""
        await self._ask("POST", PURGE, FilePlaces(data=tuple(places)))
