"""How much of the encoder's own speed does ingestion keep?

``python -m benchmarks.ingest`` ingests documents of real English text (the licences, readmes and sources that this
Python came with) in rounds, and between the rounds encodes the very same passages with the bare encoder in this
process: same weights, same threads, and the machine's mood is in both.

The time of ingestion runs from calling ``run_ingestion``, under a Ray that is up, to its return: hashing, starting Ray
Data and its actors, loading the model, parsing, cutting, encoding, committing, building the indices. The bare encoder
is loaded and warm. ``share_after_start`` leaves out the time up to the first committed chunks, and these.

The last line is one JSON object; the figures are means over the rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import ray

from models.documents import DocumentRecord
from pipelines.encoder import SentenceEncoder, usable_cpus
from pipelines.ingest import IngestConfig, run_ingestion

MODEL = Path(".objecta/models/all-minilm-l6-v2")
DOCUMENT_CHARACTERS = 12_000
OBJECT_STORE_BYTES = 256 * 1024**2
SAMPLE_CHUNKS = 600


class Ledger:
    """A manifest in memory."""

    def __init__(self) -> None:
        self.records: dict[str, DocumentRecord] = {}

    def load(self) -> dict[str, DocumentRecord]:
        """All of them."""
        return dict(self.records)

    def save(self, records: Iterable[DocumentRecord]) -> None:
        """Keep."""
        self.records.update({record.document: record for record in records})


class Clock:
    """Notes when which number of chunks was committed."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.marks: list[tuple[float, int]] = []

    def update(self, *, chunks_done: int, **_: int) -> None:
        """Called as ingestion goes."""
        if not self.marks or self.marks[-1][1] != chunks_done:
            self.marks.append((time.perf_counter() - self.started, chunks_done))


def real_texts() -> Iterator[str]:
    """Prose that is on every machine that can run this: what installed packages say of themselves, and docstrings."""
    packages = Path(json.__file__).parent.parent, Path(pyarrow.__file__).parent.parent
    for folder in packages:
        for pattern in ("*.dist-info/METADATA", "*.dist-info/**/LICENSE*", "*.py"):
            for path in sorted(folder.glob(pattern)):
                yield path.read_text(encoding="utf-8", errors="ignore")


def write_corpus(folder: Path, documents: int) -> None:
    """Equal pieces of the text, as Markdown, plain text and HTML in turn."""
    written, rest = 0, ""
    for text in real_texts():
        rest += "\n\n" + text
        while len(rest) >= DOCUMENT_CHARACTERS and written < documents:
            body, rest = rest[:DOCUMENT_CHARACTERS], rest[DOCUMENT_CHARACTERS:]
            name = folder / f"section-{written % 8}" / f"document-{written:04}"
            name.parent.mkdir(exist_ok=True)
            suffix = (".md", ".txt", ".html")[written % 3]
            if suffix == ".html":
                paragraphs = body.replace("&", "&amp;").replace("<", "&lt;").split("\n\n")
                body = "<!doctype html><title>Text</title>" + "".join(f"<p>{part}</p>" for part in paragraphs)
            name.with_suffix(suffix).write_text(body, encoding="utf-8")
            written += 1
        if written == documents:
            return
    raise SystemExit(f"ingest: only {written} documents of text on this machine")


def bare_rate(encoder: SentenceEncoder, texts: list[str]) -> float:
    """Chunks a second of the encoder alone, warm."""
    encoder.encode(texts[:32])
    started = time.perf_counter()
    encoder.encode(texts)
    return len(texts) / (time.perf_counter() - started)


def ingest(root: Path, store: Path, model: Path) -> tuple[Clock, float, Any]:
    """One run into an empty store."""
    ledger, clock = Ledger(), Clock()
    config = IngestConfig(root=root, store=str(store), table="benchmark.corpus")
    report = run_ingestion(config, ledger, clock, lambda: SentenceEncoder(model))
    return clock, time.perf_counter() - clock.started, report


def indexed_texts(store: Path) -> list[str]:
    """The passages as the encoder saw them (headings included), a deterministic sample."""
    # Imported after Ray's start, which forks: LanceDB warns of forks once it is imported.
    import lancedb

    rows = lancedb.connect(store).open_table("benchmark.corpus").to_arrow().select(["chunk_id", "heading", "text"])
    ordered = sorted(rows.to_pylist(), key=lambda row: row["chunk_id"])
    sample = ordered[:SAMPLE_CHUNKS]
    return ["\n".join(filter(None, (" > ".join(row["heading"]), row["text"]))) for row in sample]


def main() -> int:
    """Measure, print, and end what was started."""
    parser = argparse.ArgumentParser(description="Ingestion beside the bare encoder")
    parser.add_argument("--documents", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    model = options.model.resolve()
    if not (model / "tokenizer.json").is_file():
        sys.stderr.write(f"ingest: {model} holds no model; run 'objecta models pull' first\n")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="objecta-ingest-"))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(
        address="local",
        num_cpus=usable_cpus(),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(folder / "ray"),
    )
    try:
        (folder / "corpus").mkdir()
        write_corpus(folder / "corpus", options.documents)
        (folder / "probe").mkdir()
        write_corpus(folder / "probe", 8)
        ingest(folder / "probe", folder / "probe-store", model)
        print(json.dumps(measure(folder, model, options.rounds)))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(folder: Path, model: Path, rounds: int) -> dict[str, Any]:
    """Rounds of ingestion, each between two of the bare encoder."""
    encoder = SentenceEncoder(model)
    texts = indexed_texts(folder / "probe-store")
    bare = [bare_rate(encoder, texts)]
    results: list[dict[str, float]] = []
    for number in range(rounds):
        store = folder / f"store-{number}"
        clock, seconds, report = ingest(folder / "corpus", store, model)
        bare.append(bare_rate(encoder, indexed_texts(store)))
        first_seconds, first_chunks = clock.marks[1]
        beside = statistics.mean(bare[-2:])
        results.append(
            {
                "documents": report.documents,
                "chunks": report.chunks,
                "tokens": report.tokens,
                "seconds": seconds,
                "first_chunks_seconds": first_seconds,
                "chunks_per_s": report.chunks / seconds,
                "encoder_chunks_per_s": beside,
                "share_of_encoder": report.chunks / seconds / beside,
                "share_after_start": (report.chunks - first_chunks) / (seconds - first_seconds) / beside,
            }
        )
        sys.stderr.write(f"round {number + 1}: {json.dumps(results[-1])}\n")
    means = {key: round(statistics.mean(result[key] for result in results), 3) for key in results[0]}
    return {"rounds": rounds, "threads": usable_cpus(), **means}


if __name__ == "__main__":
    sys.exit(main())
