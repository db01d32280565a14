"""The agent runtime as a Serve deployment, behind the guard. It mostly waits for models, so it takes many calls."""

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.sections import agents_config
from deployments.serving import service_of
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
    return service_of(AgentsReplica, "agents")
