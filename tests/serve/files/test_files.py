"""``/v1/files`` through the official client: bytes in, bytes out, and who sees them."""

import hashlib
import io
import os
from typing import Any

import openai
import pytest

CONTENT = b'{"custom_id": "1"}\n'


def part(name: str, value: bytes, extra: bytes = b"") -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name.encode(), extra, value)


FILE = part("file", b"abc", b'; filename="a.txt"')
PURPOSE = part("purpose", b"batch")
END = b"--b--\r\n"


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


async def test_lists_are_paged_as_the_client_asks(files) -> None:
    stage = await files()
    client = stage.client()
    made = [(await client.files.create(file=("a", b"x"), purpose=purpose)).id for purpose in ("batch", "vision") * 2]
    assert [one.id async for one in client.files.list(limit=1)] == made[::-1]
    assert [one.id async for one in client.files.list(limit=3, order="asc")] == made
    assert [one.id async for one in client.files.list(purpose="vision")] == [made[3], made[1]]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.files.list(limit=0)
    assert caught.value.param == "limit"


async def test_another_project_and_another_organisation_see_nothing(files) -> None:
    stage = await files()
    made = await stage.client().files.create(file=("a", CONTENT), purpose="batch")
    for same_organisation in (True, False):
        client = stage.client(await stage.other_key(same_organisation=same_organisation))
        assert [one async for one in client.files.list()] == []
        for call in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError) as theirs:
                await call(made.id)
            with pytest.raises(openai.NotFoundError) as nobodys:
                await call(f"file-{'0' * 32}")
            assert theirs.value.body == nobodys.value.body
    assert (await stage.client().files.content(made.id)).content == CONTENT


async def test_a_form_may_name_the_file_before_its_purpose(files) -> None:
    stage = await files()
    answer = await stage.post(FILE + PURPOSE + END)
    assert (answer.status_code, answer.json()["purpose"], answer.json()["bytes"]) == (200, "batch", 3)
    assert answer.headers["x-request-id"]
    assert answer.headers["openai-organization"] == stage.organisation


WRONG_FORMS = [
    (FILE + END, "purpose"),
    (PURPOSE + END, "file"),
    (END, "file"),
    (part("purpose", b"fine-tune") + FILE + END, "purpose"),
    (FILE + part("purpose", b"batch_output") + END, "purpose"),
    (FILE + part("purpose", b"\xff") + END, "purpose"),
    (PURPOSE + PURPOSE + FILE + END, "purpose"),
    (part("purpose", b"batch", b'; filename="p"') + FILE + END, "purpose"),
    (PURPOSE + part("file", b"abc") + END, "file"),
    (PURPOSE + part("file", b"", b'; filename="a"') + END, "file"),
    (PURPOSE + FILE + FILE + END, "file"),
    (PURPOSE + FILE + part("colour", b"red") + END, "colour"),
    (PURPOSE + FILE + part("image", b"abc", b'; filename="i"') + END, "image"),
    (FILE + PURPOSE + part("expires_after[seconds]", b"3600") + END, "expires_after[anchor]"),
    (FILE + PURPOSE + part("expires_after[anchor]", b"created_at") + END, "expires_after[seconds]"),
    (FILE + part("expires_after[anchor]", b"now") + END, "expires_after[anchor]"),
    *(
        (FILE + part("expires_after[seconds]", text) + END, "expires_after[seconds]")
        for text in (b"3599", b"2592001", b"1e4", b"-1", "٣٦٠٠".encode(), b"9" * 4_000)
    ),
    (FILE + part("purpose", b"x" * 5_000) + END, "purpose"),
]


async def test_a_wrong_form_is_refused_naming_the_field_and_leaves_nothing(files) -> None:
    stage = await files()
    for body, param in WRONG_FORMS:
        answer = await stage.post(body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert stage.rows() == stage.objects() == {}


NO_FORMS = [
    (b"{}", "application/json", 415),
    (b"", "", 415),
    (PURPOSE + FILE + END, "multipart/form-data", 400),
    (PURPOSE + FILE + END, "multipart/form-data; boundary=" + "b" * 300, 400),
    (PURPOSE + FILE, "multipart/form-data; boundary=b", 400),
    (b"", "multipart/form-data; boundary=b", 400),
    (b"nonsense", "multipart/form-data; boundary=b", 400),
    (PURPOSE * 40 + FILE + END, "multipart/form-data; boundary=b", 400),
    (FILE.replace(b"abc", b"\r\n--bx" * 100) + END, "multipart/form-data; boundary=b", 400),
    (b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
    (b"--b\r\nX: " + b"y" * 9_000 + b"\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
    (
        FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
        "multipart/form-data; boundary=b",
        400,
    ),
]


async def test_what_is_no_form_is_refused_and_leaves_nothing(files) -> None:
    stage = await files()
    for body, content_type, status in NO_FORMS:
        answer = await stage.post(body, content_type)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), answer.text
        assert stage.rows() == stage.objects() == {}


async def test_a_file_above_the_limit_is_refused_whether_its_length_is_declared_or_not(files) -> None:
    stage = await files(bytes_max=100_000)

    async def undeclared(size: int) -> Any:
        yield PURPOSE + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(size // 1_000):
            yield bytes(1_000)
        yield b"\r\n" + END

    assert (await stage.post(undeclared(100_000))).json()["bytes"] == 100_000
    for answer in (await stage.post(undeclared(101_000)), await stage.upload(bytes(100_001))):
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "file")
    assert (await stage.upload(bytes(3_000_000))).status_code == 413
    assert len(stage.objects()) == len(stage.rows()) == 1


FILENAMES = [
    ("../../etc/passwd", "passwd"),
    ("C:\\Users\\ada\\notes.txt", "notes.txt"),
    ("grüße 文.txt", "grüße 文.txt"),
    ("a\u202egpj.exe", "agpj.exe"),
    ("..", "file"),
    (" ", "file"),
    ("x" * 300, "x" * 255),
    ("a;b'c%20.txt", "a;b'c%20.txt"),
]


async def test_a_filename_is_made_harmless_and_comes_back(files) -> None:
    stage = await files()
    for sent, kept in FILENAMES:
        extra = b'; filename="%s"' % sent.encode().replace(b"\\", b"\\\\")
        made = (await stage.post(PURPOSE + part("file", b"abc", extra) + END)).json()
        assert made["filename"] == kept
        answer = await stage.http.get(f"/v1/files/{made['id']}/content")
        told = answer.headers["content-disposition"]
        assert told.startswith("attachment; filename=")
        assert told.isascii()
        assert answer.headers["x-content-type-options"] == "nosniff"


RANGES = [
    ("bytes=0-1", 206, b"01"),
    ("bytes=3-", 206, b"3456789"),
    ("bytes=-2", 206, b"89"),
    ("bytes=8-100", 206, b"89"),
    ("bytes=-100", 206, b"0123456789"),
    ("bytes=10-", 200, b"0123456789"),
    ("bytes=5-2", 200, b"0123456789"),
    ("bytes=-0", 200, b"0123456789"),
    ("bytes=-", 200, b"0123456789"),
    ("bytes=0-1,3-4", 200, b"0123456789"),
    ("lines=0-1", 200, b"0123456789"),
]


async def test_a_range_is_answered_and_any_other_wish_is_ignored(files) -> None:
    stage = await files()
    for asked, status, content in RANGES:
        made = (await stage.upload(b"0123456789")).json()
        answer = await stage.http.get(f"/v1/files/{made['id']}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (status, content)
        assert answer.headers["etag"] == f'"{made["sha256"]}"'
        assert ("content-range" in answer.headers) == (status == 206)


async def test_other_methods_addresses_and_keys_are_refused(files) -> None:
    stage = await files()
    made = (await stage.upload()).json()["id"]
    for method, path, status in (
        ("PUT", "/v1/files", 405),
        ("PATCH", f"/v1/files/{made}", 405),
        ("POST", f"/v1/files/{made}/content", 405),
        ("GET", f"/v1/files/{made}/other", 404),
        ("GET", f"/v1/files/{made}/content/more", 404),
        ("GET", "/v1/files/file-..%2f..", 404),
        ("GET", "/v1/files//content", 404),
        ("GET", f"/v1/files/{made.upper()}", 404),
    ):
        answer = await stage.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error"), path
    answer = await stage.http.post("/v1/files", headers={"authorization": "Bearer sk-wrong"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
