"""The one place that turns a plain class into a Serve application."""

from typing import Any

from ray import serve
from ray.serve import Application

from deployments.platform import SERVICE_CPUS, SERVICE_ONGOING_MAX


def service_of(replica: type, name: str) -> Application:
    """One of the platform's own services: one replica that takes many calls at once."""
    return application_of(
        replica,
        name=name,
        max_ongoing_requests=SERVICE_ONGOING_MAX,
        ray_actor_options={"num_cpus": SERVICE_CPUS},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
    )


def application_of(replica: type, *arguments: str, **options: Any) -> Application:
    """``replica``, which builds its ASGI application in ``__serve_build_asgi_app__``, deployed with ``options``."""
    # Serve formats a thousand access lines at a time in the loop that serves, which callers feel; usage events and
    # metrics say more. And its own annotation says that a deployment is a function.
    log = {"enable_access_log": False}
    deployment: Any = serve.deployment(serve.ingress()(replica), logging_config=log, **options)
    return deployment.bind(*arguments)
