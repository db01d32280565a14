"""The bare two-hop pass-through: what is left when a gateway neither authenticates, nor admits, nor meters.

The same HAProxy, the same Ray Serve and the same HTTP client as the gateway's: what separates the two is our own work.
"""

import functools
from typing import Any

import aiohttp
from ray.serve import Application

from deployments.serving import application_of
from serve.asgi import Receive, Scope, Send, live, read_body

NAME = "bench-bare"
ROUTE_PREFIX = "/bench-bare"
BUILDER = "benchmarks.bare:application"
BODY_BYTES_MAX = 10 * 1024 * 1024
ONGOING_MAX = 1_000


class PassThrough:
    """An ASGI application that posts what it gets to one address and answers with what comes, as it comes."""

    def __init__(self, upstream_url: str) -> None:
        self._url = f"{upstream_url}/v1/chat/completions"

    @functools.cached_property
    def _session(self) -> aiohttp.ClientSession:
        # Made by the first call, for it belongs to the loop that serves.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "lifespan":
            await live(receive, send, None, self.close)
            return
        body = await read_body(receive, scope, BODY_BYTES_MAX)
        headers = {"content-type": "application/json"}
        async with self._session.post(self._url, data=body, headers=headers) as answer:
            kept = [
                (name.lower(), value)
                for name, value in answer.raw_headers
                if name.lower() in {b"content-type", b"content-length"}
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for data in answer.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


class BareReplica:
    """The replica that Serve mounts it in."""

    def __init__(self, upstream_url: str) -> None:
        self._app = PassThrough(upstream_url)

    def __serve_build_asgi_app__(self) -> PassThrough:
        """Called by Serve."""
        return self._app


def application(arguments: dict[str, Any]) -> Application:
    """Build the Serve application; ``arguments``: ``upstream_url``, up to and without /v1."""
    options = {"max_ongoing_requests": ONGOING_MAX, "ray_actor_options": {"num_cpus": 0.1}}
    return application_of(BareReplica, arguments["upstream_url"], name=NAME, **options)
