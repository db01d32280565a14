"""A stream of server-sent events on its way through: metered, and made what the client asked for.

Invariants
1. Whole frames pass at once, as bytes; only a frame cut in two by the network waits for its other half.
2. Frames are parsed only where their shape is unusual (several choices, spaced JSON, empty ``choices``).
3. The client sees usage as it asked: none at all; or ``"usage": null`` in every chunk and the figures in one more at
   the end; or vLLM's continuous figures.
4. An upstream's error frame never passes; the stream then counts as failed.
5. The model's name in every chunk is the one the client asked for.
6. Where the call has a price, its cost stands beside the figures at the end, in a field of its own.

Our engines report usage in every chunk (``continuous_usage_stats``), so what a client consumed before it hung up is the
engine's own figure. Of other upstreams' chunks those with text are counted, one token each.
"""

import re
import time
from dataclasses import dataclass
from typing import Any, cast

import orjson

from models.usage import MADE, SENT, Price, TokenUsage
from serve.usage import USAGE_KEY, buckets, find_usage

FRAME_END = b"\n\n"
DONE = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)
ERROR = re.compile(rb'^(?:event: ?error\b|data: ?\{\s*"error"\s*:\s*[{"])', re.MULTILINE)
TEXT = re.compile(rb'"(?:content|text|refusal|reasoning|reasoning_content|arguments)"\s*:\s*"(?!")')
COMPACT_USAGE = re.compile(rb',"usage":(?:null|\{[^{}"]*(?:"[^"\\]*"[^{}"]*|\{[^{}]*\}[^{}"]*)*\})')
MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
FRAME_BYTES_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What the client asked for: the model, ``usage`` at the end, ``continuous`` usage (vLLM's).

    ``several``: chunks of several choices are interleaved, ``choices`` of them for each prompt.
    """

    model: str
    usage: bool = False
    continuous: bool = False
    several: bool = False
    choices: int = 1


class StreamFilter:
    """One stream. Feed it what the upstream sends; it returns what the client gets, and knows the usage at any time.

    ``failed``: the upstream sent an error or no event stream; nothing more is to be fed. ``done``: it came to its end.
    """

    def __init__(self, shape: StreamShape, price: Price | None = None) -> None:
        self._shape = shape
        self._price = price
        self._model = b'"model":' + orjson.dumps(shape.model)
        self._rename: bool | None = None
        self._rest: bytes = b""
        self._usage: TokenUsage | None = None
        self._seen = b""
        self._by_choice: dict[int, TokenUsage] = {}
        self._usage_sent = False
        self.texts = 0
        self.failed = False
        self.done = False
        self.first_token_at: float | None = None

    def feed(self, data: bytes) -> bytes:
        """Whole frames for the client; may be empty."""
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = data.rfind(FRAME_END)
        if end < 0:
            self._rest = data
            self.failed = len(data) > FRAME_BYTES_MAX
            return b""
        self._rest = data[end + 2 :]
        return self._pass(data[: end + 2] if self._rest else data)

    def finish(self) -> bytes:
        """The last frame where the upstream ended without a blank line."""
        data, self._rest = self._rest.strip(), b""
        return self._pass(data + FRAME_END) if data else b""

    def usage(self) -> TokenUsage | None:
        """The upstream's own figure so far; None where it gave none."""
        if self._usage is None and self._by_choice:
            # The choices of one prompt report that prompt each; their completions are their own.
            prompts = {index // self._shape.choices: usage for index, usage in self._by_choice.items()}
            sums = {name: sum(getattr(usage, name) for usage in prompts.values()) for name in SENT}
            sums |= {name: sum(getattr(usage, name) for usage in self._by_choice.values()) for name in MADE}
            return TokenUsage(**sums, doubtful=any(usage.doubtful for usage in self._by_choice.values()))
        return self._usage or find_usage(self._seen)

    def _pass(self, data: bytes) -> bytes:
        error = ERROR.search(data) if b"error" in data else None
        if error:
            self.failed = True
            data = data[: error.start()]
        if self.first_token_at is None and TEXT.search(data):
            self.first_token_at = time.monotonic()
        if b"[DONE]" in data and DONE.search(data):
            self.done = True
        if self._rename is None and (found := MODEL.search(data)):
            self._rename = found.group() != self._model
        if self._rename:
            data = MODEL.sub(lambda _: self._model, data)
        if not self._seen:
            self.texts += len(TEXT.findall(data))
        return self._with_usage_as_asked(data)

    def _with_usage_as_asked(self, data: bytes) -> bytes:
        shape = self._shape
        if shape.several or b'": ' in data:
            return self._parsed(data)
        last = data.find(b'"choices":[]')
        if last < 0 and self.done:
            last = data.rfind(b"[DONE]")
        if last >= 0:
            start = data.rfind(FRAME_END, 0, last) + 2 if FRAME_END in data[:last] else 0
            return (self._compact(data[:start]) if start else b"") + self._parsed(data[start:])
        return self._compact(data)

    def _compact(self, data: bytes) -> bytes:
        """Chunks as every engine writes them, without parsing."""
        shape = self._shape
        if b'"usage":{' in data:
            self._seen = data
        if not shape.continuous:
            if USAGE_KEY in data:
                data = COMPACT_USAGE.sub(b"", data)
                if USAGE_KEY in data:
                    return self._parsed(data)
            if shape.usage:
                data = data.replace(b"}" + FRAME_END, b',"usage":null}' + FRAME_END)
        return data

    def _parsed(self, data: bytes) -> bytes:
        return b"".join(self._frame(frame) for frame in data.split(FRAME_END) if frame)

    def _frame(self, frame: bytes) -> bytes:
        """One frame, parsed; without its blank line."""
        if DONE.match(frame):
            return self._missing_usage() + frame + FRAME_END
        if not frame.startswith(b"data:"):
            return frame + FRAME_END
        try:
            chunk = cast("dict[str, Any]", orjson.loads(frame[5:]))
            usage: dict[str, Any] | None = chunk.pop("usage", None)
            choices: list[dict[str, Any]] = chunk.get("choices") or []
            if usage:
                self._keep(usage, choices, frame)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            self.failed = True
            return b""
        if usage and not choices and not (self._shape.usage or self._shape.continuous):
            return b""
        if usage and (self._shape.continuous or (self._shape.usage and not choices)):
            chunk["usage"] = usage
            if not choices:
                self._price_it(chunk)
        elif self._shape.usage:
            chunk["usage"] = None
        return b"data: " + orjson.dumps(chunk) + FRAME_END

    def _keep(self, usage: dict[str, Any], choices: list[dict[str, Any]], frame: bytes) -> None:
        self._seen = frame
        figures = buckets(usage)
        if figures is not None and choices and self._shape.several:
            self._by_choice[int(choices[0].get("index", 0))] = figures
        elif figures is not None:
            self._usage = figures

    def _price_it(self, chunk: dict[str, Any]) -> None:
        self._usage_sent = True
        if self._price is not None and (usage := self.usage()) is not None:
            chunk["objecta"] = {"cost_micro": self._price.cost_micro(usage)}

    def _missing_usage(self) -> bytes:
        """The chunk with the figures, where the upstream gave them elsewhere (in its last chunk with text)."""
        if not self._shape.usage or self._usage_sent or not self._seen:
            return b""
        last = self._seen.rstrip().rpartition(b"data:")[2]
        chunk = cast("dict[str, Any]", orjson.loads(last))
        chunk["choices"] = []
        self._price_it(chunk)
        return b"data: " + orjson.dumps(chunk) + FRAME_END
