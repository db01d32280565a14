"""A gateway in a process of its own, for the test that kills it; prints its address once it listens."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from models.catalogue import CatalogueEntry, Source
from models.usage import Price
from serve.config import GatewayConfig, ModelRoute, ResponsesConfig, Upstream
from serve.gateway import Gateway


async def main() -> None:
    """Serve for ever."""
    order = json.loads(sys.argv[1])
    price = Price(since="2026-01-01", prompt_micro=1, cached_micro=1, completion_micro=1)
    source = Source.parse("path:/m")
    entry = CatalogueEntry(id="scripted", kind="chat", sources=(source,), context_window=8_192, prices=(price,))
    engine = Upstream(name="engine", base_url=order["engine"], internal=True)
    gateway = Gateway(
        GatewayConfig(
            control_plane_url=order["control_plane"],
            cluster_secret=SecretStr("test-cluster-secret"),
            redis_url=SecretStr(order["redis"]),
            spool_folder=Path(order["spool"]),
            routes=(ModelRoute(entry=entry, upstream=engine),),
            agents=engine,
            responses=ResponsesConfig(lease_seconds=1.0, beat_seconds=0.1),
        )
    )
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    await uvicorn.Server(uvicorn.Config(gateway, log_level="critical")).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
