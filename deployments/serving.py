"""The one place that turns a plain class into a Serve application."""

from typing import Any

from ray import serve
from ray.serve import Application


def application_of(replica: type, *arguments: str, **options: Any) -> Application:
    """``replica``, which builds its ASGI application in ``__serve_build_asgi_app__``, deployed with ``options``."""
    # Serve's own annotation says that a deployment is a function.
    deployment: Any = serve.deployment(serve.ingress()(replica), **options)
    return deployment.bind(*arguments)
