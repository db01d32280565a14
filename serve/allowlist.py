"""Which routes of a foreign ASGI application may be reached; the rest of it does not exist."""

from models.errors import NotFound
from serve.asgi import ASGIApp, Receive, Scope, Send, send_error


class Allowlist:
    """ASGI middleware: passes the named paths (below the application's mount point) and lifespan events."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self._app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call; 404 in the error object for a path that is not named."""
        if scope["type"] == "http" and local_path(scope) not in self._paths:
            await send_error(send, NotFound("There is nothing at this address."))
        elif scope["type"] in {"http", "lifespan"}:
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def local_path(scope: Scope) -> str:
    """The path below the mount point, whether the server has cut ``root_path`` off or left it on."""
    path = str(scope["path"])
    root = str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path
