"""A model's text, piece by piece, as calls.

Invariants
1. What comes out does not depend on how the text was cut into pieces: the arguments are the model's own characters.
2. Nothing of the form around a call ever comes out as text, nor a call's name before it is whole.
3. A call is complete only once its form has closed; one that was cut off stays incomplete.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serve.tools.form import BEFORE_ARGUMENTS, BEFORE_NAME, BETWEEN, CLOSE, OPEN

HEAD = re.compile(re.escape(BEFORE_NAME) + "([A-Za-z0-9_-]{1,64})" + re.escape(BEFORE_ARGUMENTS))
HEAD_CHARACTERS_MAX = len(BEFORE_NAME) + 64 + len(BEFORE_ARGUMENTS)
SPACE = " \t\r\n"

TextKind = Literal["none", "any", "json"]


class Malformed(ValueError):
    """The text is not in the form that was enforced."""


@dataclass(slots=True)
class Call:
    """One call as far as it is written."""

    index: int
    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A call begins."""

    call: Call


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of a call's arguments."""

    index: int
    text: str


Event = Text | Opened | Arguments


def call_id() -> str:
    """A new id of a call."""
    return f"call_{secrets.token_hex(12)}"


class Assembler:
    """One answer. ``text``: whether it may have text that is no call, any or JSON."""

    def __init__(self, text: TextKind) -> None:
        self.calls: list[Call] = []
        self._rest = ""
        self._events: list[Event] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._opening = OPEN
        starts: dict[TextKind, Callable[[], bool]] = {"none": self._between, "any": self._text, "json": self._either}
        self._step = starts[text]

    def feed(self, text: str) -> list[Event]:
        """What the next piece of text brings. Raises Malformed."""
        self._rest += text
        while self._rest and self._step():
            pass
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What was held back until it was sure to be text."""
        held, self._rest = self._rest, ""
        if not held or self._step not in {self._text, self._either}:
            return []
        return [Text(held)]

    def _either(self) -> bool:
        """JSON or a call: the first character tells."""
        if not self._rest.lstrip(SPACE):
            return False
        self._step = self._between if self._rest.startswith(OPEN[0]) else self._all
        return True

    def _all(self) -> bool:
        self._events.append(Text(self._rest))
        self._rest = ""
        return False

    def _text(self) -> bool:
        found = self._rest.find(OPEN)
        end = len(self._rest) - _held(self._rest) if found < 0 else len(self._rest[:found].rstrip(SPACE))
        if end:
            self._events.append(Text(self._rest[:end]))
        if found < 0:
            self._rest = self._rest[end:]
            return False
        self._rest = self._rest[found + len(OPEN) :]
        self._step = self._head
        return True

    def _between(self) -> bool:
        """Before a call that is the answer's first, or follows another."""
        if self._rest.startswith(self._opening):
            self._rest = self._rest[len(self._opening) :]
            self._step = self._head
            return True
        if not self._opening.startswith(self._rest):
            raise Malformed("text where a call should begin")
        return False

    def _head(self) -> bool:
        head = HEAD.match(self._rest)
        if head is None:
            if len(self._rest) >= HEAD_CHARACTERS_MAX:
                raise Malformed("a call without a name")
            return False
        call = Call(len(self.calls), call_id(), head[1])
        self.calls.append(call)
        self._events.append(Opened(call))
        self._rest = self._rest[head.end() :]
        self._step = self._arguments
        return True

    def _arguments(self) -> bool:
        end = self._end_of_arguments()
        text = self._rest if end is None else self._rest[:end]
        call = self.calls[-1]
        call.arguments += text
        self._events.append(Arguments(call.index, text))
        self._rest = self._rest[len(text) :]
        if end is None:
            return False
        self._step = self._close
        return True

    def _end_of_arguments(self) -> int | None:
        """Where the object closes; None where it goes on after the text at hand."""
        for position, char in enumerate(self._rest):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == '"':
                    self._in_string = False
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._depth = 0
                    return position + 1
        return None

    def _close(self) -> bool:
        text = self._rest.lstrip(SPACE)
        if text.startswith(CLOSE):
            self.calls[-1].complete = True
            self._rest = text[len(CLOSE) :]
            self._opening = BETWEEN + OPEN
            self._step = self._between
            return True
        if not CLOSE.startswith(text):
            raise Malformed("a call that does not end where its arguments do")
        return False


def _held(text: str) -> int:
    """How many characters at the end may belong to a call's opening: part of its mark, and white space before it."""
    longest = next((size for size in range(min(len(OPEN) - 1, len(text)), 0, -1) if OPEN.startswith(text[-size:])), 0)
    before = text[: len(text) - longest]
    return longest + len(before) - len(before.rstrip(SPACE))
