"""The last word on a call: its arguments are JSON that satisfies the schema the caller gave."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import regex
from jsonschema import Draft202012Validator, ValidationError, validators
from referencing import Registry
from referencing.exceptions import Unresolvable

from serve.tools.assembler import Malformed
from serve.tools.request import Tool

# The pattern is the caller's and may need exponential time.
PATTERN_SECONDS_MAX = 0.1


def _pattern(_: Any, pattern: Any, value: Any, __: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str) or not isinstance(pattern, str):
        return
    try:
        matches = regex.search(pattern, value, timeout=PATTERN_SECONDS_MAX) is not None
    except (regex.error, TimeoutError):
        matches = False
    if not matches:
        yield ValidationError("the pattern does not match")


# The library's own checks, but for the patterns.
VALIDATOR = cast(
    "type[Draft202012Validator]",
    validators.extend(Draft202012Validator, {"pattern": _pattern}),  # pyright: ignore[reportUnknownMemberType] - stubs
)


def _valid(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    # An empty registry: the library's default would fetch what a reference of the caller's names.
    validator = VALIDATOR(schema, registry=Registry[Any]())
    return validator.is_valid(value)  # pyright: ignore[reportUnknownMemberType] - the library's stubs


class Checker:
    """Checks calls of the tools it is given."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._schemas = {tool.name: tool.parameters for tool in tools}

    def check(self, name: str, arguments: str) -> None:
        """Raises Malformed where there is no such tool, or the arguments do not satisfy its schema."""
        schema = self._schemas.get(name)
        if schema is None:
            raise Malformed("a call of a function that is not among the tools")
        try:
            value: object = json.loads(arguments)
            valid = isinstance(value, dict) and _valid(schema, cast("dict[str, Any]", value))
        except (ValueError, RecursionError, Unresolvable):
            valid = False
        if not valid:
            raise Malformed("arguments that do not satisfy their schema")
