"""What an ingestion has to do: the folder as it is, against the record of what was done."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from models.documents import DocumentRecord, chunk_id
from pipelines.discover import Discovery, Found

HASH_THREADS = 4


@dataclass(frozen=True)
class Work:
    """A document to parse and index. ``content_hash`` is None where the file could not be read just now."""

    found: Found
    content_hash: str | None


@dataclass(frozen=True)
class Plan:
    """Disjoint: every document found is in ``work``, ``unchanged`` or ``failed``; ``removed`` are found no more."""

    work: list[Work]
    unchanged: list[str]
    failed: list[DocumentRecord]
    removed: list[str]

    @property
    def documents(self) -> int:
        """All documents found."""
        return len(self.work) + len(self.unchanged) + len(self.failed)


def file_hash(path: str) -> str | None:
    """SHA-256 of a file's bytes, hex; None where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def make_plan(
    discovery: Discovery, known: Mapping[str, DocumentRecord], present: Mapping[str, str], settings: str
) -> Plan:
    """Unchanged is what the record calls indexed and the table holds, from the same bytes, cut by the same settings.

    ``present``: document → id of its first chunk in the table.
    """
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = list(pool.map(file_hash, (found.path for found in discovery.files.values())))
    work: list[Work] = []
    unchanged: list[str] = []
    for found, digest in zip(discovery.files.values(), hashes, strict=True):
        record = known.get(found.document)
        indexed = record is not None and record.state == "indexed" and record.content_hash == digest
        if indexed and digest and present.get(found.document) == chunk_id(found.document, digest, 0, settings):
            unchanged.append(found.document)
        else:
            work.append(Work(found, digest))
    failed = [
        DocumentRecord(document=document, state="failed", code=failure.code, reason=failure.reason)
        for document, failure in discovery.failures.items()
    ]
    seen = discovery.files.keys() | discovery.failures.keys()
    live = {document for document, record in known.items() if record.state != "deleted"} | present.keys()
    removed = sorted(document for document in live - seen if not discovery.hides(document))
    return Plan(work, unchanged, failed, removed)
