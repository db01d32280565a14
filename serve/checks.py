"""What each parameter of an inference call takes: a test and a JSON Schema that says the same, made together.

The gateway's description (``serve.openapi``) reads the schemas, so it cannot say what the tests do not hold.
Source of types and ranges: OpenAI's OpenAPI description 2.3.0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from models.errors import InvalidRequest

CHOICES_MAX = 128
TOKENS_MAX = 2**31 - 1
TEMPERATURE_MAX = 2
TOP_LOGPROBS_MAX = 20
STOPS_MAX = 4
BIAS_MAX = 100
PAIRS_MAX = 16
NAME_LENGTH_MAX = 64
VALUE_LENGTH_MAX = 512

Schema = Mapping[str, Any]
Test = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One parameter. ``test`` gets its name and value, and raises InvalidRequest; a null is not tested, but absent."""

    test: Test
    schema: Schema


def missing(name: str) -> InvalidRequest:
    """The error of a parameter that must be there."""
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def wrong(name: str, why: str) -> InvalidRequest:
    """The error of a value that is not what its parameter takes."""
    return InvalidRequest(f"Invalid value for '{name}': it {why}.", param=name, code="invalid_value")


def _number(low: float, high: float) -> Check:
    def test(name: str, value: Any) -> None:
        if type(value) not in {int, float} or not math.isfinite(value) or not low <= value <= high:
            raise wrong(name, f"must be a number from {low:g} to {high:g}")

    return Check(test, {"type": "number", "minimum": low, "maximum": high})


def _integer(low: int, high: int) -> Check:
    def test(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise wrong(name, f"must be an integer from {low} to {high}")

    return Check(test, {"type": "integer", "minimum": low, "maximum": high})


def _of(kind: type | tuple[type, ...], words: str, *types: str) -> Check:
    def test(name: str, value: Any) -> None:
        if not isinstance(value, kind):
            raise wrong(name, f"must be {words}")

    return Check(test, {"type": types[0] if len(types) == 1 else list(types)})


def _choice(*choices: str) -> Check:
    def test(name: str, value: Any) -> None:
        if value not in choices:
            raise wrong(name, f"must be one of {', '.join(choices)}")

    return Check(test, {"enum": list(choices)})


def _stop(name: str, value: Any) -> None:
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    if len(items) > STOPS_MAX or not all(isinstance(item, str) for item in items):
        raise wrong(name, f"must be a string or an array of at most {STOPS_MAX} strings")


def _logit_bias(name: str, value: Any) -> None:
    _object.test(name, value)
    for token, bias in cast("dict[str, Any]", value).items():
        number = type(bias) in {int, float} and -BIAS_MAX <= bias <= BIAS_MAX
        if not token.isascii() or not token.isdigit() or not number:
            raise wrong(name, f"must map token ids to numbers from -{BIAS_MAX} to {BIAS_MAX}")


def _metadata(name: str, value: Any) -> None:
    _object.test(name, value)
    pairs = cast("dict[str, Any]", value)
    fits = all(
        len(key) <= NAME_LENGTH_MAX and isinstance(text, str) and len(text) <= VALUE_LENGTH_MAX
        for key, text in pairs.items()
    )
    if len(pairs) > PAIRS_MAX or not fits:
        bounds = f"of at most {NAME_LENGTH_MAX} and {VALUE_LENGTH_MAX} characters"
        raise wrong(name, f"must have at most {PAIRS_MAX} pairs, {bounds}")


STREAM_OPTIONS = ("include_usage", "include_obfuscation", "continuous_usage_stats")


def _stream_options(name: str, value: Any) -> None:
    _object.test(name, value)
    for option in STREAM_OPTIONS:
        if not isinstance(cast("dict[str, Any]", value).get(option), bool | None):
            raise wrong(f"{name}.{option}", "must be a boolean")


STOP_SCHEMA: Schema = {
    "type": ["string", "array"],
    "items": {"type": "string"},
    "maxItems": STOPS_MAX,
}
LOGIT_BIAS_SCHEMA: Schema = {
    "type": "object",
    "propertyNames": {"pattern": "^[0-9]+$"},
    "additionalProperties": {"type": "number", "minimum": -BIAS_MAX, "maximum": BIAS_MAX},
}
METADATA_SCHEMA: Schema = {
    "type": "object",
    "propertyNames": {"maxLength": NAME_LENGTH_MAX},
    "additionalProperties": {"type": "string", "maxLength": VALUE_LENGTH_MAX},
    "maxProperties": PAIRS_MAX,
}
STREAM_OPTIONS_SCHEMA: Schema = {
    "type": "object",
    "properties": {name: {"type": ["boolean", "null"]} for name in STREAM_OPTIONS},
}

_boolean = _of(bool, "a boolean", "boolean")
_string = _of(str, "a string", "string")
_array = _of(list, "an array", "array")
_object = _of(dict, "an object", "object")
_string_or_object = _of((str, dict), "a string or an object", "string", "object")

SAMPLING_CHECKS: Mapping[str, Check] = {
    "stream": _boolean,
    "stream_options": Check(_stream_options, STREAM_OPTIONS_SCHEMA),
    "temperature": _number(0, TEMPERATURE_MAX),
    "top_p": _number(0, 1),
    "n": _integer(1, CHOICES_MAX),
    "max_tokens": _integer(1, TOKENS_MAX),
    "stop": Check(_stop, STOP_SCHEMA),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": Check(_logit_bias, LOGIT_BIAS_SCHEMA),
    "seed": _integer(-(2**63), 2**63 - 1),
    "user": _string,
}
CHAT_CHECKS: Mapping[str, Check] = {
    **SAMPLING_CHECKS,
    "max_completion_tokens": _integer(1, TOKENS_MAX),
    "logprobs": _boolean,
    "top_logprobs": _integer(0, TOP_LOGPROBS_MAX),
    "tools": _array,
    "tool_choice": _string_or_object,
    "parallel_tool_calls": _boolean,
    "response_format": _object,
    "reasoning_effort": _choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "verbosity": _choice("low", "medium", "high"),
    "prediction": _object,
    "store": _boolean,
    "metadata": Check(_metadata, METADATA_SCHEMA),
    "modalities": _array,
    "audio": _object,
    "service_tier": _choice("auto", "default", "flex", "scale", "priority"),
    "safety_identifier": _string,
    "prompt_cache_key": _string,
}
COMPLETION_CHECKS: Mapping[str, Check] = {
    **SAMPLING_CHECKS,
    "logprobs": _integer(0, TOP_LOGPROBS_MAX),
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
