"""``/v1/files`` and all below it: who calls, which operation, and the answer's headers."""

import asyncio
import re
from urllib.parse import parse_qsl

import aiohttp

from models.errors import NotFound, Unavailable
from models.files import FilePlace
from serve.allowlist import local_path
from serve.asgi import Receive, Scope, Send, header, not_allowed, send_bytes, send_json
from serve.callers import Caller, Identify
from serve.config import FileLimits, GatewayConfig
from serve.files.downloads import Downloads
from serve.files.ledger import FileLedger
from serve.files.store import ObjectStore, key
from serve.files.sweeper import Sweeper
from serve.files.uploads import Uploads
from serve.headers import headers_for
from serve.internal import InternalClient

ROOT = "/v1/files"
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
QUERY = frozenset({"after", "limit", "order", "purpose"})
JSON = b"application/json"


class Files:
    """The family of one replica."""

    def __init__(self, config: GatewayConfig, address: str, http: aiohttp.ClientSession, identify: Identify) -> None:
        limits: FileLimits = config.files
        self._identify = identify
        self._store = ObjectStore(address, limits.threads)
        self._ledger = FileLedger(
            InternalClient(http, config.control_plane_url, config.cluster_secret, limits.ask_seconds_max)
        )
        self._uploads = Uploads(self._store, self._ledger, limits)
        self._downloads = Downloads(self._store, limits)
        self._sweeper = Sweeper(self._store, self._ledger, limits.sweep_seconds)

    @property
    def alive(self) -> bool:
        """Whether the sweeps go on."""
        return not self._sweeping.done()

    def start(self) -> None:
        """Begin to sweep."""
        self._sweeping = asyncio.ensure_future(self._sweeper.run())

    async def close(self) -> None:
        """Returns once nothing of ours runs; calls must have ended."""
        self._sweeping.cancel()
        await asyncio.wait({self._sweeping})
        await self._uploads.close()
        await asyncio.to_thread(self._store.close)

    async def __call__(self, request: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call of the family. Raises PlatformError, ClientDisconnected."""
        caller = await self._identify(request, scope)
        method = scope["method"]
        file_id, _, below = local_path(scope).removeprefix(ROOT).removeprefix("/").partition("/")
        if not file_id and not below:
            await self._collection(method, caller, scope, receive, send)
        elif not below:
            await self._one(method, caller, sane(file_id), send)
        elif below == "content":
            allow(method, "GET")
            await self._content(caller, sane(file_id), scope, receive, send)
        else:
            raise NotFound("There is nothing at this address.")

    async def _collection(self, method: str, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        allow(method, "GET", "POST")
        if method == "POST":
            body = await self._uploads.take(caller.principal, scope, receive)
        else:
            given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            query = {name: value for name, value in given if name in QUERY}
            body = await self._ledger.page(caller.principal, query)
        await send_bytes(send, 200, body, JSON, headers_for(caller))

    async def _one(self, method: str, caller: Caller, file_id: str, send: Send) -> None:
        allow(method, "GET", "DELETE")
        if method == "GET":
            await send_bytes(send, 200, await self._ledger.find(caller.principal, file_id), JSON, headers_for(caller))
            return
        await self._ledger.delete(caller.principal, file_id)
        await self._remove(FilePlace(organisation_id=caller.principal.organisation_id, id=file_id))
        await send_json(send, 200, {"id": file_id, "object": "file", "deleted": True}, headers_for(caller))

    async def _remove(self, place: FilePlace) -> None:
        """The client's part is done with the row; bytes that cannot be removed now are left to a sweep."""
        try:
            await self._store.remove(key(place.organisation_id, place.id))
            await self._ledger.purge([place])
        except (OSError, Unavailable):
            return

    async def _content(self, caller: Caller, file_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        file = await self._ledger.found(caller.principal, file_id)
        name = key(caller.principal.organisation_id, file.id)
        await self._downloads.send(file, name, header(scope, b"range"), headers_for(caller), receive, send)


def sane(file_id: str) -> str:
    """The id, where it can be one. Raises NotFound."""
    if not FILE_ID.fullmatch(file_id):
        raise NotFound("There is no file with this id.")
    return file_id


def allow(method: str, *methods: str) -> None:
    """Raises MethodNotAllowed."""
    if method not in methods:
        raise not_allowed(method, *methods)
