"""A request's JSON read field by field: what is read is checked, what nobody reads is refused by name.

Every error is an InvalidRequest that names the field as it lies in the request: ``messages[0].content[1].text``.
"""

import math
from typing import Any, cast

from models.errors import InvalidRequest


class Reader:
    """One JSON object; ``where`` is its name in the request, empty for the request itself. A null is no value."""

    __slots__ = ("_fields", "_read", "where")

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, dict):
            raise wrong(where, "must be an object")
        self._fields = cast("dict[str, Any]", value)
        self._read: set[str] = set()
        self.where = where

    def name(self, field: str) -> str:
        """A field's name in the request."""
        return f"{self.where}.{field}" if self.where else field

    def value(self, field: str) -> Any:
        """As it is; None where it is missing."""
        self._read.add(field)
        return self._fields.get(field)

    def need(self, field: str) -> Any:
        """As it is, and there."""
        value = self.value(field)
        if value is None:
            raise missing(self.name(field))
        return value

    def text(self, field: str) -> str:
        """A string that must be there."""
        value = self.need(field)
        if not isinstance(value, str):
            raise wrong(self.name(field), "must be a string")
        return value

    def optional_text(self, field: str) -> str | None:
        """A string, where there is one."""
        return None if self.value(field) is None else self.text(field)

    def one_of(self, field: str, *choices: str) -> str:
        """One of ``choices``, which must be there."""
        value = self.text(field)
        if value not in choices:
            raise wrong(self.name(field), f"must be one of {', '.join(choices)}")
        return value

    def flag(self, field: str) -> bool:
        """A boolean, false where it is missing."""
        value = self.value(field)
        if not isinstance(value, bool | None):
            raise wrong(self.name(field), "must be a boolean")
        return bool(value)

    def number(self, field: str, low: float, high: float) -> float | None:
        """A finite number within bounds, where there is one."""
        value = self.value(field)
        if value is None:
            return None
        if type(value) not in {int, float} or not math.isfinite(value) or not low <= value <= high:
            raise wrong(self.name(field), f"must be a number from {low:g} to {high:g}")
        return value

    def integer(self, field: str, low: int, high: int) -> int | None:
        """An integer within bounds, where there is one."""
        value = self.value(field)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            raise wrong(self.name(field), f"must be an integer from {low} to {high}")
        return value

    def object(self, field: str) -> "Reader | None":
        """An object, where there is one."""
        value = self.value(field)
        return None if value is None else Reader(value, self.name(field))

    def schema(self, field: str) -> dict[str, Any]:
        """An object that must be there, its inside not ours to read."""
        value = self.need(field)
        if not isinstance(value, dict):
            raise wrong(self.name(field), "must be an object")
        return cast("dict[str, Any]", value)

    def items(self, field: str, items_max: int) -> list[Any]:
        """An array, empty where it is missing."""
        value = self.value(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self.name(field), "must be an array")
        items = cast("list[Any]", value)
        if len(items) > items_max:
            raise wrong(self.name(field), f"must have at most {items_max} items")
        return items

    def objects(self, field: str, items_max: int) -> "list[Reader]":
        """An array's objects, each under its own name."""
        name = self.name(field)
        return [Reader(item, f"{name}[{index}]") for index, item in enumerate(self.items(field, items_max))]

    def cache_mark(self) -> None:
        """Anthropic's ``cache_control``. It may be set anywhere and asks for nothing: prefixes are cached anyway."""
        mark = self.object("cache_control")
        if mark is not None:
            mark.one_of("type", "ephemeral")
            if mark.value("ttl") is not None:
                mark.one_of("ttl", "5m", "1h")
            mark.done()

    def done(self) -> None:
        """Refuse what was not read."""
        if len(self._read) < len(self._fields) or not self._fields.keys() <= self._read:
            for field in self._fields:
                if field not in self._read:
                    raise unsupported(self.name(field))


def missing(name: str) -> InvalidRequest:
    """The error of a field that must be there."""
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def wrong(name: str, why: str) -> InvalidRequest:
    """The error of a value that is not what its field takes."""
    return InvalidRequest(f"Invalid value for '{name}': it {why}.", param=name, code="invalid_value")


def unsupported(name: str, what: str = "parameter") -> InvalidRequest:
    """The error of what we do not take, or not in this place."""
    return InvalidRequest(f"Unsupported {what}: '{name}'.", param=name, code="unsupported_parameter")
