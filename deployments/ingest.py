"""The ingestion job: what the control plane submits to Ray as ``python -m deployments.ingest <ingestion id>``.

Its work and its record live in the control plane: it asks what to ingest, reports how it goes, and stops when told.
"""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import ray

from deployments.config import PlatformConfig
from models.channels import CLUSTER_SECRET_HEADER
from models.documents import DocumentRecord, table_name
from models.errors import PlatformError
from pipelines.encoder import SentenceEncoder
from pipelines.ingest import IngestConfig, run_ingestion

REQUEST_SECONDS_MAX = 30.0
RECORDS_A_REQUEST = 500
# Where ingestion and replicas share a node's cores, it gives way to calls.
NICENESS = 10


class Cancelled(Exception):
    """The control plane says that this ingestion is no longer wanted."""


class LedgerClient:
    """One ingestion as the control plane keeps it: its order, its manifest, its progress.

    Implements ``models.protocols.Manifest`` and ``Progress``. Raises httpx.HTTPError where the control plane is away
    for longer than the retries of the transport.
    """

    def __init__(self, config: PlatformConfig, ingestion_id: str) -> None:
        self._path = f"/internal/ingestions/{ingestion_id}"
        self._client = httpx.Client(
            base_url=config.control_plane_url,
            headers={CLUSTER_SECRET_HEADER: config.cluster_secret.get_secret_value()},
            timeout=REQUEST_SECONDS_MAX,
            transport=httpx.HTTPTransport(retries=5),
        )

    def order(self) -> dict[str, Any]:
        """What to ingest, for whom."""
        return self._client.get(self._path).raise_for_status().json()

    def load(self) -> dict[str, DocumentRecord]:
        """All records of the knowledge base, by document."""
        rows = self._client.get(f"{self._path}/documents").raise_for_status().json()["data"]
        return {row["document"]: DocumentRecord.model_validate(row) for row in rows}

    def save(self, records: Iterable[DocumentRecord]) -> None:
        """Insert or replace records, durable on return."""
        rows = [record.model_dump(mode="json") for record in records]
        for start in range(0, len(rows), RECORDS_A_REQUEST):
            body = {"records": rows[start : start + RECORDS_A_REQUEST]}
            self._client.put(f"{self._path}/documents", json=body).raise_for_status()

    def update(self, **counts: int) -> None:
        """Report absolute counts. Raises Cancelled where the ingestion was cancelled."""
        self._report({"state": "running", **counts})

    def finish(self, state: str, error: str | None = None) -> None:
        """Report the end."""
        self._report({"state": state, "error": error})

    def _report(self, body: dict[str, Any]) -> None:
        answer = self._client.post(f"{self._path}/progress", json=body).raise_for_status().json()
        if answer["cancel"]:
            raise Cancelled


def encoder_factory(folder: Path) -> Callable[[], SentenceEncoder]:
    """Builds an encoder where it runs: in the actor, not in the driver."""

    def build() -> SentenceEncoder:
        os.nice(NICENESS)
        return SentenceEncoder(folder)

    return build


def run(config: PlatformConfig, ingestion_id: str) -> int:
    """Ingest; 0 when every document has a final state. Failures are recorded before they are raised."""
    ledger = LedgerClient(config, ingestion_id)
    order = ledger.order()
    settings = IngestConfig(
        root=Path(order["path"]),
        store=config.knowledge_store,
        table=table_name(order["organisation_id"], order["knowledge_base_id"]),
    )
    done = False
    reason = "The ingestion job stopped with an error; the job's log has it."
    try:
        run_ingestion(settings, ledger, ledger, encoder_factory(config.model_folder(order["embedding_model"])))
        ledger.finish("succeeded")
        done = True
    except Cancelled:
        sys.stderr.write("ingest: cancelled\n")
        done = True
    except PlatformError as error:
        reason = error.message
        raise
    finally:
        if not done:
            ledger.finish("failed", reason)
    return 0


def main() -> int:
    """Entry point."""
    os.nice(NICENESS)
    ray.init(address="auto", log_to_driver=False)
    return run(PlatformConfig.load(), sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
