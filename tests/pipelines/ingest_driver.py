"""A driver to kill: ingests, and at the moment it was told of says so and waits for its end."""

import json
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"

import numpy as np
import ray
from numpy.typing import NDArray

from models.documents import DocumentRecord
from models.doubles.hash_embedder import HashEmbedder
from pipelines.flow import FlowSettings
from pipelines.ingest import IngestConfig, run_ingestion

BLOCKS = 3


def wait_for_the_end() -> None:
    sys.stdout.write("reached\n")
    sys.stdout.flush()
    sys.stdin.read()


class Manifest:
    """In a file; stops before or after its first record."""

    def __init__(self, path: Path, moment: str) -> None:
        self._path = path
        self._moment = moment

    def load(self) -> dict[str, DocumentRecord]:
        return {}

    def save(self, records: Iterable[DocumentRecord]) -> None:
        if self._moment == "committed":
            wait_for_the_end()
        with self._path.open("a") as file:
            file.writelines(record.model_dump_json() + "\n" for record in records)
        wait_for_the_end()


class NeverDone(HashEmbedder):
    """Encodes three blocks (Ray Data holds one or two back) and then no more: the driver dies with work left."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._blocks == BLOCKS:
            threading.Event().wait()
        self._blocks += 1
        return super().encode(texts)


class Silent:
    def update(self, **counts: int) -> None:
        """Nobody listens."""


def main() -> None:
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    ray.init(address=order["address"], log_to_driver=False)
    config = IngestConfig(
        root=folder / "docs", store=str(folder / "store"), table="org.kb", flow=FlowSettings(few_documents_max=0)
    )
    run_ingestion(config, Manifest(folder / "manifest.jsonl", order["moment"]), Silent(), NeverDone)


if __name__ == "__main__":
    main()
