"""The gateway as a Serve deployment.

``max_ongoing_requests`` is high: a waiting stream costs the gateway a socket, not a core.
"""

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import SERVICE_CPUS
from deployments.sections import gateway_config
from deployments.serving import application_of
from models.channels import REQUEST_ID_HEADER
from serve.asgi import ASGIApp, Message, Receive, Scope, Send, header
from serve.gateway import Gateway

ONGOING_MAX = 10_000
REQUEST_ID = REQUEST_ID_HEADER.encode()


class OneRequestId:
    """Serve adds the request's id to every answer; without this ours would stand there a second time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http" or (given := header(scope, REQUEST_ID)) is None:
            await self._app(scope, receive, send)
            return

        async def send_once(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair != (REQUEST_ID, given)]
                message = {**message, "headers": kept}
            await send(message)

        await self._app(scope, receive, send_once)


class GatewayReplica:
    """One gateway. ASGI's lifespan, which Serve runs, starts and ends it."""

    def __init__(self) -> None:
        self._gateway = Gateway(gateway_config(PlatformConfig.load()))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return OneRequestId(self._gateway)

    async def check_health(self) -> None:
        """Raises where the gateway can no longer meter or admit; Serve then replaces the replica."""
        await self._gateway.check_health()


def application(_arguments: dict[str, str]) -> Application:
    """The application at ``/``. Raises pydantic.ValidationError where the configuration is wrong."""
    return application_of(
        GatewayReplica,
        name="gateway",
        num_replicas=PlatformConfig.load().gateway_replicas,
        max_ongoing_requests=ONGOING_MAX,
        ray_actor_options={"num_cpus": SERVICE_CPUS},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
    )
