"""One gateway replica under uvicorn, without Ray: ``python -m benchmarks.replica CONFIG PORT``, ended by a signal."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import uvicorn

from benchmarks.processes import ROOT
from cluster.parts import answers
from serve.config import GatewayConfig
from serve.gateway import Gateway


class Replica:
    """A gateway's process; killed and started again."""

    def __init__(self, config: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "benchmarks.replica", str(config), str(port)]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, stdin=subprocess.DEVNULL)

    async def ready(self) -> None:
        """Returns once it answers."""
        async with asyncio.timeout(60):
            while True:
                if await answers(f"{self.url}/health/live"):
                    return
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, and a new one in its place."""
        self.end(signal.SIGKILL)
        self._process = self._start()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it."""
        self._process.send_signal(how)
        self._process.wait(30)


def run(config: Path, port: int) -> None:
    """Serve until a signal. ``config``: a ``GatewayConfig`` as JSON, secrets in the clear."""
    gateway = Gateway(GatewayConfig.model_validate_json(config.read_bytes()))
    uvicorn.run(gateway, port=port, log_level="warning", access_log=False, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
