"""A cross-encoder as a Serve deployment, behind the guard."""

from typing import Any

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import embedder_placement, scaling
from deployments.serving import application_of
from pipelines.cross_encoder import CrossEncoder
from serve.asgi import ASGIApp
from serve.guard import Guard
from serve.reranker import RerankerApp


class RerankerReplica:
    """One reranking model."""

    def __init__(self, model_id: str) -> None:
        config = PlatformConfig.load()
        scorer = CrossEncoder(config.model_folder(model_id))
        self._app = Guard(RerankerApp(config.catalogue().find(model_id), scorer), config.cluster_secret)

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
    return application_of(RerankerReplica, entry.id, name="reranker", **options)
