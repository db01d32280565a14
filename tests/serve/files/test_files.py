"""``/v1/files`` through the official client: bytes in, bytes out, and who sees them."""

import hashlib
import io
import os

import openai
import pytest

CONTENT = b'{"custom_id": "1"}\n'


async def test_a_file_is_uploaded_listed_read_and_deleted(files) -> None:
    stage = await files()
    client = stage.client()
    made = await client.files.create(file=("notes.jsonl", io.BytesIO(CONTENT)), purpose="user_data")
    assert (made.bytes, made.filename, made.purpose, made.object) == (len(CONTENT), "notes.jsonl", "user_data", "file")
    assert (made.status, made.expires_at) == ("processed", None)
    assert made.model_extra == {"sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert await client.files.retrieve(made.id) == made
    assert [one async for one in client.files.list()] == [made]
    assert (await client.files.content(made.id)).content == CONTENT
    assert stage.objects() == {made.id: CONTENT}
    gone = await client.files.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
    await stage.nothing_left()
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(made.id)


async def test_a_large_file_comes_back_as_it_went(files) -> None:
    stage = await files()
    content = os.urandom(5_000_003)
    made = await stage.client().files.create(file=("big.bin", content), purpose="assistants")
    answer = await stage.client().files.content(made.id)
    assert answer.content == content
    assert answer.response.headers["content-length"] == str(len(content))


async def test_a_file_expires_after_what_was_asked_for(files) -> None:
    client = (await files()).client()
    made = await client.files.create(
        file=("a", b"x"), purpose="vision", expires_after={"anchor": "created_at", "seconds": 7_200}
    )
    assert made.expires_at == made.created_at + 7_200
    batch = await client.files.create(file=("a", b"x"), purpose="batch")
    assert batch.expires_at == batch.created_at + 30 * 86_400
