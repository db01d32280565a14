"""Placeholders for what a request held, and the way back.

Invariants
1. ``unmask(mask(text)) == text``, whole or in any pieces: a placeholder is never one that the request held already.
2. The same value has the same placeholder within a request, numbered by first appearance, so that a conversation that
   grows keeps its placeholders and a provider's prefix cache hits.
3. A piece of a stream is held only while it could be the beginning of a placeholder that was given out.
"""

import json
from collections.abc import Iterable, Sequence

import regex

from serve.privacy.scanner import Finding

PLACEHOLDER = regex.compile(r"<[A-Z][A-Z0-9_]*_\d+>")


class Vault:
    """One request's. ``texts`` are all that it holds, so that no placeholder is given out that stands in them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._taken = {found for text in texts if "<" in text for found in PLACEHOLDER.findall(text)}
        self._given: dict[tuple[str, str], str] = {}
        self._values: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was masked."""
        return not self._values

    def mask(self, text: str, findings: Sequence[Finding]) -> str:
        """``text`` with placeholders for what was found in it."""
        parts: list[str] = []
        at = 0
        for start, end, name in findings:
            parts += (text[at:start], self._placeholder(name, text[start:end]))
            at = end
        return "".join((*parts, text[at:]))

    def unmask(self, text: str, *, escaped: bool = False) -> str:
        """The inverse of ``mask``; ``escaped``: the text is JSON, and placeholders stand within its strings."""
        if "<" not in text:
            return text
        return PLACEHOLDER.sub(lambda match: self._value(match.group(), escaped=escaped), text)

    def begins(self, tail: str) -> bool:
        """Whether ``tail`` is the beginning of a placeholder that was given out, and not yet all of it."""
        return any(len(tail) < len(one) and one.startswith(tail) for one in self._values)

    def _placeholder(self, name: str, value: str) -> str:
        found = self._given.get((name, value))
        if found is None:
            found = self._given[name, value] = self._new(name)
            self._values[found] = value
        return found

    def _new(self, name: str) -> str:
        while True:
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
            placeholder = f"<{name.upper()}_{number}>"
            if placeholder not in self._taken:
                return placeholder

    def _value(self, placeholder: str, *, escaped: bool) -> str:
        value = self._values.get(placeholder)
        if value is None:
            return placeholder
        return json.dumps(value, ensure_ascii=False)[1:-1] if escaped else value


class Pieces:
    """One text that comes in pieces. ``escaped`` as in ``Vault.unmask``."""

    __slots__ = ("_escaped", "_held", "_vault")

    def __init__(self, vault: Vault, *, escaped: bool) -> None:
        self._vault = vault
        self._escaped = escaped
        self._held = ""

    @property
    def holds(self) -> bool:
        """Whether something waits for the next piece."""
        return bool(self._held)

    def feed(self, piece: str) -> str:
        """What can be said by now; may be empty."""
        text = self._held + piece
        at = text.rfind("<")
        if at >= 0 and self._vault.begins(text[at:]):
            text, self._held = text[:at], text[at:]
        else:
            self._held = ""
        return self._vault.unmask(text, escaped=self._escaped)

    def flush(self) -> str:
        """What was held, as it is: no placeholder came of it."""
        held, self._held = self._held, ""
        return held
