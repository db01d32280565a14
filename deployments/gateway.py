"""The gateway as a Serve deployment.

``max_ongoing_requests`` is high: a waiting stream costs the gateway a socket, not a core.
"""

from ray import serve
from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import SERVICE_CPUS
from deployments.sections import gateway_config
from serve.asgi import ASGIApp
from serve.gateway import Gateway

ONGOING_MAX = 1_000


class GatewayReplica:
    """One gateway. ASGI's lifespan, which Serve runs, starts and ends it."""

    def __init__(self) -> None:
        self._gateway = Gateway(gateway_config(PlatformConfig.load()))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._gateway

    async def check_health(self) -> None:
        """Raises where the gateway can no longer meter or admit; Serve then replaces the replica."""
        await self._gateway.check_health()


def application(_arguments: dict[str, str]) -> Application:
    """The application at ``/``. Raises pydantic.ValidationError where the configuration is wrong."""
    return serve.deployment(
        serve.ingress()(GatewayReplica),
        name="gateway",
        num_replicas=PlatformConfig.load().gateway_replicas,
        max_ongoing_requests=ONGOING_MAX,
        ray_actor_options={"num_cpus": SERVICE_CPUS},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
    ).bind()
