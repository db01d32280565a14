"""What a request body must be before it costs anything: JSON, bounded, and within OpenAI's types and ranges.

Parameters that we do not know are the upstream's business where it is ours, and refused where it is not.
Source of types and ranges: OpenAI's OpenAPI description 2.3.0.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

from models.errors import InvalidRequest, UnsupportedMedia
from serve.asgi import Scope, header

DEPTH_MAX = 64
CHOICES_MAX = 128
INPUTS_MAX = 2_048
MESSAGES_MAX = 10_000
TOKENS_MAX = 2**31 - 1
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})

Body = dict[str, Any]
Check = Callable[[str, Any], None]


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
        raise _missing("model") if model is None or model == "" else _wrong("model", "must be a string")
    return model


def check_chat(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    messages = _required_list(body, "messages", MESSAGES_MAX)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{index}]", "must be an object")
        fields = cast("Body", message)
        role = fields.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise _wrong(f"messages[{index}].role", f"must be one of {', '.join(sorted(ROLES))}")
        if not isinstance(fields.get("content"), str | list | None):
            raise _wrong(f"messages[{index}].content", "must be a string or an array of parts")
    _check_all(body, CHAT_CHECKS)


def check_completion(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    _input(body, "prompt")
    _check_all(body, COMPLETION_CHECKS)


def check_embedding(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    _input(body, "input")
    _check_all(body, EMBEDDING_CHECKS)


def check_rerank(body: Body) -> None:
    """Raises InvalidRequest that names the parameter at fault."""
    query = body.get("query")
    if query is None:
        raise _missing("query")
    if not isinstance(query, str) or not query:
        raise _wrong("query", "must be a string, not empty")
    for index, document in enumerate(_required_list(body, "documents", INPUTS_MAX)):
        text = cast("Body", document).get("text") if isinstance(document, dict) else document
        if not isinstance(text, str) or not text:
            raise _wrong(f"documents[{index}]", "must be a string or an object with 'text', not empty")
    _check_all(body, RERANK_CHECKS)


def refuse_unknown(body: Body, known: frozenset[str]) -> None:
    """For upstreams that are not ours. Raises InvalidRequest for the first parameter outside ``known``."""
    for name in body:
        if name not in known:
            raise InvalidRequest(f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")


def _check_all(body: Body, checks: Mapping[str, Check]) -> None:
    for name, value in body.items():
        if value is not None:
            check = checks.get(name)
            if check is not None:
                check(name, value)
    if body.get("stream_options") is not None and not body.get("stream"):
        raise _wrong("stream_options", "is only allowed when 'stream' is true")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise _wrong("top_logprobs", "needs 'logprobs' to be true")


def _input(body: Body, name: str) -> None:
    """A string, strings, token ids, or lists of token ids; none of them empty."""
    value = body.get(name)
    if isinstance(value, str):
        if not value:
            raise _wrong(name, "must not be empty")
        return
    items = _required_list(body, name, None)
    if isinstance(items[0], int) and not isinstance(items[0], bool):
        _tokens(name, items)
        return
    if len(items) > INPUTS_MAX:
        raise _wrong(name, f"must have at most {INPUTS_MAX} items")
    kind = str if isinstance(items[0], str) else list
    for index, item in enumerate(items):
        if not isinstance(item, kind) or not item:
            raise _wrong(f"{name}[{index}]", "must be a string or an array of token ids, not empty, all of one kind")
        if kind is list:
            _tokens(f"{name}[{index}]", cast("list[Any]", item))


def _tokens(name: str, items: list[Any]) -> None:
    if not all(type(item) is int and 0 <= item <= TOKENS_MAX for item in items):
        raise _wrong(name, "must hold token ids, integers from 0 on")


def _required_list(body: Body, name: str, items_max: int | None) -> list[Any]:
    value = body.get(name)
    if value is None:
        raise _missing(name)
    if not isinstance(value, list):
        raise _wrong(name, "must be an array")
    items = cast("list[Any]", value)
    if not items:
        raise _wrong(name, "must not be empty")
    if items_max is not None and len(items) > items_max:
        raise _wrong(name, f"must have at most {items_max} items")
    return items


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def _wrong(name: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{name}': it {why}.", param=name, code="invalid_value")


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) not in {int, float} or not math.isfinite(value) or not low <= value <= high:
            raise _wrong(name, f"must be a number from {low:g} to {high:g}")

    return check


def _integer(low: int, high: int) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(name, f"must be an integer from {low} to {high}")

    return check


def _of(kind: type | tuple[type, ...], words: str) -> Check:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise _wrong(name, f"must be {words}")

    return check


def _choice(*choices: str) -> Check:
    def check(name: str, value: Any) -> None:
        if value not in choices:
            raise _wrong(name, f"must be one of {', '.join(choices)}")

    return check


def _stop(name: str, value: Any) -> None:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if len(items) > 4 or not all(isinstance(item, str) for item in items):
        raise _wrong(name, "must be a string or an array of at most 4 strings")


def _logit_bias(name: str, value: Any) -> None:
    _object(name, value)
    for token, bias in cast("Body", value).items():
        if not token.isascii() or not token.isdigit() or type(bias) not in {int, float} or not -100 <= bias <= 100:
            raise _wrong(name, "must map token ids to numbers from -100 to 100")


def _metadata(name: str, value: Any) -> None:
    _object(name, value)
    pairs = cast("Body", value)
    if len(pairs) > 16 or any(len(k) > 64 or not isinstance(v, str) or len(v) > 512 for k, v in pairs.items()):
        raise _wrong(name, "must have at most 16 pairs, of at most 64 and 512 characters")


def _stream_options(name: str, value: Any) -> None:
    _object(name, value)
    for option in ("include_usage", "include_obfuscation", "continuous_usage_stats"):
        if not isinstance(cast("Body", value).get(option), bool | None):
            raise _wrong(f"{name}.{option}", "must be a boolean")


_boolean = _of(bool, "a boolean")
_string = _of(str, "a string")
_array = _of(list, "an array")
_object = _of(dict, "an object")
_string_or_object = _of((str, dict), "a string or an object")

SAMPLING_CHECKS: Mapping[str, Check] = {
    "stream": _boolean,
    "stream_options": _stream_options,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "n": _integer(1, CHOICES_MAX),
    "max_tokens": _integer(1, TOKENS_MAX),
    "stop": _stop,
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": _logit_bias,
    "seed": _integer(-(2**63), 2**63 - 1),
    "user": _string,
}
CHAT_CHECKS: Mapping[str, Check] = {
    **SAMPLING_CHECKS,
    "max_completion_tokens": _integer(1, TOKENS_MAX),
    "logprobs": _boolean,
    "top_logprobs": _integer(0, 20),
    "tools": _array,
    "tool_choice": _string_or_object,
    "parallel_tool_calls": _boolean,
    "response_format": _object,
    "reasoning_effort": _choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "verbosity": _choice("low", "medium", "high"),
    "prediction": _object,
    "store": _boolean,
    "metadata": _metadata,
    "modalities": _array,
    "audio": _object,
    "service_tier": _string,
    "safety_identifier": _string,
    "prompt_cache_key": _string,
}
COMPLETION_CHECKS: Mapping[str, Check] = {
    **SAMPLING_CHECKS,
    "logprobs": _integer(0, 20),
    "best_of": _integer(1, CHOICES_MAX),
    "echo": _boolean,
    "suffix": _string,
    "max_tokens": _integer(0, TOKENS_MAX),
}
RERANK_CHECKS: Mapping[str, Check] = {
    "top_n": _integer(1, TOKENS_MAX),
    "return_documents": _boolean,
}
EMBEDDING_CHECKS: Mapping[str, Check] = {
    "encoding_format": _choice("float", "base64"),
    "dimensions": _integer(1, 65_536),
    "user": _string,
}
