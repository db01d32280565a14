"""The door of every internal application: who lacks the cluster secret finds nothing there.

Invariants
1. A call without the secret gets 404 in OpenAI's error object, before a byte of its body is read.
2. The comparison takes the same time whatever the guess.
3. The secret goes no further: the inner application does not see the header.
"""

import hmac
from typing import cast

from pydantic import SecretStr

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import NotFound
from serve.asgi import ASGIApp, Headers, Receive, Scope, Send, send_error

SECRET_HEADER = CLUSTER_SECRET_HEADER.encode()


class Guard:
    """ASGI middleware: passes calls that carry the cluster secret, and lifespan events."""

    def __init__(self, app: ASGIApp, secret: SecretStr) -> None:
        """Raises ValueError where the secret is empty: it would admit everyone."""
        self._app = app
        self._secret = secret.get_secret_value().encode()
        if not self._secret:
            raise ValueError("the cluster secret must not be empty")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif holds_secret(scope, self._secret):
            headers = [(name, value) for name, value in cast("Headers", scope["headers"]) if name != SECRET_HEADER]
            await self._app({**scope, "headers": headers}, receive, send)
        elif scope["type"] == "http":
            await send_error(send, NotFound("There is nothing at this address."))
        else:
            await send({"type": "websocket.close", "code": 1008})


def holds_secret(scope: Scope, secret: bytes) -> bool:
    """Whether the call carries ``secret``, compared in constant time."""
    given = next((value for name, value in cast("Headers", scope["headers"]) if name == SECRET_HEADER), b"")
    return hmac.compare_digest(given, secret)
