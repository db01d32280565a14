"""What the client was sent, as the whole answer it amounts to; None where that is not sure.

Only an answer that came to its own end is kept: every choice stopped by itself or called tools. One that ran into its
token limit or a filter is none, nor is a stream without its end, with an error, or with a piece that cannot be put
together.
"""

from typing import Any, cast

import orjson

FRAME_END = b"\n\n"
DONE = b"[DONE]"
WHOLE_ENDS = frozenset({"stop", "tool_calls", "function_call"})
# Endpoints without choices: what holds their answer.
PLAIN = ("data", "results")
CHAT = "chat.completion"
COMPLETION = "text_completion"
OBJECTS = {"chat.completion.chunk": CHAT, COMPLETION: COMPLETION}

Object = dict[str, Any]


class _Unfit(Exception):
    """The answer is not one to keep."""


def kept(body: bytes, *, streamed: bool) -> Object | None:
    """The answer, whole."""
    try:
        answer = _joined(body) if streamed else orjson.loads(body)
        return cast("Object", answer) if _complete(answer) else None
    except (AttributeError, KeyError, TypeError, ValueError, _Unfit):
        return None


def _complete(answer: Any) -> bool:
    if "error" in answer:
        return False
    choices = answer.get("choices")
    if choices is None:
        return any(answer.get(name) for name in PLAIN)
    return bool(choices) and all(map(_ended, choices))


def _ended(choice: Object) -> bool:
    message: Object = choice.get("message") or {}
    return choice["finish_reason"] in WHOLE_ENDS and not message.get("audio")


def _joined(body: bytes) -> Object:
    """Raises _Unfit, and whatever reading what is no chunk raises."""
    head: Object | None = None
    usage: object = None
    choices: dict[int, Object] = {}
    *frames, rest = body.split(FRAME_END)
    if rest or not frames or not frames.pop().endswith(DONE):
        raise _Unfit
    for frame in frames:
        if not frame.startswith(b"data:"):
            raise _Unfit
        chunk = cast("Object", orjson.loads(frame[5:]))
        kind = OBJECTS[chunk["object"]]
        usage = chunk.pop("usage", None) or usage
        for piece in chunk.pop("choices"):
            _add(choices.setdefault(piece["index"], {}), piece, kind)
        head = head or {**chunk, "object": kind}
    if head is None:
        raise _Unfit
    answer = {**head, "choices": [choices[index] for index in sorted(choices)]}
    return {**answer, "usage": usage} if usage else answer


def _add(choice: Object, piece: Object, kind: str) -> None:
    """One chunk's piece of one choice."""
    if kind == CHAT:
        message = choice.setdefault("message", {"role": "assistant", "content": None, "refusal": None})
        _grow(message, piece.pop("delta"))
    if piece.get("logprobs") is not None:
        logprobs: Object = choice.get("logprobs") or {}
        _grow(logprobs, piece.pop("logprobs"))
        choice["logprobs"] = logprobs
    for name, value in piece.items():
        if name == "text":
            choice["text"] = choice.get("text", "") + value
        elif isinstance(value, list):
            choice[name] = (choice.get(name) or []) + cast("list[object]", value)
        elif value is not None or name not in choice:
            choice[name] = value


def _grow(whole: Object, delta: Object) -> None:
    """Texts and lists grow, pieces of tool calls join their call. Raises _Unfit for what cannot be put together."""
    for name, value in delta.items():
        had = whole.get(name)
        if name == "role":
            whole[name] = value
        elif name == "tool_calls":
            whole[name] = _with_calls(had or [], value or [])
        elif name == "function_call" and value:
            whole[name] = _with_function(had or {}, value)
        elif isinstance(value, str):
            whole[name] = (had or "") + value
        elif isinstance(value, list):
            whole[name] = [*(had or ()), *cast("list[object]", value)]
        elif value is not None:
            # Audio, for one: its pieces are no texts that could be put behind one another.
            raise _Unfit
        else:
            whole.setdefault(name, None)


def _with_calls(calls: list[Object], pieces: list[Object]) -> list[Object]:
    for piece in pieces:
        index: int = piece["index"]
        if index == len(calls):
            calls.append({"id": None, "type": "function", "function": {}})
        elif not 0 <= index < len(calls):
            raise _Unfit
        call: Object = calls[index]
        call["id"] = call["id"] or piece.get("id")
        call["function"] = _with_function(call["function"], piece.get("function") or {})
    return calls


def _with_function(function: Object, piece: Object) -> Object:
    name = function.get("name") or piece.get("name")
    return {"name": name, "arguments": function.get("arguments", "") + (piece.get("arguments") or "")}
