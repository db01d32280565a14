"""``/v1/messages`` on Anthropic's wire. Its request is read field by field; the bounds are that reader's own."""

from serve.checks import TOKENS_MAX
from serve.messages.conversation import BLOCKS_MAX, ROLES
from serve.messages.headers import translated
from serve.messages.request import (
    DISPLAYS,
    EFFORTS,
    STOPS_MAX,
    TEMPERATURE_MAX,
    THINKING,
    THINKING_TOKENS_MIN,
    TIERS,
    TOOL_CHOICES,
    TOOLS_MAX,
    USER_ID_CHARACTERS_MAX,
)
from serve.openapi.errors import AGENTS, ANTHROPIC, CALLING, refusals
from serve.openapi.inference import CALL_HEADERS, MODEL
from serve.openapi.parts import (
    ANYTHING,
    BOOLEAN,
    COUNT,
    EVENTS,
    JSON,
    STRING,
    Object,
    answers,
    array,
    bounded,
    events,
    gives,
    nullable,
    one_of,
    record,
    ref,
    said,
    takes,
)
from serve.validation import MESSAGES_MAX

NAMED = translated([(name.encode(), b"1s") for name in ("x-request-id", *CALL_HEADERS)])
HEADERS = tuple(name.decode() for name, _ in NAMED if name != b"x-request-id")
"""Those of a model's answer, under the names they have on this wire."""
MARK = nullable(
    record(
        {"type": {"const": "ephemeral"}, "ttl": nullable(one_of(("5m", "1h")))},
        ("type",),
        closed=True,
        description="Taken anywhere; prefixes are cached anyway",
    )
)


def _prompt() -> Object:
    """The fields of what a model reads, and how it is to answer; both addresses take them."""
    block = record(
        {"type": {"type": "string", "description": "`text`, `image`, `tool_use`, `tool_result`, …"}}, ("type",)
    )
    content: Object = {"anyOf": [STRING, array(block, maxItems=BLOCKS_MAX)]}
    message = record({"role": one_of(ROLES), "content": content}, ("role", "content"), closed=True)
    tool = record(
        {
            "name": STRING,
            "input_schema": ANYTHING,
            "description": nullable(STRING),
            "type": nullable({"const": "custom"}),
            "strict": nullable(BOOLEAN),
            "eager_input_streaming": nullable(BOOLEAN),
            "defer_loading": nullable({"const": False}),
            "allowed_callers": nullable(array({"const": "direct"}, maxItems=1)),
            "cache_control": MARK,
        },
        ("name", "input_schema"),
        closed=True,
    )
    choice = record(
        {"type": one_of(TOOL_CHOICES), "name": STRING, "disable_parallel_tool_use": nullable(BOOLEAN)},
        ("type",),
        closed=True,
    )
    form = record({"type": {"const": "json_schema"}, "schema": ANYTHING}, ("type", "schema"), closed=True)
    output = record({"effort": nullable(one_of(EFFORTS)), "format": nullable(form)}, closed=True)
    thinking = record(
        {
            "type": one_of(THINKING),
            "budget_tokens": nullable(bounded(THINKING_TOKENS_MIN, TOKENS_MAX)),
            "display": nullable(one_of(DISPLAYS)),
        },
        ("type",),
        closed=True,
    )
    return {
        "model": MODEL,
        "messages": array(message, minItems=1, maxItems=MESSAGES_MAX),
        "system": {"anyOf": [*content["anyOf"], {"type": "null"}]},
        "tools": nullable(array(tool, maxItems=TOOLS_MAX)),
        "tool_choice": said(nullable(choice), "Only together with `tools`"),
        "output_config": nullable(output),
        "thinking": nullable(thinking),
        "cache_control": MARK,
    }


def schemas() -> Object:
    """Requests and answers by name."""
    user = record({"user_id": nullable({"type": "string", "maxLength": USER_ID_CHARACTERS_MAX})}, closed=True)
    settings: Object = {
        "max_tokens": said(bounded(1, TOKENS_MAX), "At most this many tokens are written"),
        "stream": said(nullable(BOOLEAN), "Answer as server-sent events while the model writes"),
        "temperature": nullable(bounded(0, TEMPERATURE_MAX, "number")),
        "top_p": nullable(bounded(0, 1, "number")),
        "top_k": nullable(bounded(0, TOKENS_MAX)),
        "stop_sequences": nullable(array({"type": "string", "pattern": r"\S"}, maxItems=STOPS_MAX)),
        "metadata": nullable(user),
        "service_tier": nullable(one_of(list(TIERS))),
    }
    usage = record(
        {
            "input_tokens": COUNT,
            "output_tokens": COUNT,
            "cache_creation_input_tokens": COUNT,
            "cache_read_input_tokens": COUNT,
        },
        ("input_tokens", "output_tokens"),
        closed=True,
    )
    reasons = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal")
    return {
        "MessageRequest": record({**_prompt(), **settings}, ("model", "messages", "max_tokens"), closed=True),
        "CountRequest": record(_prompt(), ("model", "messages"), closed=True),
        "Message": record(
            {
                "id": STRING,
                "type": {"const": "message"},
                "role": {"const": "assistant"},
                "model": STRING,
                "content": array(record({"type": STRING}, ("type",))),
                "stop_reason": one_of(reasons),
                "stop_sequence": nullable(STRING),
                "usage": usage,
            },
            ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
            closed=True,
        ),
        "Tokens": record({"input_tokens": COUNT}, ("input_tokens",), closed=True),
    }


def paths() -> Object:
    """Both addresses."""
    stream = events("From `message_start` to `message_stop`, or one `error`, under their names")
    content: Object = {JSON: {"schema": ref("Message")}, EVENTS: stream}
    refused = refusals(*CALLING, *AGENTS, wire=ANTHROPIC)
    prompt: Object = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Name a river."}]}
    return {
        "/v1/messages": {
            "post": {
                "operationId": "createMessage",
                "tags": ["messages"],
                "summary": "An answer to a conversation, in Anthropic's words, of any model",
                "requestBody": takes(ref("MessageRequest"), {**prompt, "max_tokens": 64}),
                "responses": {"200": answers("The model's answer", content, HEADERS), **refused},
            }
        },
        "/v1/messages/count_tokens": {
            "post": {
                "operationId": "countTokens",
                "tags": ["messages"],
                "summary": "How many tokens a prompt has; for models that this platform runs itself",
                "requestBody": takes(ref("CountRequest"), prompt),
                "responses": {"200": gives("The count", ref("Tokens"), ("request-id",)), **refused},
            }
        },
    }
