"""The beginning of a conversation as a number: what an engine's prefix cache can keep from one call to the next.

The key is the caller's ``prompt_cache_key``, else the messages up to the first one of the user, else the prompt's
beginning, of which ``CHARACTERS`` count: each turn of a conversation begins like the one before. The organisation is
part of it: nobody can aim at another tenant's place.
"""

from typing import Any, cast

import orjson

from serve.ring import hashed
from serve.validation import Body

CHARACTERS = 4_096
FIELD_END = "\x1f"


def prefix_key(organisation_id: str, body: Body) -> int | None:
    """64 bits; None where the request has neither a key nor a beginning."""
    named = body.get("prompt_cache_key")
    if isinstance(named, str) and named:
        begins = named
    elif isinstance(messages := body.get("messages"), list):
        begins = _of_messages(cast("list[dict[str, Any]]", messages))
    else:
        begins = _of_prompt(body.get("prompt"))
    return hashed(FIELD_END.join((organisation_id, begins)).encode("utf-8", "surrogatepass")) if begins else None


def _of_messages(messages: list[dict[str, Any]]) -> str:
    parts: list[str] = []
    left = CHARACTERS
    for message in messages:
        role = str(message.get("role"))
        text = _of_content(message.get("content"), left)
        parts += (role, text)
        left -= len(text)
        if role == "user" or left <= 0:
            break
    return FIELD_END.join(parts)


def _of_content(content: object, characters: int) -> str:
    if isinstance(content, str):
        return content[:characters]
    parts: list[str] = []
    for part in cast("list[dict[str, Any]]", content) if isinstance(content, list) else ():
        if characters <= 0:
            break
        parts.append(_of_part(part)[:characters])
        characters -= len(parts[-1])
    return FIELD_END.join(parts)


def _of_part(part: dict[str, Any]) -> str:
    """Its text; of an image or a sound the address or the data, whose beginning tells it from others."""
    kind = part.get("type")
    value = part.get(kind) if isinstance(kind, str) else None
    if isinstance(value, dict):
        value = next((item for item in cast("dict[str, object]", value).values() if isinstance(item, str)), None)
    return value if isinstance(value, str) else ""


def _of_prompt(prompt: object) -> str:
    if isinstance(prompt, str):
        return prompt[:CHARACTERS]
    if not isinstance(prompt, list) or not prompt:
        return ""
    first = cast("list[object]", prompt)[0]
    if isinstance(first, str):
        return first[:CHARACTERS]
    tokens = cast("list[object]", first if isinstance(first, list) else prompt)
    return orjson.dumps(tokens[: CHARACTERS // 4]).decode()
