"""The retrieval application: ``POST /search`` over the knowledge bases of one store."""

from models.documents import SearchRequest
from serve.asgi import Receive, Scope, Send, read_body, send_json
from serve.edge import Edge, Route, parse, unless_disconnected
from serve.knowledge import KnowledgeStore

BODY_BYTES_MAX = 1024 * 1024


class RetrievalApp:
    """ASGI application: ``POST /search`` takes a SearchRequest, answers ``{"passages": [Passage, …]}``."""

    def __init__(self, store: str) -> None:
        """``store``: LanceDB's root, a folder or an s3:// address; it need not exist yet."""
        self._store = KnowledgeStore(store)
        self._edge = Edge({"/search": Route("POST", self._search)}, self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        await self._edge(scope, receive, send)

    async def close(self) -> None:
        """Let go of the tables; also done at the end of ASGI's lifespan."""
        self._store.close()

    async def _search(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse(SearchRequest, await read_body(receive, scope, BODY_BYTES_MAX))
        passages = await unless_disconnected(receive, self._store.search(request))
        await send_json(send, 200, {"passages": [passage.model_dump() for passage in passages]})
