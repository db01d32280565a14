"""The object store over a folder, fsspec's memory, and a bucket behind Arrow's S3 client and a server of ours.

``S3`` speaks the part of the wire that a store needs: multipart uploads, whole objects, ranges, listings. It checks
what a client could get wrong: the bucket, upload ids, the order and size of parts, and the digest of each body.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/
"""

import asyncio
import hashlib
import itertools
import os
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import httpx
import pytest

from serve.files.store import ObjectStore, key

PART_BYTES_MIN = 5 * 1024 * 1024


class S3:
    """One bucket; ``objects`` by key. ``away``: every call fails."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._ids = itertools.count()
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.away = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, answer, extra = 403, b"", {}
        if not self.away:
            status, answer, extra = self._answer(scope, headers, decoded(headers, body))
        length = extra.pop("length", len(answer))
        pairs = [(b"content-length", b"%d" % length), *((k.encode(), v.encode()) for k, v in extra.items())]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})

    def _answer(self, scope: Any, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, Any]]:
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode(), keep_blank_values=True).items()}
        _, bucket, key = (scope["path"] + "/").split("/", 2)
        key = key.removesuffix("/")
        if bucket != self._bucket or "authorization" not in headers:
            return 404, b"", {}
        method = scope["method"]
        if method == "POST":
            return self._upload(key, query, body)
        if method == "PUT":
            return self._put(key, query, body)
        if method == "DELETE":
            self.objects.pop(key, None)
            return 204, b"", {}
        if "list-type" in query:
            return self._list(query)
        return self._read(key, headers.get("range"))

    def _upload(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, Any]]:
        if "uploads" in query:
            made = f"upload-{next(self._ids)}"
            self.uploads[made] = {}
            names = f"<Bucket>{self._bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{made}</UploadId>"
            return 200, f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>".encode(), {}
        parts = self.uploads.pop(query["uploadId"])
        told = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
        assert told == sorted(parts)
        assert all(len(parts[number]) >= PART_BYTES_MIN for number in told[:-1])
        self.objects[key] = b"".join(parts[number] for number in told)
        return 200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>", {}

    def _put(self, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, Any]]:
        if "uploadId" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.objects[key] = body
        return 200, b"", {"etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}

    def _list(self, query: dict[str, str]) -> tuple[int, bytes, dict[str, Any]]:
        found = [key for key in sorted(self.objects) if key.startswith(query.get("prefix", ""))]
        rows = "".join(f"<Contents><Key>{escape(k)}</Key><Size>{len(self.objects[k])}</Size></Contents>" for k in found)
        count = f"<KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        return 200, f"<ListBucketResult>{count}{rows}</ListBucketResult>".encode(), {}

    def _read(self, key: str, asked: str | None) -> tuple[int, bytes, dict[str, Any]]:
        if key not in self.objects:
            return 404, b"", {}
        whole = self.objects[key]
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        stamp = {"last-modified": "Tue, 24 Nov 2026 00:00:00 GMT", "content-type": "application/octet-stream"}
        if span is None:
            return 200, whole, stamp
        start, end = int(span[1]), min(int(span[2]) + 1, len(whole))
        return 206, whole[start:end], {**stamp, "content-range": f"bytes {start}-{end - 1}/{len(whole)}"}


def decoded(headers: dict[str, str], body: bytes) -> bytes:
    """The body without the framing of ``aws-chunked``, its digest checked where one was sent."""
    if "aws-chunked" in headers.get("content-encoding", ""):
        data, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                break
            data, rest = data + rest[:length], rest[length + 2 :]
        assert len(data) == int(headers["x-amz-decoded-content-length"])
        return data
    digest = headers.get("x-amz-content-sha256", "")
    assert len(digest) != 64 or digest == hashlib.sha256(body).hexdigest()
    return body


NAME = key("org_a", "file-1")
KINDS = ["folder", "memory", "bucket"]


@pytest.fixture
async def bucket(listening: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[S3, str]]:
    """The server and the store's address."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = S3("bucket")
    async with listening(server) as url:
        yield server, f"s3://bucket/prefix?endpoint_override={url}&region=us-east-1"


@pytest.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: tuple[S3, str]) -> AsyncIterator[ObjectStore]:
    addresses = {"folder": str(tmp_path / "objects"), "memory": f"memory://{tmp_path}", "bucket": bucket[1]}
    store = ObjectStore(addresses[request.param], 4)
    yield store
    await asyncio.to_thread(store.close)


async def write(store: ObjectStore, *blocks: bytes, name: str = NAME) -> tuple[int, str]:
    writer = store.writer(name)
    await writer.open()
    for block in blocks:
        await writer.write(block)
    await writer.finish()
    return writer.size, writer.sha256


async def read(store: ObjectStore, start: int = 0, name: str = NAME, size: int = 1_000_000) -> bytes:
    reader = store.reader(name, start)
    try:
        await reader.open()
        data = b""
        while block := await reader.read(size):
            data += block
        return data
    finally:
        await reader.close()


@pytest.mark.parametrize("store", KINDS, indirect=True)
async def test_an_object_is_written_in_blocks_and_read_from_anywhere(store: ObjectStore) -> None:
    blocks = [os.urandom(3_000_000) for _ in range(4)]
    whole = b"".join(blocks)
    assert await write(store, *blocks) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await read(store) == whole
    assert await read(store, start=len(whole) - 5) == whole[-5:]
    await write(store, b"other", name=key("org_b", "file-1"))
    assert await read(store) == whole


@pytest.mark.parametrize("store", KINDS, indirect=True)
async def test_what_was_removed_is_gone_and_removing_nothing_is_no_error(store: ObjectStore) -> None:
    await store.remove(NAME)
    await write(store, b"abc")
    for _ in range(2):
        await store.remove(NAME)
    with pytest.raises(FileNotFoundError):
        await read(store)


@pytest.mark.parametrize("store", KINDS, indirect=True)
async def test_an_object_given_up_is_closed_and_takes_nothing_more(store: ObjectStore) -> None:
    writer = store.writer(NAME)
    await writer.open()
    await writer.write(b"abc")
    for _ in range(2):
        await writer.close()
    for call in (writer.write(b"more"), writer.finish()):
        with pytest.raises(OSError, match="closed"):
            await call
    await store.remove(NAME)
    with pytest.raises(FileNotFoundError):
        await read(store)


async def test_an_object_whose_opening_was_given_up_leaves_nothing_once_it_is_removed(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path), 2)
    gate = threading.Event()
    busy = [asyncio.ensure_future(store.run(gate.wait)) for _ in range(2)]
    writer = store.writer(NAME)
    opening = asyncio.ensure_future(writer.open())
    await asyncio.sleep(0)
    opening.cancel()
    closing = asyncio.ensure_future(writer.close())
    gate.set()
    await asyncio.gather(closing, *busy)
    with pytest.raises(asyncio.CancelledError):
        await opening
    await store.remove(NAME)
    await asyncio.to_thread(store.close)
    assert files_below(tmp_path) == []


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "a b", "x" * 129, "é"])
def test_an_id_that_could_lead_elsewhere_names_no_object(name: str) -> None:
    for ids in ((name, "file-1"), ("org_a", name)):
        with pytest.raises(ValueError, match="an id holds"):
            key(*ids)


async def test_files_live_in_a_bucket(files, bucket: tuple[S3, str]) -> None:
    server, address = bucket
    stage = await files(store=address)
    content = os.urandom(12_000_000)
    made = await stage.client().files.create(file=("a", content), purpose="batch")
    assert server.objects == {f"prefix/{key(stage.organisation, made.id)}": content}
    assert (await stage.client().files.content(made.id)).content == content
    part = await stage.http.get(f"/v1/files/{made.id}/content", headers={"range": "bytes=11999990-"})
    assert part.content == content[-10:]
    await stage.client().files.delete(made.id)
    await stage.stage.until(lambda: not stage.rows())
    # Arrow marks the folder that it emptied.
    assert not [name for name in server.objects if not name.endswith(("/", stage.organisation))]


async def test_a_bucket_that_is_away_is_503_and_what_it_holds_is_swept_later(files, bucket: tuple[S3, str]) -> None:
    server, address = bucket
    stage = await files(store=address, sweep_seconds=0.05)
    made = (await stage.upload()).json()["id"]
    server.away = True
    answers: list[httpx.Response] = [await stage.upload(), await stage.http.get(f"/v1/files/{made}/content")]
    assert [answer.status_code for answer in answers] == [503, 503]
    assert (await stage.http.delete(f"/v1/files/{made}")).json()["deleted"]
    assert set(stage.rows().values()) == {"deleted"}
    server.away = False
    stage.sql("UPDATE files SET lease_until = now()")
    await stage.stage.until(lambda: not stage.rows())
    assert f"prefix/{key(stage.organisation, made)}" not in server.objects
