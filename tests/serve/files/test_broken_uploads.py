"""What is left of an upload that breaks: never a file without bytes, in the end nothing at all."""

import asyncio
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest

HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"
BLOCK = 64 * 1024


async def endless(gate: asyncio.Event | None = None) -> Any:
    """A form whose file never ends, or waits before its end until it is allowed to."""
    yield HEAD
    for _ in range(40):
        yield os.urandom(BLOCK)
    if gate is None:
        while True:
            yield os.urandom(BLOCK)
            await asyncio.sleep(0.001)
    await gate.wait()
    yield TAIL


async def being_written(stage: Any) -> None:
    await stage.stage.until(lambda: any(len(data) > BLOCK for data in stage.objects().values()))


async def test_a_client_that_hangs_up_leaves_nothing(files) -> None:
    stage = await files()
    upload = asyncio.ensure_future(stage.post(endless()))
    await being_written(stage)
    assert set(stage.rows().values()) == {"uploading"}
    assert (await stage.http.get("/v1/files")).json()["data"] == []
    upload.cancel()
    await stage.nothing_left()


async def test_a_gateway_that_stops_leaves_nothing(files) -> None:
    stage = await files()
    upload = asyncio.ensure_future(stage.post(endless()))
    await being_written(stage)
    await stage.stage.gateway.close()
    assert stage.rows() == stage.objects() == {}
    upload.cancel()
    with pytest.raises((asyncio.CancelledError, httpx.HTTPError)):
        await upload


async def begun(stage: Any, *, going_on: bool) -> dict[str, Any]:
    """The error that a client reads which began an upload and then stalls, or goes on for ever, a byte at a time."""
    address = httpx.URL(stage.stage.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stage.key}\r\ncontent-length: 1000000\r\n"
    writer.write(f"{head}content-type: multipart/form-data; boundary=b\r\n\r\n".encode() + HEAD + bytes(BLOCK))

    async def trickle() -> None:
        while going_on:
            writer.write(b"x")
            await asyncio.sleep(0.01)

    sending = asyncio.ensure_future(trickle())
    headers = await reader.readuntil(b"\r\n\r\n")
    length = int(headers.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    sending.cancel()
    writer.close()
    assert headers.startswith(b"HTTP/1.1 400 ")
    return json.loads(body)["error"]


@pytest.mark.parametrize(("limits", "going_on"), [({"idle_seconds": 0.2}, False), ({"upload_seconds_max": 0.5}, True)])
async def test_a_client_that_stalls_or_takes_too_long_is_told_and_leaves_nothing(
    files, limits: dict[str, float], going_on: bool
) -> None:
    stage = await files(**limits)
    assert (await begun(stage, going_on=going_on))["code"] == "upload_timeout"
    assert stage.rows() == stage.objects() == {}


async def test_no_more_uploads_than_allowed_run_at_once(files) -> None:
    stage = await files(uploads_max=1)
    gate = asyncio.Event()
    first = asyncio.ensure_future(stage.post(endless(gate)))
    await being_written(stage)
    refused = await stage.upload()
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    gate.set()
    assert (await first).json()["bytes"] == 40 * BLOCK
    assert (await stage.upload()).status_code == 200


@pytest.mark.parametrize("call", ["POST files", "POST finish"])
async def test_a_control_plane_that_is_away_is_503_and_nothing_is_left(files, call: str) -> None:
    stage = await files()
    stage.door.broken = {call}
    answer = await stage.upload()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert stage.rows() == stage.objects() == {}


async def test_an_end_whose_answer_was_lost_leaves_no_file_that_nobody_knows(files) -> None:
    stage = await files()
    stage.door.unheard = {"POST finish"}
    assert (await stage.upload()).status_code == 503
    assert stage.rows() == stage.objects() == {}


async def test_a_file_given_up_meanwhile_is_not_finished(files) -> None:
    stage = await files()
    gate = asyncio.Event()
    upload = asyncio.ensure_future(stage.post(endless(gate)))
    await being_written(stage)
    stage.sql("UPDATE files SET lease_until = now() - interval '1 second'")
    gate.set()
    answer = await upload
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert stage.rows() == stage.objects() == {}


async def test_what_nobody_could_undo_is_swept_once_its_lease_is_over(files) -> None:
    stage = await files(sweep_seconds=0.05)
    stage.door.broken = {"POST finish", "POST abandon"}
    assert (await stage.upload()).status_code == 503
    assert set(stage.rows().values()) == {"uploading"}
    assert list(stage.objects()) == list(stage.rows())
    assert (await stage.http.get("/v1/files")).json()["data"] == []
    stage.sql("UPDATE files SET lease_until = now()")
    await stage.nothing_left()


async def test_expired_and_deleted_files_are_swept_and_the_others_stay(files) -> None:
    stage = await files(sweep_seconds=0.05)
    kept, expired, deleted = [(await stage.upload(name)).json()["id"] for name in (b"k", b"e", b"d")]
    stage.door.broken = {"POST purge"}
    assert (await stage.http.delete(f"/v1/files/{deleted}")).json()["deleted"]
    assert stage.rows()[deleted] == "deleted"
    stage.sql(f"UPDATE files SET expires_at = now() WHERE id = '{expired}'")
    assert (await stage.http.get(f"/v1/files/{expired}")).status_code == 404
    stage.sql("UPDATE files SET lease_until = now()")
    await stage.stage.until(lambda: list(stage.objects()) == [kept])
    stage.door.broken = set()
    stage.sql("UPDATE files SET lease_until = now()")
    await stage.stage.until(lambda: stage.rows() == {kept: "stored"})
    assert (await stage.http.get(f"/v1/files/{kept}/content")).content == b"k"


async def test_a_store_that_fails_is_503_without_a_word_of_its_inside(files, tmp_path: Path) -> None:
    stage = await files()
    stage.folder.write_text("a file where the folder should be")
    answer = await stage.upload()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert str(tmp_path) not in answer.text
    assert stage.rows() == {}


async def test_bytes_that_are_gone_are_503_and_bytes_that_end_early_cut_the_answer(files) -> None:
    stage = await files()
    made = (await stage.upload(bytes(600_000))).json()["id"]
    (path,) = [path for path in stage.folder.rglob("*") if path.name == made]
    path.write_bytes(bytes(500_000))
    with pytest.raises(httpx.RemoteProtocolError):
        await stage.http.get(f"/v1/files/{made}/content")
    path.unlink()
    answer = await stage.http.get(f"/v1/files/{made}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")


async def test_a_reader_that_leaves_ends_the_reading(files) -> None:
    stage = await files()
    made = (await stage.upload(bytes(20_000_000))).json()["id"]
    opened = f"/{made}"
    async with stage.http.stream("GET", f"/v1/files/{made}/content") as answer:
        await anext(answer.aiter_raw())
        assert holders(opened)
    await stage.stage.until(lambda: not holders(opened))


def holders(path: str) -> list[str]:
    """Our open files whose name ends so."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except OSError:
            continue
    return [name for name in links if name.endswith(path)]


async def test_large_uploads_at_once_take_memory_that_does_not_grow_with_them(files) -> None:
    stage = await files()
    block, count = bytes(BLOCK), 640

    async def form() -> Any:
        yield HEAD
        for _ in range(count):
            yield block
        yield TAIL

    tracemalloc.start()
    try:
        answers = await asyncio.gather(*(stage.post(form()) for _ in range(4)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [answer.json()["bytes"] for answer in answers] == [count * BLOCK] * 4
    assert peak < 16 * 1024 * 1024
