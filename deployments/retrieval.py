"""Retrieval as a Serve deployment, behind the guard. A search is milliseconds: one replica takes many at once."""

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.serving import service_of
from serve.asgi import ASGIApp
from serve.guard import Guard
from serve.retrieval import RetrievalApp


class RetrievalReplica:
    """Search over the knowledge bases."""

    def __init__(self) -> None:
        config = PlatformConfig.load()
        self._app = Guard(RetrievalApp(config.knowledge_store), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


def application(_arguments: dict[str, str]) -> Application:
    """The application at ``/internal/retrieval``."""
    return service_of(RetrievalReplica, "retrieval")
