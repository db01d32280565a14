"""Input items: read and checked, and brought into the one form in which they are stored, listed and built upon.

An item gets a new id, whatever id it came with: an id names one item of one list. References keep theirs; the store
knows what they stand for. Source of the forms: OpenAI's OpenAPI description 2.3.0, ``InputItem``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from uuid_utils import uuid7

from serve.messages.reader import Reader, missing, unsupported, wrong

Item = dict[str, Any]

ITEMS_MAX = 10_000
PARTS_MAX = 10_000
STATUSES = ("in_progress", "completed", "incomplete")
ROLES = ("user", "assistant", "system", "developer")
REFERENCE = "item_reference"


def new_id(prefix: str) -> str:
    """A fresh id such as ``msg_0199…``; later ids sort after earlier ones."""
    return f"{prefix}_{uuid7().hex}"


def text_message(text: str) -> Item:
    """A user's message."""
    return _message("user", [{"type": "input_text", "text": text}])


def read_input(body: Reader, field: str) -> list[Item]:
    """A string or items, which must be there and not empty."""
    value = body.need(field)
    if isinstance(value, str):
        if not value:
            raise wrong(body.name(field), "must not be empty")
        return [text_message(value)]
    items = read_items(body, field, ITEMS_MAX)
    if not items:
        raise wrong(body.name(field), "must not be empty")
    return items


def read_items(body: Reader, field: str, items_max: int, *, references: bool = True) -> list[Item]:
    """Items; none where the field is missing."""
    found: list[Item] = []
    for reader in body.objects(field, items_max):
        item = _read_item(reader)
        if item["type"] == REFERENCE and not references:
            raise unsupported(reader.name("type"), "type of item")
        reader.done()
        found.append(item)
    return found


def absent(reader: Reader, *fields: str) -> None:
    """Fields that may be there as nulls alone, as clients send them that repeat what they were answered."""
    for field in fields:
        if reader.value(field) is not None:
            raise unsupported(reader.name(field))


def _read_item(reader: Reader) -> Item:
    kind = reader.value("type")
    if kind is None:
        kind = "message" if reader.value("role") is not None else REFERENCE
    if not isinstance(kind, str):
        raise wrong(reader.name("type"), "must be a string")
    read = KINDS.get(kind)
    if read is None:
        raise unsupported(reader.name("type"), f"type of item, '{kind}',")
    return read(reader)


def _read_reference(reader: Reader) -> Item:
    return {"type": REFERENCE, "id": reader.text("id")}


def _read_message(reader: Reader) -> Item:
    role = reader.one_of("role", *ROLES)
    _passed_over(reader)
    absent(reader, "phase")
    content = reader.need("content")
    if isinstance(content, str):
        kind = "output_text" if role == "assistant" else "input_text"
        return _message(role, [text_part(kind, content)])
    parts = [_read_part(part, role) for part in reader.objects("content", PARTS_MAX)]
    if not parts:
        raise wrong(reader.name("content"), "must not be empty")
    return _message(role, parts)


def _message(role: str, parts: list[Item]) -> Item:
    return {"id": new_id("msg"), "type": "message", "status": "completed", "role": role, "content": parts}


def text_part(kind: str, text: str) -> Item:
    """A part that is text; an answer's has what belongs to answers."""
    more: Item = {"annotations": [], "logprobs": []} if kind == "output_text" else {}
    return {"type": kind, "text": text, **more}


def _read_part(reader: Reader, role: str) -> Item:
    kind = reader.text("type")
    allowed = ("output_text", "refusal") if role == "assistant" else ("input_text", "input_image", "input_audio")
    if kind not in allowed:
        raise unsupported(reader.name("type"), f"type of part in a message of '{role}', '{kind}',")
    part = PARTS[kind](reader)
    reader.done()
    return part


def _read_text(reader: Reader) -> Item:
    return text_part("input_text", reader.text("text"))


def _read_output_text(reader: Reader) -> Item:
    annotations = reader.items("annotations", PARTS_MAX)
    # Figures of the answer, and what the official client adds to it.
    for field in ("logprobs", "parsed"):
        reader.value(field)
    return {**text_part("output_text", reader.text("text")), "annotations": annotations}


def _read_refusal(reader: Reader) -> Item:
    return {"type": "refusal", "refusal": reader.text("refusal")}


def _read_image(reader: Reader) -> Item:
    absent(reader, "file_id")
    detail = "auto" if reader.value("detail") is None else reader.one_of("detail", "auto", "low", "high", "original")
    return {"type": "input_image", "image_url": reader.text("image_url"), "detail": detail}


def _read_audio(reader: Reader) -> Item:
    audio = reader.object("input_audio")
    if audio is None:
        raise missing(reader.name("input_audio"))
    read = {"data": audio.text("data"), "format": audio.one_of("format", "mp3", "wav")}
    audio.done()
    return {"type": "input_audio", "input_audio": read}


def _read_call(reader: Reader) -> Item:
    _passed_over(reader)
    reader.value("parsed_arguments")
    absent(reader, "namespace", "caller", "async")
    return {
        "id": new_id("fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": reader.text("call_id"),
        "name": reader.text("name"),
        "arguments": reader.text("arguments"),
    }


def _read_call_output(reader: Reader) -> Item:
    _passed_over(reader)
    absent(reader, "caller", "created_by", "name", "namespace")
    output: Any = reader.need("output")
    if not isinstance(output, str):
        output = [_read_part(part, "tool") for part in reader.objects("output", PARTS_MAX)]
        for index, part in enumerate(output):
            if part["type"] != "input_text":
                name = f"{reader.name('output')}[{index}].type"
                raise unsupported(name, f"type of part in a function's output, '{part['type']}',")
    return {
        "id": new_id("fco"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": reader.text("call_id"),
        "output": output,
    }


def _read_reasoning(reader: Reader) -> Item:
    _passed_over(reader)
    absent(reader, "encrypted_content")
    read: Item = {"id": new_id("rs"), "type": "reasoning", "summary": []}
    for field, kind in (("summary", "summary_text"), ("content", "reasoning_text")):
        parts = reader.objects(field, PARTS_MAX)
        texts = [{"type": part.one_of("type", kind), "text": part.text("text")} for part in parts]
        for part in parts:
            part.done()
        read[field] = texts
    return read


def _passed_over(reader: Reader) -> None:
    """What an item that was an answer once has, and that is ours to give."""
    reader.optional_text("id")
    if reader.value("status") is not None:
        reader.one_of("status", *STATUSES)


KINDS: Mapping[str, Callable[[Reader], Item]] = {
    "message": _read_message,
    "function_call": _read_call,
    "function_call_output": _read_call_output,
    "reasoning": _read_reasoning,
    REFERENCE: _read_reference,
}
PARTS: Mapping[str, Callable[[Reader], Item]] = {
    "input_text": _read_text,
    "input_image": _read_image,
    "input_audio": _read_audio,
    "output_text": _read_output_text,
    "refusal": _read_refusal,
}
