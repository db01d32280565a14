"""A conversation in Anthropic's content blocks as OpenAI's chat messages.

- Tool results become messages of their own, before the rest of the user's message; OpenAI's may hold text alone, so
  their images lead that rest. An error's text begins with ``Error:``, for there is no field for it.
- Thinking of earlier turns is left out, as Anthropic's own models leave it out; so are citations of earlier answers.
- The billing line that Claude Code writes into its system prompt differs from call to call and would keep any prefix
  from being cached; it is for Anthropic alone and left out.
"""

from typing import Any

import orjson

from models.errors import InvalidRequest
from serve.messages.reader import Reader, unsupported, wrong

BLOCKS_MAX = 10_000
ROLES = ("user", "assistant", "system")
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
BILLING = "x-anthropic-billing-header"

Part = dict[str, Any]
ChatMessage = dict[str, Any]


class Conversation:
    """OpenAI's messages so far. ``end`` after the last one."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self._role = ""
        self._asked: dict[str, str] = {}

    def system(self, holder: Reader, field: str) -> None:
        """The system prompt that ``field`` of ``holder`` is: a string or text blocks."""
        parts: list[Part] = []
        for block in _blocks(holder, field):
            if block.value("type") != "text":
                raise _unsupported_block(block)
            part = text_part(block)
            if not part["text"].startswith(BILLING):
                parts.append(part)
        if parts:
            self.messages.append({"role": "system", "content": _content(parts)})

    def add(self, message: Reader) -> None:
        """One message."""
        role = message.one_of("role", *ROLES)
        message.need("content")
        if role == "assistant" != self._role:
            self._all_answered()
        if role == "user":
            self._user(message)
        elif role == "assistant":
            self._assistant(message)
        else:
            self.system(message, "content")
        message.done()
        self._role = role

    def end(self) -> bool:
        """Whether the model is to continue the last message, which is its own."""
        self._all_answered()
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    def _user(self, message: Reader) -> None:
        parts: list[Part] = []
        for block in _blocks(message, "content"):
            kind = block.text("type")
            if kind == "text":
                parts.append(text_part(block))
            elif kind == "image":
                parts.append(image_part(block))
            elif kind == "tool_result":
                parts += self._tool_result(block)
            else:
                raise _unsupported_block(block)
        if parts:
            self.messages.append({"role": "user", "content": _content(parts)})

    def _tool_result(self, block: Reader) -> list[Part]:
        """Adds the result's text; returns its images."""
        call = block.text("tool_use_id")
        if self._asked.pop(call, None) is None:
            raise wrong(block.name("tool_use_id"), "must be the id of a 'tool_use' block in the turn before")
        texts: list[str] = ["Error:"] if block.flag("is_error") else []
        images: list[Part] = []
        for inner in _blocks(block, "content"):
            kind = inner.text("type")
            if kind == "text":
                texts.append(text_part(inner)["text"])
            elif kind == "image":
                images.append(image_part(inner))
            else:
                raise _unsupported_block(inner)
        block.value("type")
        block.cache_mark()
        block.done()
        self.messages.append({"role": "tool", "tool_call_id": call, "content": "\n".join(texts)})
        return images

    def _assistant(self, message: Reader) -> None:
        parts: list[Part] = []
        calls: list[Part] = []
        for block in _blocks(message, "content"):
            kind = block.text("type")
            if kind == "text":
                parts.append(text_part(block))
            elif kind == "tool_use":
                calls.append(self._tool_use(block))
            elif kind not in {"thinking", "redacted_thinking"}:
                raise _unsupported_block(block)
        said: ChatMessage = {"role": "assistant"}
        if any(part["text"] for part in parts):
            said["content"] = _content(parts)
        if calls:
            said = {**said, "content": said.get("content"), "tool_calls": calls}
        if len(said) > 1:
            self.messages.append(said)

    def _tool_use(self, block: Reader) -> Part:
        call, name = block.text("id"), block.text("name")
        arguments = orjson.dumps(block.schema("input")).decode()
        caller = block.object("caller")
        if caller is not None:
            caller.one_of("type", "direct")
        block.value("type")
        block.cache_mark()
        block.done()
        self._asked[call] = block.where
        return {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _all_answered(self) -> None:
        if self._asked:
            call, where = next(iter(self._asked.items()))
            raise InvalidRequest(
                f"The 'tool_use' block '{call}' in '{where}' has no 'tool_result' block in the turn after it.",
                param=where,
                code="invalid_value",
            )


def text_part(block: Reader) -> Part:
    """A text block."""
    text = block.text("text")
    block.value("type")
    block.value("citations")
    block.cache_mark()
    block.done()
    return {"type": "text", "text": text}


def image_part(block: Reader) -> Part:
    """An image block: inline, or at an address."""
    source = Reader(block.need("source"), block.name("source"))
    kind = source.text("type")
    if kind == "base64":
        url = f"data:{source.one_of('media_type', *IMAGES)};base64,{source.text('data')}"
    elif kind == "url":
        url = source.text("url")
        if not url.lower().startswith(("https://", "http://")):
            raise wrong(source.name("url"), "must be a web address")
    else:
        raise unsupported(source.name("type"), f"image source '{kind}'")
    source.done()
    block.value("type")
    block.cache_mark()
    block.done()
    return {"type": "image_url", "image_url": {"url": url}}


def _blocks(holder: Reader, field: str) -> list[Reader]:
    """Content blocks; a string is one of text."""
    value = holder.value(field)
    if isinstance(value, str):
        return [Reader({"type": "text", "text": value}, holder.name(field))]
    if not isinstance(value, list | None):
        raise wrong(holder.name(field), "must be a string or an array of content blocks")
    return holder.objects(field, BLOCKS_MAX)


def _content(parts: list[Part]) -> str | list[Part]:
    only = parts[0] if len(parts) == 1 else None
    return only["text"] if only is not None and only["type"] == "text" else parts


def _unsupported_block(block: Reader) -> InvalidRequest:
    name = block.name("type")
    return InvalidRequest(
        f"Unsupported content block '{block.value('type')}' in '{name}'.", param=name, code="unsupported_parameter"
    )
