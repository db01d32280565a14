"""The Serve deployments of our own applications: glue, and nothing else. Each reads the configuration where it runs.

The gateway meets the world; the others stand behind the guard. ASGI's lifespan, which Serve runs, starts and ends them.
"""

from deployments.config import PlatformConfig
from deployments.sections import agents_config, gateway_config
from pipelines.encoder import SentenceEncoder
from serve.agents.app import AgentsApp
from serve.asgi import ASGIApp
from serve.embedder import EmbedderApp
from serve.gateway import Gateway
from serve.guard import Guard
from serve.retrieval import RetrievalApp


class GatewayReplica:
    """One gateway."""

    def __init__(self) -> None:
        self._gateway = Gateway(gateway_config(PlatformConfig.load()))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._gateway

    async def check_health(self) -> None:
        """Raises where the gateway can no longer meter or admit; Serve then replaces the replica."""
        await self._gateway.check_health()


class RetrievalReplica:
    """Search over the knowledge bases."""

    def __init__(self) -> None:
        config = PlatformConfig.load()
        self._app = Guard(RetrievalApp(config.knowledge_store), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


class AgentsReplica:
    """The agent runtime."""

    def __init__(self) -> None:
        config = PlatformConfig.load()
        self._app = Guard(AgentsApp(agents_config(config)), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


class EmbedderReplica:
    """One embedding model."""

    def __init__(self, model_id: str) -> None:
        config = PlatformConfig.load()
        encoder = SentenceEncoder(config.model_folder(model_id))
        self._app = Guard(EmbedderApp(config.catalogue().find(model_id), encoder), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app
