"""What a request body must be before it costs anything: JSON, bounded, and within OpenAI's types and ranges.

Parameters that we do not know are the upstream's business where it is ours, and refused where it is not.
Source of types and ranges: OpenAI's OpenAPI description 2.3.0.
"""

from collections.abc import Mapping
from typing import Any, cast

import orjson

from models.errors import InvalidRequest, UnsupportedMedia
from serve.asgi import Scope, header
from serve.checks import (
    CHAT_CHECKS,
    COMPLETION_CHECKS,
    EMBEDDING_CHECKS,
    RERANK_CHECKS,
    TOKENS_MAX,
    Check,
    missing,
    wrong,
)

DEPTH_MAX = 64
INPUTS_MAX = 2_048
MESSAGES_MAX = 10_000
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

# What a call is bounded, priced and streamed by. Where an endpoint does not have one of these, it is no engine's extra
# but a mistake: passed on it would be read here and not there.
ACCOUNTED = frozenset(
    {"messages", "prompt", "n", "best_of", "max_tokens", "max_completion_tokens", "stream", "stream_options"}
)
NOT_OF_CHAT = ACCOUNTED - {"messages", *CHAT_CHECKS}
NOT_OF_COMPLETION = ACCOUNTED - {"prompt", *COMPLETION_CHECKS}
NOT_OF_EMBEDDING = ACCOUNTED - {*EMBEDDING_CHECKS}
NOT_OF_RERANK = ACCOUNTED - {*RERANK_CHECKS}

Body = dict[str, Any]


def parse_body(scope: Scope, body: bytes) -> Body:
    """The JSON object of a request. Raises UnsupportedMedia, InvalidRequest."""
    content_type = header(scope, b"content-type")
    if content_type is not None and content_type.split(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("The content type must be application/json.")
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise InvalidRequest("The request body is not valid JSON.", code="invalid_json") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    # Brackets bound the depth from above, so that most bodies are not walked.
    if body.count(b"{") + body.count(b"[") > DEPTH_MAX or b"\\u0000" in body:
        _walk(cast("Body", parsed))
    return cast("Body", parsed)


def _walk(root: Body) -> None:
    level: list[Any] = [root]
    for _ in range(DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _no_nul(value)
            elif isinstance(value, dict):
                below += cast("Body", value).keys()
                below += cast("Body", value).values()
            elif isinstance(value, list):
                below += cast("list[Any]", value)
        if not below:
            return
        level = below
    raise InvalidRequest(f"The request body is nested more than {DEPTH_MAX} levels deep.")


def _no_nul(value: str) -> None:
    if "\x00" in value:
        raise InvalidRequest("The request body must not contain NUL characters.")


def model_of(body: Body) -> str:
    """The model asked for. Raises InvalidRequest."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise missing("model") if model is None or model == "" else wrong("model", "must be a string")
    return model


def check_chat(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    messages = _required_list(body, "messages", MESSAGES_MAX)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong(f"messages[{index}]", "must be an object")
        fields = cast("Body", message)
        role = fields.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise wrong(f"messages[{index}].role", f"must be one of {', '.join(sorted(ROLES))}")
        if not isinstance(fields.get("content"), str | list | None):
            raise wrong(f"messages[{index}].content", "must be a string or an array of parts")
    _check_all(body, CHAT_CHECKS, NOT_OF_CHAT)


def check_completion(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    _input(body, "prompt")
    _check_all(body, COMPLETION_CHECKS, NOT_OF_COMPLETION)


def check_embedding(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    _input(body, "input")
    _check_all(body, EMBEDDING_CHECKS, NOT_OF_EMBEDDING)


def check_rerank(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    query = body.get("query")
    if query is None:
        raise missing("query")
    if not isinstance(query, str) or not query:
        raise wrong("query", "must be a string, not empty")
    for index, document in enumerate(_required_list(body, "documents", INPUTS_MAX)):
        text = cast("Body", document).get("text") if isinstance(document, dict) else document
        if not isinstance(text, str) or not text:
            raise wrong(f"documents[{index}]", "must be a string or an object with 'text', not empty")
    _check_all(body, RERANK_CHECKS, NOT_OF_RERANK)


def refuse_unknown(body: Body, known: frozenset[str]) -> None:
    """For upstreams that are not ours. Raises InvalidRequest for the first parameter outside ``known``."""
    for name in body:
        if name not in known:
            raise _unsupported(name)


def _unsupported(name: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")


def _check_all(body: Body, checks: Mapping[str, Check], strangers: frozenset[str]) -> None:
    if not strangers.isdisjoint(body):
        for name in strangers & body.keys():
            if body[name] is not None:
                raise _unsupported(name)
    for name, value in body.items():
        if value is not None:
            check = checks.get(name)
            if check is not None:
                check.test(name, value)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise wrong("stream_options", "is only allowed when 'stream' is true")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise wrong("top_logprobs", "needs 'logprobs' to be true")


def _input(body: Body, name: str) -> None:
    """A string, strings, token ids, or lists of token ids; none of them empty."""
    value = body.get(name)
    if isinstance(value, str):
        if not value:
            raise wrong(name, "must not be empty")
        return
    items = _required_list(body, name, None)
    if isinstance(items[0], int) and not isinstance(items[0], bool):
        _tokens(name, items)
        return
    if len(items) > INPUTS_MAX:
        raise wrong(name, f"must have at most {INPUTS_MAX} items")
    kind = str if isinstance(items[0], str) else list
    for index, item in enumerate(items):
        if not isinstance(item, kind) or not item:
            raise wrong(f"{name}[{index}]", "must be a string or an array of token ids, not empty, all of one kind")
        if kind is list:
            _tokens(f"{name}[{index}]", cast("list[Any]", item))


def _tokens(name: str, items: list[Any]) -> None:
    if not all(type(item) is int and 0 <= item <= TOKENS_MAX for item in items):
        raise wrong(name, "must hold token ids, integers from 0 on")


def _required_list(body: Body, name: str, items_max: int | None) -> list[Any]:
    value = body.get(name)
    if value is None:
        raise missing(name)
    if not isinstance(value, list):
        raise wrong(name, "must be an array")
    items = cast("list[Any]", value)
    if not items:
        raise wrong(name, "must not be empty")
    if items_max is not None and len(items) > items_max:
        raise wrong(name, f"must have at most {items_max} items")
    return items
