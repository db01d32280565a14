"""``/v1/batches`` and all below it: what is asked goes to the control plane, whose jobs do the rest."""

import re
from urllib.parse import parse_qsl

import aiohttp

from models.batches import BatchCreate, BatchOwner, BatchStart
from models.errors import NotFound
from serve.allowlist import local_path
from serve.asgi import Receive, Scope, Send, read_body, send_bytes
from serve.callers import Caller, Identify
from serve.config import GatewayConfig
from serve.edge import parse
from serve.files.app import JSON, allow
from serve.headers import headers_for
from serve.internal import InternalClient, project_path

ROOT = "/v1/batches"
NOUN = "batches"
BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")
QUERY = frozenset({"after", "limit"})
BODY_BYTES_MAX = 64 * 1024


class Batches:
    """The family of one replica; it keeps nothing."""

    def __init__(self, config: GatewayConfig, http: aiohttp.ClientSession, identify: Identify) -> None:
        self._identify = identify
        self._client = InternalClient(
            http, config.control_plane_url, config.cluster_secret, config.files.ask_seconds_max
        )

    async def __call__(self, request: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call of the family. Raises PlatformError, ClientDisconnected."""
        caller = await self._identify(request, scope)
        place = project_path(caller.principal, NOUN)
        method = scope["method"]
        batch_id, _, below = local_path(scope).removeprefix(ROOT).removeprefix("/").partition("/")
        if not batch_id and not below:
            body = await self._collection(caller, place, scope, receive)
        elif below == "cancel":
            allow(method, "POST")
            body = await self._client.ask("POST", f"{place}/{sane(batch_id)}/cancel")
        elif not below:
            allow(method, "GET")
            body = await self._client.ask("GET", f"{place}/{sane(batch_id)}")
        else:
            raise NotFound("There is nothing at this address.")
        await send_bytes(send, 200, body, JSON, headers_for(caller))

    async def _collection(self, caller: Caller, place: str, scope: Scope, receive: Receive) -> bytes:
        allow(scope["method"], "GET", "POST")
        if scope["method"] == "GET":
            given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            return await self._client.ask("GET", place, query={name: text for name, text in given if name in QUERY})
        asked = parse(BatchCreate, await read_body(receive, scope, BODY_BYTES_MAX))
        owner = BatchOwner(api_key_id=caller.principal.api_key_id)
        return await self._client.ask("POST", place, BatchStart(owner=owner, batch=asked))


def sane(batch_id: str) -> str:
    """The id, where it can be one. Raises NotFound."""
    if not BATCH_ID.fullmatch(batch_id):
        raise NotFound("There is no batch with this id.")
    return batch_id
