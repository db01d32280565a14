"""The control plane's process: migrate the database, then serve. ``python -m deployments.control_plane``."""

import asyncio

import uvicorn

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig, OfferedUpstream
from control_plane.migrations import migrate
from deployments.config import PlatformConfig

INGEST_ENTRYPOINT = "python -m deployments.ingest"


def control_plane_config(config: PlatformConfig) -> ControlPlaneConfig:
    """The control plane's section."""
    served = config.served()
    return ControlPlaneConfig(
        database_url=config.database_url,
        redis_url=config.redis_url,
        cluster_secret=config.cluster_secret,
        operator_key=config.operator_key,
        key_pepper=config.key_pepper,
        credential_key=config.credential_key,
        credential_keys_former=config.credential_keys_former,
        upstreams=tuple(OfferedUpstream(name=one.name, base_urls=one.base_urls) for one in config.upstreams),
        jobs_url=config.dashboard_url,
        jobs_token=config.ray_token,
        ingest_entrypoint=INGEST_ENTRYPOINT,
        ingestion_roots=config.ingestion_roots,
        chat_models=tuple(entry.id for entry in served if entry.kind == "chat"),
        embedding_models=tuple(entry.id for entry in served if entry.kind == "embedding"),
    )


def main() -> None:
    """Entry point."""
    config = PlatformConfig.load()
    section = control_plane_config(config)
    migrate(section.database_url.get_secret_value())
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(section),
            host=config.control_plane_host,
            port=config.control_plane_port,
            access_log=False,
            server_header=False,
        )
    )
    asyncio.run(server.serve())


if __name__ == "__main__":
    main()
