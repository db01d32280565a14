"""A cluster of its own for the tests that kill or end a supervisor: ``python supervised.py HOME``.

PostgreSQL, Redis, and a stubborn part: deaf to SIGTERM, one process of it an orphan in another session.
"""

import asyncio
import sys
from pathlib import Path

from cluster.home import Home
from cluster.postgres import postgres_part
from cluster.redis_server import redis_part
from cluster.supervisor import Supervisor
from conftest import stubborn_part


async def main(home: Home) -> None:
    """Until stopped."""
    with home.held():
        parts = [postgres_part(home)[0], redis_part(home)[0], stubborn_part(home)]
        supervisor = Supervisor(home, parts, lambda event: print(event.name, event.state, flush=True))
        await supervisor.start()
        print("all ready", flush=True)
        await supervisor.run_until_stopped()


if __name__ == "__main__":
    asyncio.run(main(Home(Path(sys.argv[1]))))
