"""vLLM with the default model as engine replicas serve it, without Ray: ``engine_server.py PORT``.

Each way of telling a model of tools has its own address: ``/prompted``, ``/hermes``.
"""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from deployments.engine import engine_flags, fronted, started
from models.catalogue import load_catalogue
from serve.asgi import Receive, Scope, Send
from serve.tools.middleware import OWN_PARSERS

ROOT = Path(__file__).resolve().parents[3]
MODEL = "smollm2-135m-instruct"
SECRET = SecretStr("cluster-secret")


async def main(port: int) -> None:
    # uvicorn raises the signal that ended it once more; the engine has a process to end first.
    signal.signal(signal.SIGTERM, lambda *_: None)
    entry = load_catalogue().find(MODEL)
    flags = engine_flags(entry, entry.engine(0), str(ROOT / ".objecta" / "models" / MODEL), 0)
    async with AsyncExitStack() as leaving:
        _, app = await started(flags, leaving)
        mounts = {
            f"/{parser}": fronted(app, entry.model_copy(update={"tool_parser": parser}), SECRET)
            for parser in OWN_PARSERS
        }

        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            root = "/" + scope["path"].split("/")[1]
            await mounts[root]({**scope, "root_path": root}, receive, send)

        config = uvicorn.Config(mounted, port=port, lifespan="off", access_log=False, log_level="warning")
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
