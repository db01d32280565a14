"""LiteLLM's proxy, in an environment of its own, as fast as it goes with one worker.

Its settings: production mode, no access log, uvloop and httptools, no database, no callbacks, no retries, the price map
from the wheel (so that nothing is fetched), a master key. The upstream is an ``openai/`` model by ``api_base``.
Source: https://docs.litellm.ai/docs/proxy/prod
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks.processes import ROOT, BenchmarkError, free_port, running, say, wait_for

PACKAGE = "litellm[proxy]==1.106.2"
ENVIRONMENT = ROOT / ".bench" / "litellm-venv"
INSTALLED = ENVIRONMENT / "installed.txt"
MASTER_KEY = "sk-benchmark-only"
START_SECONDS_MAX = 120.0


def install() -> None:
    """Make the environment where it is not there yet. Raises BenchmarkError where the package cannot be had."""
    if INSTALLED.exists() and INSTALLED.read_text() == PACKAGE:
        return
    say(f"installing {PACKAGE} into {ENVIRONMENT.relative_to(ROOT)}")
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    uv = Path(sys.executable).with_name("uv")
    links = [part for link in os.environ.get("PIP_FIND_LINKS", "").split() for part in ("--find-links", link)]
    for arguments in (
        ["venv", "--quiet", "--clear", "--python", sys.executable, ENVIRONMENT],
        ["pip", "install", "--quiet", "--python", ENVIRONMENT / "bin" / "python", *links, PACKAGE],
    ):
        done = subprocess.run([uv, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(
                f"{PACKAGE} could not be installed; is a package registry within reach?\n{done.stderr}"
            )
    INSTALLED.write_text(PACKAGE)


@contextlib.contextmanager
def litellm_proxy(upstream_url: str, model: str) -> Iterator[str]:
    """The base URL (without /v1) of a proxy that answers for ``model`` by way of ``upstream_url``."""
    install()
    with tempfile.TemporaryDirectory(prefix="objecta-litellm-") as name:
        folder = Path(name)
        config = folder / "config.yaml"
        upstream = {"model": f"openai/{model}", "api_base": f"{upstream_url}/v1", "api_key": "unused"}
        config.write_text(
            yaml.safe_dump(
                {
                    "model_list": [{"model_name": model, "litellm_params": upstream}],
                    "litellm_settings": {"set_verbose": False, "num_retries": 0, "telemetry": False},
                    "general_settings": {"master_key": MASTER_KEY},
                }
            )
        )
        port = free_port()
        command = [
            *(ENVIRONMENT / "bin" / "litellm", "--config", config, "--host", "127.0.0.1"),
            *("--port", str(port), "--num_workers", "1"),
        ]
        environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        log = folder / "litellm.log"
        url = f"http://127.0.0.1:{port}"
        with running(command, log, environment) as process:
            wait_for(f"{url}/health/liveliness", process, log, START_SECONDS_MAX)
            yield url
