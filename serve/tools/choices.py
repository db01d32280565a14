"""One choice of an answer, whole or streamed, with its calls where OpenAI has them."""

from typing import Any, Protocol, cast

from serve.tools.assembler import Assembler, Call, Event, Malformed, Opened, Text, TextKind
from serve.tools.checker import Checker
from serve.tools.request import Plan

Delta = dict[str, Any]
Message = dict[str, Any]


class Choice(Protocol):
    """How a choice of the engine's becomes the caller's. Both raise Malformed."""

    def whole(self, message: Message, reason: str | None) -> tuple[Message, str | None]:
        """The message and the finish reason of a whole answer."""
        ...

    def delta(self, delta: Delta, reason: str | None) -> tuple[list[Delta], str | None]:
        """The deltas for one of the engine's; ``reason`` is set in its last."""
        ...


class Guided:
    """The engine wrote text in the form that the grammar enforced: calls are assembled here."""

    def __init__(self, plan: Plan, checker: Checker) -> None:
        kind: TextKind = "none" if plan.forced else "any" if plan.text is None else "json"
        self._assembler = Assembler(kind)
        self._forced = plan.forced
        self._checker = checker
        self._begun = False

    def whole(self, message: Message, reason: str | None) -> tuple[Message, str | None]:
        """A message with the calls, and its text where it has any beside them."""
        events = self._assembler.feed(cast("str | None", message.get("content")) or "") + self._assembler.finish()
        text = "".join(event.text for event in events if isinstance(event, Text))
        calls = self._assembler.calls
        rest = {name: value for name, value in message.items() if name not in {"content", "tool_calls"}}
        made: Message = {**rest, "content": text or (None if calls or self._forced else "")}
        if calls:
            made["tool_calls"] = [_whole_call(call) for call in calls]
        return made, self._reason(reason)

    def delta(self, delta: Delta, reason: str | None) -> tuple[list[Delta], str | None]:
        """OpenAI's deltas: the role, then text, then each call's name and its arguments in pieces."""
        out: list[Delta] = []
        beside = {
            name: value for name, value in delta.items() if name not in {"role", "content", "tool_calls"} and value
        }
        if beside:
            out += [*self._begin(""), beside]
        events = self._assembler.feed(cast("str | None", delta.get("content")) or "")
        if reason is not None:
            events += self._assembler.finish()
        if self._forced:
            out += self._begin(None)
        for event in events:
            out += self._begin("" if isinstance(event, Text) else None)
            out += _deltas(event)
        if reason is not None:
            out += self._begin("")
            reason = self._reason(reason)
        return out, reason

    def _begin(self, content: str | None) -> list[Delta]:
        """The role, once: with text where the answer begins with text."""
        if self._begun:
            return []
        self._begun = True
        return [{"role": "assistant", "content": content}]

    def _reason(self, reason: str | None) -> str | None:
        calls = self._assembler.calls
        for call in calls:
            if call.complete:
                self._checker.check(call.name, call.arguments)
        if not calls and not self._forced:
            return reason
        if reason != "stop":
            return reason
        if not calls:
            raise Malformed("no call where one had to be")
        # One of the caller's stop sequences may cut a call off, as a limit on tokens does.
        return "tool_calls" if all(call.complete for call in calls) else "length"


class Parsed:
    """The engine found the calls with a parser of its own: they pass as they are, once they are checked."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._calls: dict[int, list[str]] = {}

    def whole(self, message: Message, reason: str | None) -> tuple[Message, str | None]:
        """The message itself."""
        for index, call in enumerate(cast("list[Message]", message.get("tool_calls") or [])):
            self._add(index, call)
        if not self._calls:
            return message, reason
        return {**message, "content": message.get("content") or None}, self._reason(reason)

    def delta(self, delta: Delta, reason: str | None) -> tuple[list[Delta], str | None]:
        """The delta itself."""
        for call in cast("list[Message]", delta.get("tool_calls") or []):
            self._add(int(call.get("index", 0)), call)
        if reason is not None and self._calls:
            reason = self._reason(reason)
        return [delta] if delta else [], reason

    def _add(self, index: int, call: Message) -> None:
        function = cast("Message", call.get("function") or {})
        parts = self._calls.setdefault(index, ["", ""])
        parts[0] += function.get("name") or ""
        parts[1] += function.get("arguments") or ""

    def _reason(self, reason: str | None) -> str | None:
        if reason not in {"stop", "tool_calls"}:
            return reason
        for name, arguments in self._calls.values():
            self._checker.check(name, arguments)
        return "tool_calls"


def _whole_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _deltas(event: Event) -> list[Delta]:
    if isinstance(event, Text):
        return [{"content": event.text}]
    if isinstance(event, Opened):
        call = event.call
        function = {"name": call.name, "arguments": ""}
        return [{"tool_calls": [{"index": call.index, "id": call.id, "type": "function", "function": function}]}]
    return [{"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}]
