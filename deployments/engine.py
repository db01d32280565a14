"""vLLM's own OpenAI server as a Serve deployment. Every name that vLLM moves between versions is in this file.

The replica runs vLLM's ASGI app unchanged behind the guard: only the routes we use answer, everything else is 404.
Requests with tools or strict JSON are translated on their way (``serve.tools``). A client's disconnect reaches vLLM
through ASGI and aborts the generation.
"""

import os
from contextlib import AsyncExitStack
from typing import Any

from pydantic import SecretStr
from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.platform import placement, scaling
from deployments.serving import application_of
from models.catalogue import CatalogueEntry, EngineArguments
from serve.allowlist import Allowlist
from serve.guard import Guard
from serve.tools.middleware import OWN_PARSERS, Tools

ENGINE_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/health"})


def engine_flags(entry: CatalogueEntry, arguments: EngineArguments, folder: str, gpus_per_node: int) -> list[str]:
    """vLLM's command line for a catalogue entry: what its stand-alone server would be given."""
    flags = [
        *("--model", folder, "--served-model-name", entry.id, "--dtype", arguments.dtype),
        *("--max-model-len", str(arguments.max_model_len or entry.context_window)),
        *("--max-num-seqs", str(arguments.max_num_seqs)),
        *("--tensor-parallel-size", str(arguments.tensor_parallel_size)),
        *("--gpu-memory-utilization", str(arguments.memory_utilization)),
        "--enable-prompt-tokens-details",
        *("--scheduling-policy", "priority"),
        "--disable-uvicorn-access-log",
    ]
    if arguments.enforce_eager:
        flags.append("--enforce-eager")
    if not gpus_per_node:
        # A request with a seed whose prefill is cut in parts ends vLLM 0.32 on a CPU: its generator has no offset.
        flags.append("--no-enable-chunked-prefill")
    if _in_one_process(arguments, gpus_per_node):
        flags += ["--distributed-executor-backend", "uni"]
    if arguments.lora_adapters:
        flags += ["--enable-lora", "--lora-modules"]
        flags += [f"{adapter.name}={adapter.path}" for adapter in arguments.lora_adapters]
    if entry.tool_parser not in OWN_PARSERS:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", entry.tool_parser]
    return flags


def engine_environment(arguments: EngineArguments, gpus_per_node: int) -> dict[str, str]:
    """What vLLM reads from the environment; the model store is local, so no hub is asked."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if arguments.kv_cache_gib is not None and not gpus_per_node:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(arguments.kv_cache_gib)
    if _in_one_process(arguments, gpus_per_node):
        # It also says who sets OpenMP up: with a worker process vLLM does, and leaves a core of two to others.
        environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    return environment


def _in_one_process(arguments: EngineArguments, gpus_per_node: int) -> bool:
    """Whether scheduler and model share a process: on a CPU a worker of its own costs an import, memory and time."""
    return not gpus_per_node and arguments.tensor_parallel_size == 1


async def started(flags: list[str], leaving: AsyncExitStack) -> tuple[Any, Any]:
    """vLLM's client and its ASGI app, ready to answer; ``leaving`` ends the engine."""
    # Imported here: it takes up to 20 seconds, and whoever only builds the graph does without.
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args: Any = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
    validate_parsed_serve_args(args)
    client = await leaving.enter_async_context(build_async_engine_client(args))
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    return client, app


def fronted(app: Any, entry: CatalogueEntry, secret: SecretStr) -> Guard:
    """vLLM's app with all that stands before it."""
    return Guard(Allowlist(Tools(app, entry.tool_parser), ENGINE_ROUTES), secret)


class Engine:
    """One vLLM engine. Ready when its constructor returns; dead when ``check_health`` raises."""

    async def __init__(self, model_id: str) -> None:
        config = PlatformConfig.load()
        entry = config.catalogue().find(model_id)
        gpus = config.gpus_per_node
        flags = engine_flags(entry, entry.engine(gpus), str(config.model_folder(model_id)), gpus)
        self._exit = AsyncExitStack()
        self._client, app = await started(flags, self._exit)
        self._app = fronted(app, entry, config.cluster_secret)

    def __serve_build_asgi_app__(self) -> Guard:
        """The app that Serve mounts: vLLM's, behind the guard."""
        return self._app

    async def check_health(self) -> None:
        """Raises where the engine's process is gone; Serve then replaces the replica."""
        await self._client.check_health()

    async def __del__(self) -> None:
        """Ends the engine's processes with the replica."""
        await self._exit.aclose()


def application(arguments: dict[str, str]) -> Application:
    """The application of the model that ``arguments`` names. Raises ModelNotFound, ValueError."""
    config = PlatformConfig.load()
    entry = config.catalogue().find(arguments["model"])
    environment = engine_environment(entry.engine(config.gpus_per_node), config.gpus_per_node)
    options: dict[str, Any] = {
        **scaling(entry),
        "ray_actor_options": {**placement(config, entry), "runtime_env": {"env_vars": environment}},
        "health_check_period_s": 1,
        "health_check_timeout_s": 15,
        "graceful_shutdown_timeout_s": 15,
    }
    return application_of(Engine, entry.id, name="engine", **options)
