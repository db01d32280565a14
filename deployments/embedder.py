"""An embedding model as a Serve deployment, behind the guard."""

from typing import Any

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import embedder_placement, scaling
from deployments.serving import application_of
from pipelines.encoder import SentenceEncoder
from serve.asgi import ASGIApp
from serve.embedder import EmbedderApp
from serve.guard import Guard


class EmbedderReplica:
    """One embedding model."""

    def __init__(self, model_id: str) -> None:
        config = PlatformConfig.load()
        encoder = SentenceEncoder(config.model_folder(model_id))
        self._app = Guard(EmbedderApp(config.catalogue().find(model_id), encoder), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


def application(arguments: dict[str, str]) -> Application:
    """The application of the model that ``arguments`` names. Raises ModelNotFound."""
    config = PlatformConfig.load()
    entry = config.catalogue().find(arguments["model"])
    options: dict[str, Any] = {
        **scaling(entry),
        "ray_actor_options": embedder_placement(config),
        "health_check_period_s": 2,
    }
    return application_of(EmbedderReplica, entry.id, name="embedder", **options)
