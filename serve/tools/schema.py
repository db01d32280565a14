"""A JSON Schema as one that the engine's grammar enforces exactly.

Invariants
1. Whatever satisfies the schema made here satisfies the caller's. It may be narrower: an object with named properties
   takes no others, a pattern holds for the whole string, a string of bounded length has no quotes or line breaks.
2. A keyword that cannot be enforced is refused by name, never ignored; annotations are dropped.
3. No reference leaves the schema; the schema made here has its own names for what is referred to.

Source of what can be enforced: xgrammar 0.2.8 as vLLM 0.32 drives it, by test (``tests/serve/tools/test_grammar.py``).
"""

from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import cast

from models.errors import InvalidRequest
from serve.tools.patterns import Unenforceable
from serve.tools.scalars import KEYWORDS, Schema, at, count, filled, kinds, number, string, typed, types_of, values

DEPTH_MAX = 48
BRANCHES_MAX = 64
DEFINITIONS_MAX = 100
# Compiling an object's grammar takes time that grows with the square of the properties it may leave out.
OPTIONAL_MAX = 100
ALONE = ("$ref", "anyOf", "oneOf", "allOf")
CONSTRAINTS = frozenset({"type", "enum", "const", *ALONE, *(name for names in KEYWORDS.values() for name in names)})
REFUSED = frozenset(
    {
        *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "patternProperties"),
        *("propertyNames", "contains", "minContains", "maxContains", "unevaluatedProperties", "unevaluatedItems"),
        *("additionalItems", "$dynamicRef", "$recursiveRef", "$anchor", "$dynamicAnchor"),
    }
)


@dataclass(slots=True)
class Room:
    """How much the schemas of one request may still have: a grammar costs the engine time before its first token.

    A ``pattern`` costs up to two seconds where none like it came before (2026-11, 49,152 tokens, one core).
    """

    nodes: int = 5_000
    patterns: int = 32

    def take(self, nodes: int, patterns: int = 0) -> None:
        """Raises Unenforceable where there is no room left."""
        self.nodes -= nodes
        self.patterns -= patterns
        if self.nodes < 0:
            raise Unenforceable("it is too large or nested too deeply")
        if self.patterns < 0:
            raise Unenforceable("there are too many patterns")


def enforceable(schema: Schema, param: str, code: str, room: Room | None = None) -> Schema:
    """The schema for the grammar. ``room`` is that of the schemas of one request.

    Raises InvalidRequest that names ``param`` and the keyword at fault.
    """
    try:
        return _Enforcer(schema, room or Room()).whole()
    except Unenforceable as error:
        raise InvalidRequest(f"Invalid schema for '{param}': {error}.", param=param, code=code) from None


class _Enforcer:
    """One schema on its way."""

    def __init__(self, root: Schema, room: Room) -> None:
        self._root = root
        self._room = room
        self._names: dict[str, str] = {}
        self._definitions: Schema = {}

    def whole(self) -> Schema:
        made = self._schema(self._root, "", 0)
        leads = {name: _led_to(definition) for name, definition in self._definitions.items()}
        try:
            TopologicalSorter(leads).prepare()
        except CycleError:
            raise Unenforceable("a reference leads back to itself") from None
        return {**made, "$defs": self._definitions} if self._definitions else made

    def _schema(self, node: object, where: str, depth: int) -> Schema:
        self._room.take(nodes=1)
        if depth > DEPTH_MAX:
            raise Unenforceable("it is too large or nested too deeply")
        if node is True:
            return {}
        if not isinstance(node, dict):
            raise Unenforceable(f"what is {at(where)} is no schema that anything satisfies")
        schema = cast("Schema", node)
        for keyword in schema:
            if keyword in REFUSED or (keyword == "$id" and where):
                raise Unenforceable(f"the keyword '{keyword}' {at(where)} cannot be enforced")
        given = [name for name in schema if name in CONSTRAINTS]
        for keyword in ALONE:
            if keyword in schema:
                return self._alone(keyword, schema, given, where, depth)
        if "enum" in schema or "const" in schema:
            made = values(schema, given, where)
            self._room.take(nodes=len(made["enum"]))
            return made
        return self._typed(schema, given, where, depth)

    def _alone(self, keyword: str, schema: Schema, given: list[str], where: str, depth: int) -> Schema:
        others = [name for name in given if name != keyword]
        if others:
            raise Unenforceable(f"the keywords '{keyword}' and '{others[0]}' {at(where)} cannot be combined")
        if keyword == "$ref":
            return {"$ref": self._reference(schema[keyword], where, depth)}
        branches = filled(schema[keyword], where, keyword)
        if keyword == "allOf":
            if len(branches) != 1:
                raise Unenforceable(f"the keyword 'allOf' {at(where)} cannot be enforced for several schemas")
            return self._schema(branches[0], where, depth + 1)
        if len(branches) > BRANCHES_MAX:
            raise Unenforceable(f"the keyword '{keyword}' {at(where)} has more than {BRANCHES_MAX} schemas")
        made = [self._schema(branch, where, depth + 1) for branch in branches]
        if keyword == "oneOf" and not all(
            _disjoint(self._resolved(one), self._resolved(two))
            for index, one in enumerate(made)
            for two in made[index + 1 :]
        ):
            raise Unenforceable(f"the keyword 'oneOf' {at(where)} needs schemas that exclude one another; use 'anyOf'")
        return {"anyOf": made}

    def _reference(self, pointer: object, where: str, depth: int) -> str:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise Unenforceable(f"the reference {at(where)} leaves the schema")
        name = self._names.get(pointer)
        if name is None:
            if len(self._names) == DEFINITIONS_MAX:
                raise Unenforceable(f"it has more than {DEFINITIONS_MAX} definitions")
            name = self._names[pointer] = f"d{len(self._names)}"
            # Its place is taken first, so that a schema may refer to itself.
            self._definitions[name] = {}
            self._definitions[name] = self._schema(self._found(pointer, where), f"{where}.$ref", depth + 1)
        return f"#/$defs/{name}"

    def _found(self, pointer: str, where: str) -> object:
        node: object = self._root
        for part in pointer.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and key.isdigit() and int(key) < len(cast("list[object]", node)):
                node = cast("list[object]", node)[int(key)]
            elif isinstance(node, dict) and key in node:
                node = cast("Schema", node)[key]
            else:
                raise Unenforceable(f"the reference {at(where)} points to nothing")
        return node

    def _resolved(self, schema: Schema) -> Schema:
        reference: str | None = schema.get("$ref")
        return self._definitions[reference.rpartition("/")[2]] if reference else schema

    def _typed(self, schema: Schema, given: list[str], where: str, depth: int) -> Schema:
        types = types_of(schema, given, where)
        made = [self._of(kind, schema, where, depth) for kind in types]
        if not made:
            return {}
        return made[0] if len(made) == 1 else {"anyOf": made}

    def _of(self, kind: str, schema: Schema, where: str, depth: int) -> Schema:
        if kind == "object":
            return self._object(schema, where, depth)
        if kind == "array":
            return self._array(schema, where, depth)
        if kind == "string":
            self._room.take(nodes=0, patterns="pattern" in schema)
            return string(schema, where)
        if kind in {"number", "integer"}:
            return number(schema, kind, where)
        return {"type": kind}

    def _object(self, schema: Schema, where: str, depth: int) -> Schema:
        properties = cast("Schema", typed(schema.get("properties", {}), dict, where, "properties"))
        required = typed(schema.get("required", []), list, where, "required")
        if not all(isinstance(name, str) for name in required):
            raise Unenforceable(f"the keyword 'required' {at(where)} must hold names")
        more: object = schema.get("additionalProperties", True)
        names = list(dict.fromkeys([*properties, *required]))
        made: Schema = {"type": "object"}
        if names or "properties" in schema:
            made["properties"] = {
                name: self._schema(properties.get(name, more), f"{where}.{name}", depth + 1) for name in names
            }
            made["required"] = list(dict.fromkeys(required))
            if len(names) - len(made["required"]) > OPTIONAL_MAX:
                raise Unenforceable(f"the object {at(where)} may leave out more than {OPTIONAL_MAX} properties")
            made["additionalProperties"] = False
        elif more is not True:
            made["additionalProperties"] = more is not False and self._schema(more, f"{where}.*", depth + 1)
        least, most = count(schema, "minProperties", where) or 0, count(schema, "maxProperties", where)
        if least > len(made.get("required", ())) or (
            most is not None and ("properties" not in made or most < len(names))
        ):
            raise Unenforceable(f"the number of properties {at(where)} cannot be enforced")
        return made

    def _array(self, schema: Schema, where: str, depth: int) -> Schema:
        if schema.get("uniqueItems"):
            raise Unenforceable(f"the keyword 'uniqueItems' {at(where)} cannot be enforced")
        made: Schema = {"type": "array"}
        if "prefixItems" in schema:
            parts = filled(schema["prefixItems"], where, "prefixItems")
            made["prefixItems"] = [self._schema(part, f"{where}[{n}]", depth + 1) for n, part in enumerate(parts)]
        items: object = schema.get("items", True)
        made["items"] = items is not False and self._schema(items, f"{where}[]", depth + 1)
        least, most = count(schema, "minItems", where) or 0, count(schema, "maxItems", where)
        if items is False:
            most = min(len(made.get("prefixItems", ())), most if most is not None else len(made.get("prefixItems", ())))
        if most is not None:
            made["maxItems"] = most
            # What is beyond the last item is never written.
            made["prefixItems"] = made.get("prefixItems", [])[:most]
            if least > most:
                raise Unenforceable(f"no number of items {at(where)} is possible")
        if not made.get("prefixItems", True):
            del made["prefixItems"]
        return {**made, "minItems": least} if least else made


def _led_to(schema: Schema) -> set[str]:
    """The definitions that a schema stands for, without a step into an object or a list."""
    if "$ref" in schema:
        return {schema["$ref"].rpartition("/")[2]}
    return {name for branch in schema.get("anyOf", ()) for name in _led_to(branch)}


def _disjoint(one: Schema, two: Schema) -> bool:
    """Whether it is plain that nothing satisfies both."""
    first, second = _kinds_of(one), _kinds_of(two)
    if not first or not second:
        return False
    if not first & second:
        return True
    if "enum" in one and "enum" in two:
        return not any(left == right for left in one["enum"] for right in two["enum"])
    shared = set(one.get("required", ())) & set(two.get("required", ()))
    return first == second == {"object"} and any(
        _disjoint(one["properties"][name], two["properties"][name]) for name in shared
    )


def _kinds_of(schema: Schema) -> set[str]:
    """Every type a value of the schema may have; empty where that is not plain."""
    if "enum" in schema:
        return {kind for value in schema["enum"] for kind in kinds(value)}
    if "anyOf" in schema:
        branches = [_kinds_of(branch) for branch in schema["anyOf"]]
        return {kind for branch in branches for kind in branch} if all(branches) else set()
    kind: str | None = schema.get("type")
    return {"integer", "number"} if kind in {"integer", "number"} else {kind} if kind else set()
