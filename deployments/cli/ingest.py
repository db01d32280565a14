"""``objecta ingest``: the operator's way to ingest a folder of this machine, with progress."""

import time
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from deployments.cli.client import ControlPlane
from deployments.cli.show import console, ingesting
from deployments.config import PlatformConfig


def ingest_folder(
    state: dict[str, Any], config: PlatformConfig, path: Path, name: str, organisation: str | None
) -> None:
    """Ingest ``path`` into the knowledge base ``name`` and show every failed document. Raises ClusterError."""
    if not path.exists():
        raise ClusterError(f"{path} does not exist")
    operator = ControlPlane(state["control_plane_url"], config.operator_key.get_secret_value())
    organisation = organisation or operator.organisation()
    base = operator.knowledge_base(organisation, name, embedding_model(config))
    watch_ingestion(operator, organisation, base["id"], path)


def embedding_model(config: PlatformConfig) -> str:
    """The first embedding model served. Raises ClusterError where there is none."""
    found = next((entry.id for entry in config.served() if entry.kind == "embedding"), None)
    if found is None:
        raise ClusterError("no embedding model is served: add one to models in the configuration")
    return found


def watch_ingestion(operator: ControlPlane, organisation: str, knowledge_base: str, path: Path) -> dict[str, Any]:
    """Ingest with a progress bar; prints the outcome and each failure; the finished run."""
    began = time.monotonic()
    with ingesting() as progress:
        task = progress.add_task("starting", total=None, chunks=0, rate="0")

        def watch(run: dict[str, Any]) -> None:
            seconds = max(time.monotonic() - began, 0.001)
            progress.update(
                task,
                description=run["state"],
                total=run["documents_total"] or None,
                completed=run["documents_done"],
                chunks=run["chunks_done"],
                rate=f"{run['chunks_done'] / seconds:.1f}",
            )

        run = operator.ingest(organisation, knowledge_base, path, watch)
    console.print(
        f"  [green]●[/green] {run['documents_total']} documents ({run['documents_failed']} failed), "
        f"{run['chunks_done']} chunks indexed in {time.monotonic() - began:.1f} s"
    )
    documents = f"/organisations/{organisation}/knowledge-bases/{knowledge_base}/documents"
    for failed in operator.get(documents, state="failed")["data"]:
        console.print(f"  failed {failed['document']}: {failed['reason']} ({failed['code']})", markup=False)
    return run
