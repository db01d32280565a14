"""A hosted provider's adapter as a Serve deployment, behind the guard. It mostly waits, so it takes many calls."""

from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import SERVICE_CPUS, SERVICE_ONGOING_MAX
from deployments.sections import hosted_config
from deployments.serving import application_of
from serve.asgi import ASGIApp
from serve.guard import Guard
from serve.hosted.app import HostedApp

# Whatever the node's environment says: no tracer, no detour through a gateway of LangSmith's, no log of requests.
ENVIRONMENT = {
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGSMITH_GATEWAY": "false",
    "ANTHROPIC_LOG": "",
    "OPENAI_LOG": "",
}


class HostedReplica:
    """One provider."""

    def __init__(self, upstream: str) -> None:
        config = PlatformConfig.load()
        self._app = Guard(HostedApp(hosted_config(config, upstream)), config.cluster_secret)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app that Serve mounts."""
        return self._app


def application(arguments: dict[str, str]) -> Application:
    """The application at ``/internal/hosted/<upstream>``."""
    return application_of(
        HostedReplica,
        arguments["upstream"],
        name="hosted",
        max_ongoing_requests=SERVICE_ONGOING_MAX,
        ray_actor_options={"num_cpus": SERVICE_CPUS, "runtime_env": {"env_vars": ENVIRONMENT}},
        health_check_period_s=2,
        graceful_shutdown_timeout_s=10,
    )
