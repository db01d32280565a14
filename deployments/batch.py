"""The batch job: what the control plane submits to Ray as ``python -m deployments.batch <batch id> <attempt>``."""

import asyncio
import os
import sys

import aiohttp

from deployments.config import PlatformConfig
from deployments.sections import batch_config
from serve.batches.config import RunnerConfig
from serve.batches.runner import Runner

# Where the job and replicas share a node's cores, it gives way to calls.
NICENESS = 10


async def run(config: RunnerConfig, batch_id: str, attempt: int) -> None:
    """Do the batch. Raises where the platform fails for long."""
    # A connection a line: one that the proxy closes while a line is being sent would leave open whether it arrived.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        await Runner(config, http, batch_id, attempt).run()


def main() -> int:
    """Entry point."""
    os.nice(NICENESS)
    asyncio.run(run(batch_config(PlatformConfig.load()), sys.argv[1], int(sys.argv[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
