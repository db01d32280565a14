"""A JSON Schema ``pattern`` as a regular expression that the engine's grammar enforces exactly.

The grammar matches a string as it is written in JSON, between its quotes. So the expression made here never matches
what JSON would have to escape (quotes, backslashes, control characters), and it holds for the whole string where the
schema's own may match a part: every string it lets through satisfies the schema's pattern, not the other way round.

Source of the limits: xgrammar 0.2.8, which takes no repetition above 128, ignores look-around and inner anchors, and
loses its way in negated classes; so every class is written as the ranges it has.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

REPEATS_MAX = 128
COUNT_MAX = REPEATS_MAX * REPEATS_MAX
OPEN = "(?:"
QUANTIFIER = re.compile(r"[*+?]|\{(\d{1,9})(?:(,)(\d{1,9})?)?\}")
GROUP = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w*>)?(?!\?)")
CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4}))")
PUNCTUATION = frozenset("!#$%&'()*+,-./:;<=>?@[]^_`{|}~ ")
SPECIAL = frozenset("$()*+./?[]^{|}-")

Ranges = list[tuple[int, int]]

# What JSON writes as it is.
WRITTEN: Ranges = [(0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF)]
ABOVE_ASCII = (0x80, 0x10FFFF)
LINE_ENDS: Ranges = [(0x85, 0x85), (0x2028, 0x2029)]
# What a shorthand surely matches, and all that it may match, be it read as ECMAScript's or as Python's.
SURELY: dict[str, Ranges] = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": [(0x20, 0x20)],
}
PERHAPS: dict[str, Ranges] = {
    "d": [*SURELY["d"], ABOVE_ASCII],
    "w": [*SURELY["w"], ABOVE_ASCII],
    "s": [
        *(*SURELY["s"], *LINE_ENDS, (0x2000, 0x200A)),
        *((code, code) for code in (0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF)),
    ],
}


class Unenforceable(ValueError):
    """The grammar cannot enforce it; the message says what."""


class _Atom(NamedTuple):
    """A character (``code``) or a shorthand such as ``d``; it ends before ``end``."""

    code: int
    shorthand: str
    end: int


def enforceable_pattern(pattern: str) -> str:
    """The expression for the grammar. Raises Unenforceable."""
    body = pattern.removeprefix("^")
    if re.search(r"(?<!\\)(?:\\\\)*\$$", body):
        body = body[:-1]
    out: list[str] = []
    position = depth = 0
    repeatable = False
    while position < len(body) and depth >= 0:
        piece, position, repeatable = _piece(body, position, repeatable=repeatable)
        depth += {OPEN: 1, ")": -1}.get(piece, 0)
        out.append(piece)
    if depth:
        raise Unenforceable("the parentheses of the pattern do not match")
    return "".join(out)


def _piece(body: str, position: int, *, repeatable: bool) -> tuple[str, int, bool]:
    """The next piece of the expression, where it ends, and whether it may be repeated; ``repeatable``: the last may."""
    char = body[position]
    if char == "(":
        group = GROUP.match(body, position)
        if group is None:
            raise Unenforceable("the pattern looks around or has options")
        return OPEN, group.end(), False
    if char in ")|":
        return char, position + 1, char == ")"
    if char == "[":
        return *_class(body, position + 1), True
    if char == ".":
        return _written(_without(WRITTEN, LINE_ENDS)), position + 1, True
    if quantifier := QUANTIFIER.match(body, position):
        if not repeatable:
            raise Unenforceable("the pattern repeats nothing")
        end = quantifier.end()
        return _repeat(quantifier), end + (body[end : end + 1] == "?"), False
    if char in "^${}]":
        raise Unenforceable(f"the pattern has '{char}' where it cannot be enforced")
    atom = _atom(body, position)
    return _written(_ranges(atom)), atom.end, True


def _repeat(quantifier: re.Match[str]) -> str:
    low, comma, high = quantifier.groups()
    if low is None:
        return quantifier.group()
    if max(int(low), int(high or low)) > REPEATS_MAX or int(high or low) < int(low):
        raise Unenforceable(f"the pattern repeats more than {REPEATS_MAX} times")
    return f"{{{low}{comma or ''}{high or ''}}}"


def _atom(body: str, position: int) -> _Atom:
    char = body[position]
    if char != "\\":
        return _Atom(ord(char), "", position + 1)
    if coded := CODE.match(body, position):
        return _Atom(int(coded[1] or coded[2], 16), "", coded.end())
    escaped = body[position + 1 : position + 2]
    if escaped and escaped in "dwsDWS":
        return _Atom(0, escaped, position + 2)
    if escaped not in PUNCTUATION:
        raise Unenforceable(f"the pattern has '\\{escaped}', which cannot be enforced")
    return _Atom(ord(escaped), "", position + 2)


def _ranges(atom: _Atom) -> Ranges:
    """What an atom surely matches."""
    if not atom.shorthand:
        return [(atom.code, atom.code)]
    if atom.shorthand in SURELY:
        return SURELY[atom.shorthand]
    return _without(WRITTEN, PERHAPS[atom.shorthand.lower()])


def _class(body: str, position: int) -> tuple[str, int]:
    """A class that opened before ``position``, and where it ends."""
    negated = body[position : position + 1] == "^"
    position += negated
    atoms: list[_Atom] = []
    ranges: Ranges = []
    while position < len(body) and body[position] != "]":
        low = _atom(body, position)
        position = low.end
        if low.shorthand:
            atoms.append(low)
            continue
        high = low
        if body[position : position + 1] == "-" and body[position + 1 : position + 2] not in {"]", ""}:
            high = _atom(body, position + 1)
            position = high.end
        if high.shorthand or high.code < low.code:
            raise Unenforceable("the pattern has a range that is none")
        ranges.append((low.code, high.code))
    if position >= len(body) or not (ranges or atoms):
        raise Unenforceable("the pattern has an empty or open class")
    return _written(_negated(ranges, atoms) if negated else _united(ranges, atoms)), position + 1


def _united(ranges: Ranges, atoms: list[_Atom]) -> Ranges:
    names = {atom.shorthand for atom in atoms}
    if any({name, name.upper()} <= names for name in SURELY):
        return WRITTEN
    return ranges + [part for atom in atoms for part in _ranges(atom)]


def _negated(ranges: Ranges, atoms: list[_Atom]) -> Ranges:
    if any(atom.shorthand.isupper() for atom in atoms):
        raise Unenforceable("the pattern has a negated class inside a negated class")
    return _without(WRITTEN, ranges + [part for atom in atoms for part in PERHAPS[atom.shorthand]])


def _without(ranges: Ranges, others: Iterable[tuple[int, int]]) -> Ranges:
    for first, last in others:
        ranges = [
            part
            for low, high in ranges
            for part in ((low, min(high, first - 1)), (max(low, last + 1), high))
            if part[0] <= part[1]
        ]
    return ranges


def _written(ranges: Ranges) -> str:
    """A class of what of ``ranges`` JSON writes as it is."""
    kept = [
        (max(low, first), min(high, last))
        for low, high in ranges
        for first, last in WRITTEN
        if max(low, first) <= min(high, last)
    ]
    if not kept:
        raise Unenforceable("the pattern asks for a character that JSON escapes")
    if len(kept) == 1 and kept[0][0] == kept[0][1]:
        return _char(kept[0][0])
    return "[" + "".join(_char(low) if low == high else f"{_char(low)}-{_char(high)}" for low, high in kept) + "]"


def _char(code: int) -> str:
    return f"\\{chr(code)}" if chr(code) in SPECIAL else chr(code)


def bounded_string(shortest: int, longest: int | None) -> str:
    """An expression for strings of so many characters; a ``longest`` beyond what can be counted is left out.

    The grammar's own bounds on length let control characters through, which JSON does not allow.
    Raises Unenforceable where ``shortest`` is beyond it.
    """
    char = _written(WRITTEN)
    if shortest > COUNT_MAX:
        raise Unenforceable("a string as long cannot be enforced")
    blocks, rest = divmod(shortest, REPEATS_MAX)
    out = (f"(?:{char}{{{REPEATS_MAX}}}){{{blocks}}}" if blocks else "") + (f"{char}{{{rest}}}" if rest else "")
    if longest is None or longest - shortest > COUNT_MAX:
        return out + f"{char}*"
    blocks, rest = divmod(longest - shortest, REPEATS_MAX)
    out += f"(?:{char}{{0,{REPEATS_MAX}}}){{0,{blocks}}}" if blocks else ""
    return out + (f"{char}{{0,{rest}}}" if rest else "")
