"""vLLM's own OpenAI server as a Serve deployment. Every name that vLLM moves between versions is in this file.

The replica runs vLLM's ASGI app unchanged behind the guard: only the routes we use answer, everything else is 404.
A client's disconnect reaches vLLM through ASGI and aborts the generation.
"""

from argparse import Namespace
from contextlib import AsyncExitStack
from typing import Any, cast

from pydantic import SecretStr
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from deployments.config import PlatformConfig
from models.catalogue import CatalogueEntry, EngineArguments
from serve.allowlist import Allowlist
from serve.guard import Guard

ENGINE_ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/health"})


def engine_flags(entry: CatalogueEntry, arguments: EngineArguments, folder: str) -> list[str]:
    """vLLM's command line for a catalogue entry: what ``vllm serve`` would be given."""
    flags = [
        *("--model", folder, "--served-model-name", entry.id, "--dtype", arguments.dtype),
        *("--max-model-len", str(arguments.max_model_len or entry.context_window)),
        *("--max-num-seqs", str(arguments.max_num_seqs)),
        *("--tensor-parallel-size", str(arguments.tensor_parallel_size)),
        *("--gpu-memory-utilization", str(arguments.memory_utilization)),
        "--enable-prompt-tokens-details",
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
    ]
    if arguments.enforce_eager:
        flags.append("--enforce-eager")
    if arguments.lora_adapters:
        flags.append("--enable-lora")
        flags.append("--lora-modules")
        flags.extend(f"{adapter.name}={adapter.path}" for adapter in arguments.lora_adapters)
    return flags


class Engine:
    """One vLLM engine. Ready when its constructor returns; dead when ``check_health`` raises."""

    async def __init__(self, model_id: str) -> None:
        config = PlatformConfig.load()
        entry = config.catalogue().find(model_id)
        flags = engine_flags(entry, entry.engine(config.gpus_per_node), str(config.model_folder(model_id)))
        args = cast("Namespace", make_arg_parser(FlexibleArgumentParser()).parse_args(flags))
        validate_parsed_serve_args(args)
        self._exit = AsyncExitStack()
        self._client = await self._exit.enter_async_context(build_async_engine_client(args))
        tasks = await self._client.get_supported_tasks()
        self._app = build_app(args, tasks, self._client.model_config)
        await init_app_state(self._client, self._app.state, args, tasks)
        self._secret: SecretStr = config.cluster_secret

    def __serve_build_asgi_app__(self) -> Any:
        """The app that Serve mounts: vLLM's, behind the guard."""
        return Guard(Allowlist(self._app, ENGINE_ROUTES), self._secret)

    async def check_health(self) -> None:
        """Raises where the engine's process is gone; Serve then replaces the replica."""
        await self._client.check_health()

    async def __del__(self) -> None:
        """Ends the engine's processes with the replica."""
        await self._exit.aclose()
