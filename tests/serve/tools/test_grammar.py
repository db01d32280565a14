"""Enforced schemas against the engine's own grammar compiler: whatever it lets a model write satisfies the caller's."""

import json
import random
import re
from functools import cache
from typing import Any

import pytest
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidRequest
from serve.tools.checker import VALIDATOR
from serve.tools.schema import enforceable

END = 0
WALK_TOKENS_MAX = 600
CLOSING = frozenset({b'"', b"}", b"]"})
VOCABULARY = [b"<end>", *(bytes([code]) for code in range(1, 256)), "é".encode(), "😀".encode(), b"\xe2\x80\xa8"]
PARTS = frozenset(bytes([code]) for code in range(128, 256))


@cache
def compiler() -> xgrammar.GrammarCompiler:
    info = xgrammar.TokenizerInfo(
        VOCABULARY, vocab_type=xgrammar.VocabType.RAW, vocab_size=len(VOCABULARY), stop_token_ids=[END]
    )
    return xgrammar.GrammarCompiler(info, max_threads=1)


def walk(schema: dict[str, Any], seed: int) -> bytes | None:
    """What a model without sense may write: allowed tokens, drawn at random; None where it found no end in time."""
    format_ = {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": 1}
    grammar = compiler().compile_structural_tag(json.dumps({"type": "structural_tag", "format": format_}))
    matcher, mask = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, len(VOCABULARY))
    rng, out = random.Random(seed), b""
    for step in range(WALK_TOKENS_MAX):
        matcher.fill_next_token_bitmask(mask, 0)
        words = mask[0].tolist()
        allowed = [token for token in range(len(VOCABULARY)) if words[token // 32] >> token % 32 & 1]
        # A lone byte of a longer character only where nothing else may come: the grammar takes overlong forms.
        allowed = [token for token in allowed if VOCABULARY[token] not in PARTS] or allowed
        assert allowed, f"a dead end after {out!r}"
        if END in allowed and (step > 40 or rng.random() < 0.4 or len(allowed) == 1):
            return out
        closing = [token for token in allowed if VOCABULARY[token] in CLOSING]
        odd = [token for token in allowed if VOCABULARY[token] < b" " or VOCABULARY[token] in b'"\\']
        chosen = (
            closing if closing and (step > 40 or rng.random() < 0.3) else odd if odd and rng.random() < 0.3 else None
        )
        token = rng.choice(chosen or [token for token in allowed if token != END])
        assert matcher.accept_token(token)
        out += VOCABULARY[token]
    return None


def check(schema: dict[str, Any], seeds: int = 4) -> int:
    """How many walks came to an end; each must satisfy the schema as the caller wrote it."""
    enforced = enforceable(schema, "response_format", "invalid_json_schema")
    validator = VALIDATOR(schema)
    ended = 0
    for seed in range(seeds):
        written = walk(enforced, seed)
        if written is not None:
            ended += 1
            validator.validate(json.loads(written))
    return ended


lengths = st.sampled_from([0, 1, 2, 5, 30, 127, 128, 129, 300, 1_000, 5_000])
numbers = st.one_of(st.integers(-1_000, 1_000), st.floats(-50, 50, allow_nan=False), st.sampled_from([0, 0.1, -0.001]))
names = st.sampled_from(["a", "b", "city", 'qu"ote', "back\\slash", "é", "with space", "line\nbreak", "", "$ref"])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=6),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(names, st.integers(0, 9), max_size=2),
)


@st.composite
def bounded(draw: st.DrawFn, low: str, high: str, bounds: st.SearchStrategy[Any]) -> dict[str, Any]:
    first, second = sorted([draw(bounds), draw(bounds)])
    return {name: value for name, value in ((low, first), (high, second)) if draw(st.booleans())}


@st.composite
def scalars(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["string", "integer", "number", "boolean", "null", "enum", "const"]))
    if kind == "enum":
        return {"enum": draw(st.lists(values, min_size=1, max_size=4))}
    if kind == "const":
        return {"const": draw(values)}
    made: dict[str, Any] = {
        "type": kind,
        "description": "an annotation",
        "format": draw(st.sampled_from(["date", "x"])),
    }
    if kind == "string":
        made |= draw(bounded("minLength", "maxLength", lengths))
    if kind in {"integer", "number"}:
        made |= draw(st.one_of(bounded("minimum", "maximum", numbers), bounded("exclusiveMinimum", "maximum", numbers)))
    return made


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    made: dict[str, Any] = {"type": "object", "properties": properties} if properties else {"type": "object"}
    if draw(st.booleans()):
        made["additionalProperties"] = draw(st.one_of(st.booleans(), inner))
    if properties:
        made["required"] = draw(st.lists(st.sampled_from(sorted(properties)), unique=True))
    return made


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "array", "items": draw(inner)}
    if draw(st.booleans()):
        made["prefixItems"] = draw(st.lists(inner, min_size=1, max_size=2))
    return made | draw(bounded("minItems", "maxItems", st.integers(0, 3)))


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        objects(inner),
        arrays(inner),
        st.builds(lambda branches: {"anyOf": branches}, st.lists(inner, min_size=1, max_size=3)),
    )


schemas = st.recursive(scalars(), larger, max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(schemas)
def test_whatever_the_grammar_lets_through_satisfies_the_schema(schema: dict[str, Any]) -> None:
    try:
        enforceable(schema, "response_format", "invalid_json_schema")
    except InvalidRequest as error:
        reason = error.message
    else:
        reason = ""
        check(schema)
    # Of these only what nothing satisfies is refused, and in words.
    assert not reason or re.search("within the bounds|no length|no number of items|that anything satisfies", reason)


PATTERNS = [
    "^[A-Z]{2}$",
    r"^\d{4}-\d{2}-\d{2}$",
    r"^[\w.+-]+@[\w-]+\.[\w.]{2,}$",
    "^https?://.+$",
    "^(red|green)$",
    "^red|green$",
    r"\S+",
    "[ -~]{3}",
    r"[\s\S]*",
    r"^[^a]{1,128}$",
    r"^[^\w\s]$",
    r"\W\D",
    r"(?:a|.){0,128}b",
    r"(?<year>\d{4})?x*?",
    r"^\$[0-9]+\.\d\d$",
    r"^\/\x41\u0042[\]\^\-]$",
    "^.$",
    "é[à-ü]",
    "",
    "^$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_holds(pattern: str) -> None:
    assert check({"type": "string", "pattern": pattern}, seeds=40) > 20


@pytest.mark.parametrize(
    ("least", "most"),
    [(0, 0), (1, 1), (0, 128), (0, 129), (129, 129), (3, 1_000), (300, 310), (0, 16_384), (2, 70_000), (5, None)],
)
def test_a_length_holds(least: int, most: int | None) -> None:
    schema = {"type": "string", "minLength": least} | ({} if most is None else {"maxLength": most})
    assert check(schema, seeds=20) > 10


def test_a_schema_that_refers_to_itself_holds() -> None:
    node = {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/definitions/a name~1part"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "whole": {"type": "array", "items": {"$ref": "#"}, "maxItems": 1},
        },
        "required": ["name", "next"],
    }
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": node},
        "definitions": {"a name/part": {"type": ["string", "integer"], "maxLength": 3}},
    }
    assert check(schema, seeds=30) > 15
