"""Whether a model's JSON keeps a caller's schema, checked at a bounded price: both are strangers'.

Invariants
1. No reference leaves the schema: nothing is fetched.
2. Patterns are matched in linear time (Rust's regex); those it does not know are refused, before the model is asked.
3. References are followed ``REFERENCES_MAX`` times at most, so that a schema cannot multiply itself.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast

import orjson
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import StringConstraints, TypeAdapter
from pydantic import ValidationError as NoMatch
from pydantic_core import SchemaError as BadPattern
from referencing import Registry
from referencing.exceptions import Unresolvable

from models.errors import InvalidRequest

REFERENCES_MAX = 20_000
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
# Their children are names of the caller's, not keywords.
NAMED = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
DATA = frozenset({"enum", "const", "default", "examples"})
# Keywords that bind values of one type only.
OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"pattern", "format", "minLength", "maxLength"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
OF_SOME_TYPE = frozenset[str]().union(*OF_TYPE.values())


class TooManyReferences(Exception):
    """The schema multiplies itself."""


def without_type_lists(schema: Any) -> Any:
    """The schema with ``anyOf`` in place of lists of types, which not every provider's library knows.

    It may allow more where a list of types stands beside ``enum`` or ``anyOf``; what an answer has to keep is the
    caller's own schema.
    """
    if isinstance(schema, list):
        return [without_type_lists(item) for item in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    inner = {
        key: value if key in DATA else without_type_lists(value)
        for key, value in cast("dict[str, Any]", schema).items()
    }
    types = inner.get("type")
    if not isinstance(types, list):
        return inner
    if "enum" in inner or "anyOf" in inner:
        return {key: value for key, value in inner.items() if key != "type"}
    branches = [_of_type(str(kind), inner) for kind in cast("list[Any]", types)]
    common = {key: value for key, value in inner.items() if key != "type" and key not in OF_SOME_TYPE}
    return {**common, "anyOf": branches}


def _of_type(kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    own = OF_TYPE.get("number" if kind == "integer" else kind, frozenset())
    return {"type": kind, **{key: value for key, value in schema.items() if key in own}}


class Schema:
    """One caller's schema; ``param`` is its place in the request."""

    def __init__(self, schema: Mapping[str, Any], param: str) -> None:
        """Raises InvalidRequest where it is none, or holds what cannot be checked at a bounded price."""
        self._patterns: dict[str, TypeAdapter[str]] = {}
        self._followed = 0
        kind: Any = cast("Any", validators).validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
            self._collect(schema, names=False)
        except (SchemaError, BadPattern, RecursionError, ValueError):
            raise InvalidRequest(
                f"'{param}' is not a JSON schema, or has a pattern that cannot be checked.", param=param
            ) from None
        counted = {name: self._counted(kind.VALIDATORS[name]) for name in REFERENCES if name in kind.VALIDATORS}
        bounded = cast("Any", validators).extend(kind, {**counted, "pattern": self._pattern})
        self._validator: Any = bounded(schema, registry=cast("Any", Registry)())

    def keeps(self, text: str) -> bool:
        """Whether ``text`` is JSON that the schema allows."""
        self._followed = 0
        try:
            return bool(self._validator.is_valid(orjson.loads(text)))
        except (orjson.JSONDecodeError, Unresolvable, TooManyReferences, RecursionError):
            return False

    def _collect(self, schema: object, *, names: bool) -> None:
        if isinstance(schema, list):
            for item in cast("list[object]", schema):
                self._collect(item, names=False)
        if not isinstance(schema, dict):
            return
        for key, value in cast("dict[str, object]", schema).items():
            if not names and key == "patternProperties":
                raise ValueError("patternProperties")
            if not names and key == "pattern" and isinstance(value, str):
                self._patterns[value] = TypeAdapter(Annotated[str, StringConstraints(pattern=value)])
            elif names or key not in DATA:
                self._collect(value, names=not names and key in NAMED)

    def _pattern(
        self, _validator: object, pattern: str, instance: object, _schema: object
    ) -> Iterator[ValidationError]:
        if isinstance(instance, str):
            try:
                self._patterns[pattern].validate_python(instance)
            except NoMatch:
                yield ValidationError("the pattern does not match")

    def _counted(self, follow: Any) -> Any:
        def reference(validator: object, value: object, instance: object, schema: object) -> Any:
            self._followed += 1
            if self._followed > REFERENCES_MAX:
                raise TooManyReferences
            return follow(validator, value, instance, schema)

        return reference
