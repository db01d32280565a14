"""There and back: whatever a text holds, and however its way back is cut into pieces."""

import json
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from models.privacy import CustomPattern, PiiPolicy
from serve.privacy.answer import StreamRestorer, restored
from serve.privacy.body import changed, texts
from serve.privacy.config import PrivacyConfig
from serve.privacy.masking import mask
from serve.privacy.vault import Pieces, Vault

POLICY = PiiPolicy(
    action="mask_hosted",
    entities=("email", "credit_card", "phone", "ip_address"),
    # Values that need escaping in JSON, and that look like a placeholder's parts.
    patterns=(CustomPattern(name="odd", pattern=r'["\\\n]x|_\d'),),
)
BOUNDS = PrivacyConfig(pattern_seconds_max=10.0, scan_seconds_max=60.0)
# Text that is hard on placeholders: personal data, placeholders of the caller's own, and their parts.
WORDS = [
    "ada@acme.example",
    "4111 1111 1111 1111",
    "+49 30 901820",
    "10.1.2.3",
    '"x',
    "\\x",
    "\nx",
    "<EMAIL_1>",
    "<ODD_2>",
    "<",
]
WORDS += ["<EMAIL_", "EMAIL_1>", ">", "_1", "1>", "<<", " ", "é", "\U0001f600", "a"]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=4), max_size=12).map("".join)
SIZES = st.lists(st.integers(1, 9), min_size=1)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at, number = [], 0, 0
    while at < len(text):
        size = sizes[number % len(sizes)]
        pieces.append(text[at : at + size])
        at, number = at + size, number + 1
    return pieces


def chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


def masked(text: str) -> tuple[str, Vault]:
    body, vault = mask(chat(text), POLICY, BOUNDS)
    return body["messages"][0]["content"], vault


@given(TEXTS)
def test_a_whole_text_comes_back(text: str) -> None:
    there, vault = masked(text)
    assert vault.unmask(there) == text
    assert "ada@acme.example" not in there


@given(TEXTS, SIZES)
def test_a_text_in_pieces_comes_back_and_waits_for_no_more_than_a_placeholder(text: str, sizes: list[int]) -> None:
    there, vault = masked(text)
    pieces = Pieces(vault, escaped=False)
    said, fed = "", ""
    for piece in cut(there, sizes):
        said, fed = said + pieces.feed(piece), fed + piece
        told = vault.unmask(fed)
        assert told.startswith(said)
        assert len(told) - len(said) < len("<CREDIT_CARD_10>")
    assert said + pieces.flush() == text


@given(TEXTS, SIZES)
def test_a_streams_texts_and_arguments_come_back(text: str, sizes: list[int]) -> None:
    there, vault = masked(text)
    stream = StreamRestorer(vault, json=False)
    deltas: list[dict[str, Any]] = [{"reasoning": piece} for piece in cut(there, sizes)]
    deltas += [{"content": piece} for piece in cut(there, sizes)]
    deltas += [
        {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
        for index in (0, 1)
        for piece in cut(json.dumps({"text": there}), sizes)
    ]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    wire = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    out = b""
    at = 0
    for number in range(len(wire)):
        size = sizes[number % len(sizes)] * 7
        out += stream.feed(wire[at : at + size])
        at += size
        if at >= len(wire):
            break
    out += stream.finish()
    heard: dict[Any, str] = {}
    for frame in out.split(b"\n\n"):
        if frame and frame != b"data: [DONE]":
            delta = orjson.loads(frame[6:])["choices"][0]["delta"]
            for name in ("reasoning", "content"):
                heard[name] = heard.get(name, "") + delta.get(name, "")
            for call in delta.get("tool_calls", ()):
                heard[call["index"]] = heard.get(call["index"], "") + call["function"]["arguments"]
    assert (heard["reasoning"], heard["content"]) == (text, text)
    assert [json.loads(heard[index]) for index in (0, 1)] == [{"text": text}] * 2
    assert out.endswith(b"data: [DONE]\n\n")


@given(TEXTS)
def test_arguments_stay_json_both_ways(text: str) -> None:
    given_arguments = json.dumps({"text": text, text: [text, 4111111111111111, 1.5, None]})
    call = {"id": "4111111111111111", "type": "function", "function": {"name": "f", "arguments": given_arguments}}
    body = {"model": "m", "messages": [{"role": "assistant", "tool_calls": [call]}]}
    there, vault = mask(body, POLICY, BOUNDS)
    sent = there["messages"][0]["tool_calls"][0]
    assert sent["id"] == call["id"]
    assert "ada@acme.example" not in sent["function"]["arguments"]
    assert "4111111111111111" not in sent["function"]["arguments"]
    back = json.loads(restored(there, vault)["messages"][0]["tool_calls"][0]["function"]["arguments"])
    assert back == {"text": text, text: [text, "4111111111111111", 1.5, None]}


@settings(max_examples=50)
@given(st.recursive(TEXTS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_every_text_of_a_body_is_looked_at_once(value: Any) -> None:
    seen: list[str] = []

    def look(text: str, path: str) -> str:
        assert path.startswith("prompt")
        seen.append(text)
        return text

    body = {"model": "m", "prompt": value}
    assert changed(body, look) is body
    keys = [key for one in walk(value) if isinstance(one, dict) for key in one]
    assert len(seen) + len(keys) == len(list(texts(value)))


def walk(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(one for child in inner for one in walk(child))]


def test_the_same_value_has_the_same_placeholder_and_a_growing_conversation_keeps_it() -> None:
    first, _ = masked("a@b.example and c@d.example and a@b.example")
    assert first == "<EMAIL_1> and <EMAIL_2> and <EMAIL_1>"
    longer, _ = mask(
        {"messages": [{"role": "user", "content": text} for text in ("a@b.example and c@d.example", "z@z.example")]},
        POLICY,
        BOUNDS,
    )
    assert [one["content"] for one in longer["messages"]] == ["<EMAIL_1> and <EMAIL_2>", "<EMAIL_3>"]


def test_a_frame_without_a_placeholder_passes_as_it_came() -> None:
    _, vault = masked("a@b.example")
    stream = StreamRestorer(vault, json=False)
    odd = b': comment\n\ndata: {"choices" : [ {"delta":{"content":"x"}} ]}\n\n'
    assert stream.feed(odd[:9]) + stream.feed(odd[9:]) == odd
    assert stream.feed(b'data: {"choices":[{"delta":{"content":"<EMA"}}]}\n\n') == (
        b'data: {"choices":[{"delta":{"content":""}}]}\n\n'
    )
    assert stream.feed(b": comment\n\n") == b": comment\n\n"
    assert b"a@b.example" in stream.feed(b'data: {"choices":[{"delta":{"content":"IL_1>"}}]}\n\n')
    assert b"a@b.example" in stream.feed(b'data: {"choices":[{"delta":{"content":"\\u003cEMAIL_1\\u003e"}}]}\n\n')


def test_what_is_no_chunk_passes_as_it_came() -> None:
    _, vault = masked("a@b.example")
    stream = StreamRestorer(vault, json=False)
    for frame in (b'data: {"choices":["<"]}', b"data: <", b'data: ["<"]', b'data: {"choices":[{"delta":"<"}]}'):
        assert stream.feed(frame + b"\n\n") == frame + b"\n\n"
