"""A provider's answer on its way to the caller: LangChain's chunks as pieces on OpenAI's wire, and its promises kept.

Invariants
1. A piece is passed on when it comes; nothing waits for a second one.
2. An answer that ends without a reason was cut off, and is an error. So is one that breaks the schema it was asked for;
   one that ran into its token limit or the provider's filter is given as it is, with that reason.
3. A tool call's arguments are a JSON object.
4. No tracer runs: nothing of a conversation leaves for a third party, whatever the environment says.
"""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk
from langsmith import run_helpers

from models.errors import UpstreamError
from serve.hosted.call import Call
from serve.hosted.wire import End, Reply, ToolPiece
from serve.sums import Sums

REASON_KEYS = ("finish_reason", "stop_reason", "stopReason", "done_reason")
REASONS: Mapping[str, str] = {
    **dict.fromkeys(("stop", "end_turn", "stop_sequence", "eos", "complete", "completed", "pause_turn"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length", "model_context_window_exceeded"), "length"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "tool_calls"),
    **dict.fromkeys(("content_filter", "refusal", "content_filtered", "guardrail_intervened"), "content_filter"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "spii"), "content_filter"),
}
CUT_SHORT = frozenset({"length", "content_filter"})


class Answer:
    """One answer. ``started``: the provider has begun to give it."""

    def __init__(self, call: Call, reply: Reply) -> None:
        self._call = call
        self._reply = reply
        self._keys: list[object] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []
        self._texts: list[str] = []
        self._reason: str | None = None
        self._usage: Sums | None = None
        self.started = False

    async def run(self) -> End:
        """Pass on the whole answer. Raises UpstreamError, and whatever the provider's class raises."""
        call = self._call
        with cast("Any", run_helpers).tracing_context(enabled=False):
            async with aclosing(call.model.astream(call.messages, stop=call.stop)) as chunks:
                async for chunk in chunks:
                    self.started = True
                    await self._message(chunk)
        return await self._end()

    async def _message(self, message: AIMessage) -> None:
        for key in REASON_KEYS:
            reason = message.response_metadata.get(key)
            self._reason = reason if isinstance(reason, str) and reason else self._reason
        if message.usage_metadata is not None:
            self._usage = (self._usage or Sums()).plus(message.usage_metadata)
        if thought := _thought(message):
            await self._reply.reasoning(thought)
        if self._call.answer_tool is None and (text := str(message.text)):
            await self._text(text)
        for key, identity, name, arguments in _tool_chunks(message):
            await self._tool(key, identity, name, arguments)

    async def _text(self, text: str) -> None:
        if self._call.json:
            self._texts.append(text)
        await self._reply.text(text)

    async def _tool(self, key: object, identity: str | None, name: str | None, arguments: str) -> None:
        index = self._index(key, identity, name)
        first = index == len(self._keys)
        if first:
            self._keys.append(key if key is not None else identity)
            self._names.append(name or "")
            self._arguments.append([])
        self._arguments[index].append(arguments)
        if self._call.answer_tool is not None:
            if arguments:
                await self._text(arguments)
        elif first:
            await self._reply.tool(ToolPiece(index, arguments, identity or f"call_{uuid.uuid4().hex}", name or ""))
        elif arguments:
            await self._reply.tool(ToolPiece(index, arguments))

    def _index(self, key: object, identity: str | None, name: str | None) -> int:
        """Which call a piece belongs to: by the provider's index, else its id; with neither, a name begins one."""
        known = key if key is not None else identity
        if known is None:
            return len(self._keys) if name or not self._keys else len(self._keys) - 1
        return self._keys.index(known) if known in self._keys else len(self._keys)

    async def _end(self) -> End:
        if self._reason is None:
            raise UpstreamError("The model broke off its answer.")
        reason = REASONS.get(self._reason.lower(), "stop")
        if self._call.answer_tool is not None:
            reason = "stop" if reason == "tool_calls" else reason
        elif self._names and reason == "stop":
            reason = "tool_calls"
        if reason not in CUT_SHORT:
            await self._keep_promises()
        return End(reason, self._usage if self._usage and self._usage.prompt else None)

    async def _keep_promises(self) -> None:
        call = self._call
        if call.json and not _is_object("".join(self._texts), any_json=call.answer is not None):
            raise UpstreamError("The model's answer is not the JSON that was asked for.")
        if call.answer is not None and not call.answer.keeps("".join(self._texts)):
            raise UpstreamError("The model's answer does not keep the schema that was asked for.")
        if call.answer_tool is not None:
            return
        for index, name in enumerate(self._names):
            arguments = "".join(self._arguments[index])
            if not arguments.strip():
                arguments = "{}"
                await self._reply.tool(ToolPiece(index, arguments))
            schema = call.strict.get(name)
            if not _is_object(arguments, any_json=False) or (schema is not None and not schema.keeps(arguments)):
                raise UpstreamError("The model called a tool with arguments that do not keep its schema.")


def _tool_chunks(message: AIMessage) -> Sequence[tuple[object, str | None, str | None, str]]:
    """Key, id, name and arguments of each piece. Classes that do not stream give whole calls."""
    if isinstance(message, AIMessageChunk):
        return [
            (chunk.get("index"), chunk["id"], chunk["name"], chunk["args"] or "") for chunk in message.tool_call_chunks
        ]
    whole = [
        (index, call["id"], call["name"], orjson.dumps(call["args"]).decode())
        for index, call in enumerate(message.tool_calls)
    ]
    broken = [
        (len(whole) + index, call["id"], call["name"], call["args"] or "")
        for index, call in enumerate(message.invalid_tool_calls)
    ]
    return whole + broken


def _thought(message: AIMessage) -> str:
    """What the model shows of its thinking; looked for where a message is more than a text."""
    if isinstance(message.content, str) and "reasoning_content" not in message.additional_kwargs:
        return ""
    return "".join(block.get("reasoning", "") for block in message.content_blocks if block["type"] == "reasoning")


def _is_object(text: str, *, any_json: bool) -> bool:
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return any_json or isinstance(value, dict)
