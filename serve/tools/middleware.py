"""Tool calls and strict JSON in front of vLLM's own OpenAI application.

1. Only ``POST /v1/chat/completions`` whose body speaks of tools or of a response format is looked at, and ``/tokenize``
   of the same, so that what is counted is what would be read; everything else passes as bytes, there and back.
2. What a request asks is checked first: a schema that cannot be enforced is a 400 that names it.
3. Tools are explained in the prompt, by us or by the model's own template, and the answer's form is enforced by
   vLLM's grammar while it is written.
4. Calls are assembled out of the text, whole or streamed, and checked against the caller's schema before the answer's
   end is reported.

Source: vLLM 0.32's ``structured_outputs.structural_tag`` (xgrammar's structural tags).
"""

import re
from collections.abc import Callable
from typing import Any, cast

import orjson

from models.errors import PlatformError
from serve.allowlist import local_path
from serve.asgi import ASGIApp, ClientDisconnected, Message, Receive, Scope, Send, read_body, send_bytes, send_error
from serve.tools.answers import Stream, whole
from serve.tools.checker import Checker
from serve.tools.choices import Choice, Guided, Parsed
from serve.tools.form import explanation, json_tag, structural_tag
from serve.tools.history import has_calls, rendered, with_explanation
from serve.tools.request import Body, Plan, plan_of, text_schema

PATH = "/v1/chat/completions"
COUNT_PATH = "/tokenize"
PROMPTED = "prompted"
HERMES = "hermes"
# Under these vLLM has no parser: the form is enforced, and read here.
OWN_PARSERS = frozenset({PROMPTED, HERMES})
# Keys of interest, or an escape in which one could hide.
MARKS = re.compile(rb'"tool|"function|"response_format"|\\u00[0-7]')
BODY_BYTES_MAX = 64 * 1024 * 1024
# They are the plan's by now. A stop sequence is about text, and would cut a call.
SPENT = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format"})
JSON = b"application/json"
EVENTS = b"text/event-stream"


class Tools:
    """ASGI middleware. ``parser``: who knows of tools.

    ``prompted``: nobody, so they are explained in a system message; ``hermes``: the model's template, in the form of
    ``serve.tools.form``; any other: the template, and vLLM's parser of that name finds the calls.
    """

    def __init__(self, app: ASGIApp, parser: str) -> None:
        self._app = app
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        path = local_path(scope) if scope["type"] == "http" and scope["method"] == "POST" else ""
        if path not in {PATH, COUNT_PATH}:
            await self._app(scope, receive, send)
            return
        try:
            raw = await read_body(receive, scope, BODY_BYTES_MAX)
            body = _parsed(raw) if MARKS.search(raw) else None
            plan = plan_of(body) if body is not None else None
            changed = self._changed(body, plan) if body is not None else None
        except ClientDisconnected:
            return
        except PlatformError as error:
            await send_error(send, error)
            return
        raw = raw if changed is None else orjson.dumps(changed)
        scope, receive = _carrying(scope, raw), _replayed(raw, receive)
        if plan is None or path == COUNT_PATH:
            await self._app(scope, receive, send)
        else:
            await _Answer(send, self._choice(plan)).run(self._app, scope, receive)

    def _choice(self, plan: Plan) -> Callable[[], Choice]:
        checker = Checker(plan.tools)
        if self._parser in OWN_PARSERS:
            return lambda: Guided(plan, checker)
        return lambda: Parsed(checker)

    def _changed(self, body: Body, plan: Plan | None) -> Body | None:
        """What vLLM is asked instead; None where the request stays as it is. Raises InvalidRequest."""
        changes: Body = {}
        messages: object = body.get("messages")
        if self._parser == PROMPTED and isinstance(messages, list):
            changes = _prompted(cast("list[object]", messages), plan)
        if plan is None or self._parser not in OWN_PARSERS:
            return self._formed(body, changes, plan)
        dropped = SPENT | {"stop"} if plan.forced else SPENT
        kept = {name: value for name, value in body.items() if name not in dropped}
        if self._parser == HERMES:
            # The template shows the tools, and vLLM leaves the text alone.
            changes |= {"tools": [{"type": "function", "function": tool.definition} for tool in plan.tools]}
            changes |= {"tool_choice": "none"}
        return {**kept, **changes, "structured_outputs": {"structural_tag": structural_tag(plan)}}

    def _formed(self, body: Body, changes: Body, plan: Plan | None) -> Body | None:
        """Without calls of ours: the history, and the form of the text."""
        schema = text_schema(body) if plan is None else None
        if schema is not None and body.get("structured_outputs") is None:
            kept = {name: value for name, value in body.items() if name != "response_format"}
            return {**kept, **changes, "structured_outputs": {"structural_tag": json_tag(schema)}}
        return {**body, **changes} if changes else None


def _prompted(messages: list[object], plan: Plan | None) -> Body:
    """The conversation in words that any template knows, with the tools explained; empty where it is that already."""
    if not all(isinstance(message, dict) for message in messages):
        return {}
    given = cast("list[dict[str, Any]]", messages)
    told = rendered(given) if has_calls(given) else given
    if plan is not None:
        told = with_explanation(told, explanation(plan))
    return {} if told is given else {"messages": told}


def _parsed(raw: bytes) -> Body | None:
    """The body's object; None where it is none, which is for vLLM to say."""
    try:
        body: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return cast("Body", body) if isinstance(body, dict) else None


def _carrying(scope: Scope, raw: bytes) -> Scope:
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", b"%d" % len(raw))]}


def _replayed(raw: bytes, receive: Receive) -> Receive:
    """The body in one piece, then whatever the server says: vLLM stops when the client leaves."""
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return replay


class _Answer:
    """An answer on its way out: a stream chunk by chunk, a whole one at its end, anything else as it is."""

    def __init__(self, send: Send, choice: Callable[[], Choice]) -> None:
        self._send = send
        self._choice = choice
        self._stream: Stream | None = None
        self._parts: list[bytes] | None = None

    async def run(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        """Let the application answer."""
        await app(scope, receive, self._pass)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._started(message)
        elif message["type"] == "http.response.body" and self._stream is not None:
            await self._streamed(self._stream, message)
        elif message["type"] == "http.response.body" and self._parts is not None:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._whole(b"".join(self._parts))
        else:
            await self._send(message)

    async def _started(self, message: Message) -> None:
        kind = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
        if message["status"] == 200 and kind.startswith(EVENTS):
            self._stream = Stream(self._choice)
        elif message["status"] == 200:
            self._parts = []
            return
        await self._send(message)

    async def _streamed(self, stream: Stream, message: Message) -> None:
        more = message.get("more_body", False)
        data = stream.feed(message.get("body", b"")) + (b"" if more else stream.finish())
        if data or not more:
            await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _whole(self, body: bytes) -> None:
        try:
            answer = whole(body, self._choice)
        except PlatformError as error:
            await send_error(self._send, error)
            return
        await send_bytes(self._send, 200, answer, JSON)
