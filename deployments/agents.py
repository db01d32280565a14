"""The agent runtime as a Serve deployment, behind the guard. It mostly waits for models, so it takes many calls."""

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import SERVICE_CPUS, SERVICE_ONGOING_MAX
from deployments.sections import agents_config
from deployments.serving import application_of
from serve.agents.app import AgentsApp
from serve.asgi import ASGIApp
from serve.guard import Guard


class AgentsReplica:
    """The agent runtime."""

    def __init__(self) -> None:
        config = PlatformConfig.load()
        self._app = Guard(AgentsApp(agents_config(config)), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


def application(_arguments: dict[str, str]) -> Application:
    """The application at ``/internal/agents``."""
    return application_of(
        AgentsReplica,
        name="agents",
        max_ongoing_requests=SERVICE_ONGOING_MAX,
        ray_actor_options={"num_cpus": SERVICE_CPUS},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
    )
