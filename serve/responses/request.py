"""A request for a response: read, checked, and turned into the chat request that answers it.

What cannot be honoured is refused by name, never dropped. Three parameters are honoured by having nothing to do:
``max_tool_calls`` bounds calls of built-in tools, of which there are none; ``truncation`` is ``disabled``; of
``include``, images are always included.
"""

from dataclasses import dataclass
from typing import Any

from models.errors import InvalidRequest
from serve.checks import NAME_LENGTH_MAX, PAIRS_MAX, TEMPERATURE_MAX, TOKENS_MAX, TOP_LOGPROBS_MAX, VALUE_LENGTH_MAX
from serve.messages.reader import Reader, missing, unsupported, wrong
from serve.responses.items import Item, absent, read_input
from serve.responses.tools import read_tools
from serve.validation import Body

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")
TIERS = ("auto", "default", "flex", "priority")
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (LOGPROBS, "message.input_image.image_url")
FORMATS = ("text", "json_object", "json_schema")
INCLUDE_MAX = 100


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. ``chat``: the chat request without its messages; ``echo``: what the response repeats."""

    model: str
    stream: bool
    store: bool
    background: bool
    previous_response_id: str | None
    conversation: str | None
    instructions: str | None
    items: list[Item]
    chat: Body
    echo: Body

    @property
    def builds_on_state(self) -> bool:
        """Whether it needs what was stored before."""
        return bool(self.previous_response_id or self.conversation or self.references)

    @property
    def references(self) -> list[str]:
        """The items it names by id."""
        return [item["id"] for item in self.items if item["type"] == "item_reference"]


def read_order(body: Body) -> Order:
    """Raises InvalidRequest that names the parameter at fault."""
    reader = Reader(body)
    model = reader.text("model")
    chat: Body = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    store = True if reader.value("store") is None else reader.flag("store")
    stream, background = reader.flag("stream"), reader.flag("background")
    previous, conversation = reader.optional_text("previous_response_id"), _conversation(reader)
    instructions = reader.optional_text("instructions")
    echo: Body = {
        "background": background,
        "conversation": None if conversation is None else {"id": conversation},
        "instructions": instructions,
        "metadata": read_metadata(reader),
        "model": model,
        "previous_response_id": previous,
        "store": store,
        **_sampling(reader, chat),
        **_identity(reader, chat),
        **_format(reader, chat),
        **_reasoning(reader, chat),
        **read_tools(reader, chat),
    }
    _streaming(reader, stream=stream)
    _vacuous(reader, echo)
    items = read_input(reader, "input")
    reader.done()
    _consistent(store=store, background=background, previous=previous, conversation=conversation)
    return Order(model, stream, store, background, previous, conversation, instructions, items, chat, echo)


def _consistent(*, store: bool, background: bool, previous: str | None, conversation: str | None) -> None:
    if previous is not None and conversation is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: give either 'previous_response_id' or 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if not store and background:
        raise wrong("background", "needs 'store' to be true")
    if not store and conversation is not None:
        raise wrong("conversation", "needs 'store' to be true")


def read_metadata(reader: Reader) -> dict[str, str]:
    """At most 16 pairs of strings."""
    if reader.value("metadata") is None:
        return {}
    pairs = reader.schema("metadata")
    fits = all(
        isinstance(value, str) and len(name) <= NAME_LENGTH_MAX and len(value) <= VALUE_LENGTH_MAX
        for name, value in pairs.items()
    )
    if len(pairs) > PAIRS_MAX or not fits:
        bounds = f"of at most {NAME_LENGTH_MAX} and {VALUE_LENGTH_MAX} characters"
        raise wrong(reader.name("metadata"), f"must have at most {PAIRS_MAX} pairs of strings, {bounds}")
    return pairs


def _conversation(reader: Reader) -> str | None:
    value = reader.value("conversation")
    if value is None or isinstance(value, str):
        return value
    named = Reader(value, "conversation")
    found = named.text("id")
    named.done()
    return found


def _sampling(reader: Reader, chat: Body) -> Body:
    given: Body = {
        "max_output_tokens": reader.integer("max_output_tokens", 1, TOKENS_MAX),
        "temperature": reader.number("temperature", 0, TEMPERATURE_MAX),
        "top_p": reader.number("top_p", 0, 1),
        "top_logprobs": reader.integer("top_logprobs", 0, TOP_LOGPROBS_MAX),
    }
    include = reader.items("include", INCLUDE_MAX)
    for index, name in enumerate(include):
        if name not in INCLUDABLE:
            raise InvalidRequest(f"Unsupported value of 'include': {name!r}.", f"include[{index}]", "unsupported_value")
    names = {"max_output_tokens": "max_completion_tokens", "temperature": "temperature", "top_p": "top_p"}
    chat |= {name: given[field] for field, name in names.items() if given[field] is not None}
    if LOGPROBS in include or given["top_logprobs"] is not None:
        chat |= {"logprobs": True, "top_logprobs": given["top_logprobs"] or 0}
    return {**given, "top_logprobs": given["top_logprobs"] or 0}


def _identity(reader: Reader, chat: Body) -> Body:
    given = {name: reader.optional_text(name) for name in ("user", "safety_identifier", "prompt_cache_key")}
    tier = None if reader.value("service_tier") is None else reader.one_of("service_tier", *TIERS)
    chat |= {name: value for name, value in {**given, "service_tier": tier}.items() if value is not None}
    return {**given, "service_tier": tier or "auto"}


def _format(reader: Reader, chat: Body) -> Body:
    text = reader.object("text")
    if text is None:
        return {"text": {"format": {"type": "text"}}}
    shown: Body = {"format": {"type": "text"}}
    asked = text.object("format")
    if asked is not None:
        shown["format"] = _one_format(asked, chat)
    if text.value("verbosity") is not None:
        chat["verbosity"] = shown["verbosity"] = text.one_of("verbosity", *VERBOSITIES)
    text.done()
    return {"text": shown}


def _one_format(asked: Reader, chat: Body) -> Body:
    kind = asked.one_of("type", *FORMATS)
    if kind != "json_schema":
        asked.done()
        if kind == "json_object":
            chat["response_format"] = {"type": kind}
        return {"type": kind}
    schema: dict[str, Any] = {"name": asked.text("name"), "schema": asked.schema("schema")}
    schema |= {"description": asked.optional_text("description"), "strict": asked.flag("strict")}
    asked.done()
    sent = {name: value for name, value in schema.items() if value is not None}
    chat["response_format"] = {"type": kind, "json_schema": sent}
    return {"type": kind, **schema}


def _reasoning(reader: Reader, chat: Body) -> Body:
    asked = reader.object("reasoning")
    effort = None
    if asked is not None:
        if asked.value("effort") is not None:
            chat["reasoning_effort"] = effort = asked.one_of("effort", *EFFORTS)
        absent(asked, "summary", "generate_summary")
        asked.done()
    return {"reasoning": {"effort": effort, "summary": None}}


def _streaming(reader: Reader, *, stream: bool) -> None:
    options = reader.object("stream_options")
    if options is None:
        return
    if not stream:
        raise wrong("stream_options", "is only allowed when 'stream' is true")
    if options.flag("include_obfuscation"):
        raise unsupported(options.name("include_obfuscation"), "value true of parameter")
    options.done()


def _vacuous(reader: Reader, echo: Body) -> None:
    echo["max_tool_calls"] = reader.integer("max_tool_calls", 1, TOKENS_MAX)
    echo["truncation"] = "disabled"
    truncation = reader.optional_text("truncation")
    if truncation == "auto":
        raise InvalidRequest(
            "Unsupported value of 'truncation': a history is never shortened here; shorten the input yourself.",
            param="truncation",
            code="unsupported_value",
        )
    if truncation is not None:
        reader.one_of("truncation", "disabled")
    absent(reader, "prompt", "context_management", "moderation")
    if reader.value("input") is None:
        raise missing("input")
