"""Where replicas go when nodes have GPUs, with GPUs that are numbers: Ray counts them, no card is there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments import embedder, engine
from deployments.config import PlatformConfig
from deployments.platform import placement
from models.catalogue import SHIPPED_CATALOGUE

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
SECONDS_MAX = 120
SECRET_NAMES = ("DATABASE_URL", "REDIS_URL", "CLUSTER_SECRET", "OPERATOR_KEY", "KEY_PEPPER", "RAY_TOKEN")
SECRETS = {f"OBJECTA_{name}": "placed" for name in SECRET_NAMES}

# Runs apart: Ray reads its authentication mode once a process. Argument: ray_actor_options as JSON.
PLACE = """
import json, sys, tempfile
import ray

class Replica:
    def gpus(self):
        return len(ray.get_gpu_ids())

options = json.loads(sys.argv[1])
with tempfile.TemporaryDirectory(prefix="objecta-ray-") as folder:
    ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, object_store_memory=80_000_000,
             _temp_dir=folder, logging_level="ERROR", log_to_driver=False)
    actor = ray.remote(Replica).options(**options)
    first = actor.remote()
    given = ray.get(first.gpus.remote(), timeout=60)
    too_many = ray.remote(Replica).options(**{**options, "num_gpus": 3}).remote()
    second = actor.remote()
    waiting = [too_many.gpus.remote(), second.gpus.remote()]
    early, _ = ray.wait(waiting, num_returns=2, timeout=2)
    ray.kill(first)
    late, _ = ray.wait(waiting, num_returns=1, timeout=60)
    print(json.dumps({"given": given, "early": len(early), "late": [waiting.index(ref) for ref in late]}))
    ray.shutdown()
"""


def actor_options(model: str, role: str) -> dict[str, Any]:
    # Serve offers no public way to read an application that is not deployed.
    build = {"engine": engine.application, "embedder": embedder.application}[role]
    return vars(build({"model": model}))["_bound_deployment"].ray_actor_options


@pytest.fixture
def tensor_parallel(tmp_path: Path, load: Callable[[Mapping[str, str]], PlatformConfig]) -> PlatformConfig:
    """The chat model over two GPUs."""
    catalogue = yaml.safe_load(SHIPPED_CATALOGUE.read_text())
    (entry,) = [entry for entry in catalogue["models"] if entry["id"] == CHAT]
    entry["hardware"]["gpu"]["tensor_parallel_size"] = 2
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(catalogue))
    return load(SECRETS | {"OBJECTA_CATALOGUE_PATH": str(path), "OBJECTA_GPUS_PER_NODE": "2"})


def test_an_engine_asks_for_a_gpu_a_rank(tensor_parallel: PlatformConfig) -> None:
    entry = tensor_parallel.catalogue().find(CHAT)
    assert placement(tensor_parallel, entry)["num_gpus"] == 2
    assert actor_options(CHAT, "engine")["num_gpus"] == 2


def test_the_default_engine_and_embedder_ask_for_one_gpu_each(config: PlatformConfig) -> None:
    assert placement(config, config.catalogue().find(CHAT))["num_gpus"] == 1
    assert actor_options(CHAT, "engine")["num_gpus"] == 1
    assert actor_options(EMBEDDING, "embedder")["num_gpus"] == 1


def test_nobody_asks_for_a_gpu_where_there_is_none(
    load: Callable[[Mapping[str, str]], PlatformConfig],
) -> None:
    without = load(SECRETS | {"OBJECTA_GPUS_PER_NODE": "0"})
    assert "num_gpus" not in placement(without, without.catalogue().find(CHAT))
    assert not actor_options(CHAT, "engine").get("num_gpus")
    assert not actor_options(EMBEDDING, "embedder").get("num_gpus")


@pytest.mark.slow
def test_ray_places_what_an_engine_asks_for_and_no_more(tensor_parallel: PlatformConfig) -> None:
    assert tensor_parallel.gpus_per_node == 2
    options = actor_options(CHAT, "engine")
    wanted = {key: options[key] for key in ("num_cpus", "num_gpus", "runtime_env")}
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PLACE, json.dumps(wanted)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Both GPUs go to the first; the second has them when it is gone; three are never there.
    assert json.loads(done.stdout.splitlines()[-1]) == {"given": 2, "early": 0, "late": [1]}
