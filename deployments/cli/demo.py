"""``make demo``: from nothing to a cited answer through the official SDK, and where everything is."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

from openai import OpenAI

from cluster.errors import ClusterError
from cluster.home import Home
from deployments.cli.client import POLL_SECONDS, ControlPlane
from deployments.cli.ingest import embedding_model, watch_ingestion
from deployments.cli.runner import run_foreground
from deployments.cli.show import Starting, console, step
from deployments.config import PlatformConfig
from deployments.local import DEMO, LocalPlatform, local_home
from models.channels import REQUEST_ID_HEADER

PROJECT = Path(__file__).resolve().parents[2]
QUESTION = "What happens when Redis is away?"
LEDGER_SECONDS_MAX = 15.0
SPEC = {
    "instructions": "You are a helpful assistant. Answer the question in one short sentence.",
    "retrieve_limit": 2,
    "max_completion_tokens": 96,
}


def run_demo(docs: Path | None, ask: str | None, *, once: bool) -> int:
    """The whole demo; 0 when there was a real answer with a citation. Raises ClusterError."""
    if docs is not None and not docs.exists():
        raise ClusterError(f"DOCS: {docs} does not exist")
    outcome: list[bool] = []

    async def work(platform: LocalPlatform, config: PlatformConfig, display: Starting) -> bool:
        home = local_home()
        # The engine takes longest to start, and waits more than it works: ingestion goes on beside it.
        deploying = asyncio.create_task(platform.deploy())
        try:
            demo = await asyncio.to_thread(_prepare, home, config, docs)
            await deploying
        finally:
            deploying.cancel()
        with step(f"Question: {ask or QUESTION}"):
            outcome.append(await asyncio.to_thread(_ask, config, demo, ask or QUESTION))
        _show_places(home, config, demo)
        console.print(f"all of it took {display.seconds:.0f} s")
        if not once:
            console.print("\nIt runs until Ctrl-C.")
        return not once

    run_foreground(work)
    return 0 if outcome and outcome[0] else 1


def _prepare(home: Home, config: PlatformConfig, docs: Path | None) -> dict[str, str]:
    """Organisation, key, knowledge base with documents, published agent; what ``demo.json`` says."""
    demo: dict[str, str] = home.read_json(DEMO) or {}
    operator = ControlPlane(config.control_plane_url, config.operator_key.get_secret_value())
    organisation = _organisation(operator, config, demo)
    embedder = embedding_model(config)
    base = operator.knowledge_base(organisation, "handbook", embedder)
    console.print("[bold]Ingesting[/bold]")
    watch_ingestion(operator, organisation, base["id"], docs or _own_documentation(home))
    chat = next(entry.id for entry in config.served() if entry.kind == "chat")
    _publish(operator, organisation, {**SPEC, "model": chat, "knowledge_base_id": base["id"]})
    demo |= {
        "base_url": f"{config.gateway_url}/v1",
        "model": chat,
        "embedding_model": embedder,
        "agent": "agent/handbook",
        "knowledge_base": base["id"],
    }
    home.write_json(DEMO, demo)
    return demo


def _organisation(operator: ControlPlane, config: PlatformConfig, demo: dict[str, str]) -> str:
    """The demo's organisation, with its keys in ``demo``: the last run's where they still work."""
    if "admin_key" in demo:
        try:
            return ControlPlane(config.control_plane_url, demo["admin_key"]).organisation()
        except ClusterError:
            console.print("  the keys of the last demo are void; making new ones")
    made = operator.post("/organisations", {"name": "Demo"})
    organisation = made["organisation"]["id"]
    body = {"name": "demo", "project_id": made["project"]["id"]}
    demo["admin_key"] = made["admin_key"]["key"]
    demo["api_key"] = operator.post(f"/organisations/{organisation}/api-keys", body)["key"]
    return str(organisation)


def _own_documentation(home: Home) -> Path:
    """The project's documentation alone, as a folder."""
    folder = home.folder / "demo-documents"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PROJECT / "docs", folder / "docs")
    shutil.copy(PROJECT / "README.md", folder)
    return folder


def _publish(operator: ControlPlane, organisation: str, spec: dict[str, Any]) -> None:
    agents = f"/organisations/{organisation}/agents"
    found = operator.get(agents, slug="handbook")["data"]
    agent = found[0] if found else operator.post(agents, {"slug": "handbook", "name": "Handbook"})
    version = operator.post(f"{agents}/{agent['id']}/versions", spec)["version"]
    operator.post(f"{agents}/{agent['id']}/publish", {"version": version})


def _ask(config: PlatformConfig, demo: dict[str, str], question: str) -> bool:
    """Stream the answer, then its citations, usage, cost and time to the first token; whether it was cited."""
    client = OpenAI(base_url=demo["base_url"], api_key=demo["api_key"])
    began = time.monotonic()
    raw = client.chat.completions.with_raw_response.create(
        model=demo["agent"],
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    )
    first: float | None = None
    text, citations, usage = "", [], None
    for chunk in raw.parse():
        usage = chunk.usage or usage
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None:
            continue
        citations += (delta.model_extra or {}).get("annotations") or []
        if delta.content:
            first = first or time.monotonic() - began
            text += delta.content
            console.out(delta.content, end="", highlight=False)
    console.out("")
    for number, citation in enumerate(citations, 1):
        cited = citation["url_citation"]
        heading = " > ".join(cited["heading"])
        console.print(f"  [{number}] {cited['document']} — {heading} (score {cited['score']:.2f})", markup=False)
    cost = _cost(config, demo, raw.headers[REQUEST_ID_HEADER])
    tokens = f"{usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage else "no usage"
    currency = config.catalogue().currency
    console.print(f"  {tokens} · {cost / 1e6:.6f} {currency} · first token after {(first or 0) * 1000:.0f} ms")
    return bool(text.strip()) and bool(citations)


def _cost(config: PlatformConfig, demo: dict[str, str], request_id: str) -> int:
    """Micro-units of the whole answer as the ledger has it. Raises ClusterError where it never arrives there."""
    admin = ControlPlane(config.control_plane_url, demo["admin_key"])
    events = f"/organisations/{admin.organisation()}/usage/events"
    deadline = time.monotonic() + LEDGER_SECONDS_MAX
    while time.monotonic() < deadline:
        found = admin.get(events, request_id=request_id)["data"]
        # The agent's own event is the last to be settled.
        if any(event["kind"] == "agent" for event in found):
            return sum(event["cost_micro"] for event in found)
        time.sleep(POLL_SECONDS)
    raise ClusterError("the ledger has no usage of the answer: objecta status shows whether its parts are up")


def _show_places(home: Home, config: PlatformConfig, demo: dict[str, str]) -> None:
    console.print("[bold]Where things are[/bold]")
    for name, place in (
        ("endpoint", demo["base_url"]),
        ("control plane", f"{config.control_plane_url}/docs"),
        ("Ray dashboard", f"{config.dashboard_url} (token: ray_token in {home.folder / 'config.yaml'})"),
        ("keys and ids", str(home.folder / DEMO)),
    ):
        console.print(f"  {name:<14} {place}", markup=False, soft_wrap=True)
    console.print("  With the openai SDK:", markup=False)
    console.print(f"    OpenAI(base_url={demo['base_url']!r}, api_key=<api_key of {DEMO}>)", markup=False)
    console.print(f"    client.chat.completions.create(model={demo['agent']!r}, messages=[…])", markup=False)
