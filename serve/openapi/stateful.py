"""``/v1/responses`` and ``/v1/conversations``. Requests are read field by field; the bounds are those readers' own."""

from models.errors import InvalidRequest, NotFound
from serve.checks import METADATA_SCHEMA, TEMPERATURE_MAX, TOKENS_MAX, TOP_LOGPROBS_MAX
from serve.openapi.errors import AGENTS, ALWAYS, CALLING, READING, refusals
from serve.openapi.inference import CALL_HEADERS, MODEL
from serve.openapi.parts import (
    ANYTHING,
    BOOLEAN,
    EVENTS,
    JSON,
    OWN_HEADERS,
    STRING,
    TIME,
    Object,
    answers,
    array,
    bounded,
    deleted,
    events,
    gives,
    in_path,
    in_query,
    list_of,
    nullable,
    one_of,
    record,
    ref,
    said,
    takes,
)
from serve.responses.app import SANE_ID
from serve.responses.conversations import ITEMS_MAX as CONVERSATION_ITEMS_MAX
from serve.responses.items import ITEMS_MAX, KINDS, PARTS, REFERENCE, ROLES, STATUSES
from serve.responses.query import CURSOR_LENGTH_MAX, LIMIT_MAX, ORDERS
from serve.responses.request import EFFORTS, FORMATS, INCLUDABLE, INCLUDE_MAX, TIERS, VERBOSITIES
from serve.responses.tools import CHOICES, TOOLS_MAX

ID = f"^{SANE_ID.pattern}$"
STORED = (*ALWAYS, InvalidRequest, NotFound)
FORM = nullable(
    record(
        {
            "type": one_of(FORMATS),
            "name": nullable(STRING),
            "schema": nullable(ANYTHING),
            "description": nullable(STRING),
            "strict": nullable(BOOLEAN),
        },
        ("type",),
        closed=True,
    )
)


def _item() -> Object:
    part = record({"type": one_of(list(PARTS))}, ("type",))
    return record(
        {
            "type": said(nullable(one_of(list(KINDS))), f"Without it: a message, or `{REFERENCE}`"),
            "id": nullable(STRING),
            "status": nullable(one_of(STATUSES)),
            "role": nullable(one_of(ROLES)),
            "content": {"type": ["string", "array", "null"], "items": part},
            "call_id": said(STRING, "Of a function's call and its output"),
            "name": said(STRING, "Of the function called"),
            "arguments": said(STRING, "Of the call, as JSON"),
            "output": said({"type": ["string", "array"], "items": part}, "What the function gave"),
            "summary": array(ANYTHING),
        },
        description="An input item; which fields it has is its type's affair",
    )


def _request() -> Object:
    tool = record(
        {
            "type": {"const": "function"},
            "name": STRING,
            "description": nullable(STRING),
            "parameters": nullable(ANYTHING),
            "strict": nullable(BOOLEAN),
            "defer_loading": nullable({"const": False}),
        },
        ("type", "name"),
        closed=True,
    )
    text = record({"format": FORM, "verbosity": nullable(one_of(VERBOSITIES))}, closed=True)
    thinking = record(
        {"effort": nullable(one_of(EFFORTS)), "summary": {"type": "null"}, "generate_summary": {"type": "null"}},
        closed=True,
    )
    choice: Object = {"anyOf": [one_of(CHOICES), ANYTHING, {"type": "null"}]}
    options = record({"include_obfuscation": nullable({"const": False})}, closed=True)
    conversation: Object = {"anyOf": [STRING, record({"id": STRING}, ("id",), closed=True), {"type": "null"}]}
    items = array(ref("InputItem"), minItems=1, maxItems=ITEMS_MAX)
    fields: Object = {
        "model": MODEL,
        "input": {"anyOf": [{"type": "string", "minLength": 1}, items]},
        "instructions": said(nullable(STRING), "A system message before everything else"),
        "stream": said(nullable(BOOLEAN), "Answer as typed server-sent events"),
        "stream_options": said(nullable(options), "Only together with `stream`"),
        "store": said(nullable(BOOLEAN), "Keep the response; true where it is not said"),
        "background": said(nullable(BOOLEAN), "Answer at once and run on; poll the response, or cancel it"),
        "previous_response_id": said(nullable(STRING), "The response that this one goes on from"),
        "conversation": said(conversation, "The conversation that this one builds on and adds to"),
        "metadata": nullable(METADATA_SCHEMA),
        "max_output_tokens": nullable(bounded(1, TOKENS_MAX)),
        "max_tool_calls": said(nullable(bounded(1, TOKENS_MAX)), "Of built-in tools, of which there are none"),
        "temperature": nullable(bounded(0, TEMPERATURE_MAX, "number")),
        "top_p": nullable(bounded(0, 1, "number")),
        "top_logprobs": nullable(bounded(0, TOP_LOGPROBS_MAX)),
        "include": nullable(array(one_of(INCLUDABLE), maxItems=INCLUDE_MAX)),
        "text": said(nullable(text), "The form of the answer, and how much the model is to say"),
        "reasoning": nullable(thinking),
        "tools": said(nullable(array(tool, maxItems=TOOLS_MAX)), "Functions that the caller runs"),
        "tool_choice": said(choice, "A word, one function by name, or a choice of allowed ones"),
        "parallel_tool_calls": nullable(BOOLEAN),
        "truncation": said(nullable({"const": "disabled"}), "A history is never shortened here"),
        "service_tier": nullable(one_of(TIERS)),
        **{name: nullable(STRING) for name in ("user", "safety_identifier", "prompt_cache_key")},
        **{name: {"type": "null"} for name in ("prompt", "context_management", "moderation")},
    }
    return record(fields, ("model", "input"), closed=True)


def schemas() -> Object:
    """Requests and answers by name."""
    items = array(ref("InputItem"), maxItems=CONVERSATION_ITEMS_MAX)
    made: Object = {"metadata": nullable(METADATA_SCHEMA), "items": nullable(items)}
    filled = array(ref("InputItem"), minItems=1, maxItems=CONVERSATION_ITEMS_MAX)
    status = one_of(("in_progress", "completed", "incomplete", "failed", "cancelled"))
    return {
        "InputItem": _item(),
        "Item": record({"id": STRING, "type": STRING}, ("id", "type"), description="An item as it is stored"),
        "ResponseRequest": _request(),
        "Response": record(
            {
                "id": STRING,
                "object": {"const": "response"},
                "created_at": TIME,
                "completed_at": nullable(TIME),
                "status": status,
                "model": STRING,
                "output": array(ref("Item")),
                "error": nullable(record({"code": STRING, "message": STRING}, ("code", "message"))),
                "incomplete_details": nullable(ANYTHING),
                "usage": nullable(ANYTHING),
                "metadata": METADATA_SCHEMA,
            },
            ("id", "object", "created_at", "status", "model", "output", "error"),
            description="OpenAI's response object; it repeats what was asked",
        ),
        "ConversationRequest": record(made, closed=True),
        "ConversationChange": record({"metadata": METADATA_SCHEMA}, ("metadata",), closed=True),
        "ItemsRequest": record({"items": filled}, ("items",), closed=True),
        "Conversation": record(
            {"id": STRING, "object": {"const": "conversation"}, "created_at": TIME, "metadata": METADATA_SCHEMA},
            ("id", "object", "created_at", "metadata"),
            closed=True,
        ),
    }


def _operation(name: str, summary: str, schema: Object, *, listing: bool = False) -> Object:
    """An operation on what is stored, without a body. ``listing``: of items."""
    include = in_query("include", "What is always included may be asked for", one_of(INCLUDABLE))
    parameters = [include]
    if listing:
        parameters += [
            in_query("limit", "Items at a time", bounded(1, LIMIT_MAX)),
            in_query("order", "By place; `desc` where it is not said", one_of(ORDERS)),
            in_query(
                "after",
                "The last item of the part before",
                {"type": "string", "minLength": 1, "maxLength": CURSOR_LENGTH_MAX},
            ),
        ]
    return {
        "operationId": name,
        "tags": ["responses" if "Response" in name or "Input" in name else "conversations"],
        "summary": summary,
        "parameters": parameters,
        "responses": {"200": gives("Done", schema, OWN_HEADERS), **refusals(*STORED)},
    }


def _sent(operation: Object, request: str, example: Object, *, required: bool = True) -> Object:
    """The same with a body."""
    responses = {**operation["responses"], **refusals(*READING)}
    return {**operation, "requestBody": takes(ref(request), example, required=required), "responses": responses}


def _creation() -> Object:
    stream = events("From `response.created` to `response.completed`, `.failed` or `.incomplete`, under their names")
    content: Object = {JSON: {"schema": ref("Response")}, EVENTS: stream}
    return {
        "operationId": "createResponse",
        "tags": ["responses"],
        "summary": "An answer that is kept, and that later ones can build on",
        "requestBody": takes(ref("ResponseRequest"), {"model": "smollm2-135m-instruct", "input": "Name a river."}),
        "responses": {
            # Its headers are a model's answer's, but for one in the background: it has not answered yet.
            "200": answers("The response", content, CALL_HEADERS),
            **refusals(*CALLING, *AGENTS),
        },
    }


def paths() -> Object:
    """All addresses."""
    response = [in_path("response_id", "A response's id", pattern=ID)]
    conversation = [in_path("conversation_id", "A conversation's id", pattern=ID)]
    item = [*conversation, in_path("item_id", "An item's id", pattern=ID)]
    message = {"role": "user", "content": "Hello."}
    create = _operation("createConversation", "A new conversation", ref("Conversation"))
    change = _operation("changeConversation", "Other metadata", ref("Conversation"))
    append = _operation("createItems", "More items at the end", list_of(ref("Item")))
    items = _operation("listItems", "A conversation's items", list_of(ref("Item")), listing=True)
    return {
        "/v1/responses": {"post": _creation()},
        "/v1/responses/{response_id}": {
            "parameters": response,
            "get": _operation("retrieveResponse", "One response", ref("Response")),
            "delete": _operation("deleteResponse", "Delete one; while it runs, that stops it", deleted("response")),
        },
        "/v1/responses/{response_id}/cancel": {
            "parameters": response,
            "post": _operation("cancelResponse", "Stop one that runs in the background", ref("Response")),
        },
        "/v1/responses/{response_id}/input_items": {
            "parameters": response,
            "get": _operation("listInputItems", "A response's own input", list_of(ref("Item")), listing=True),
        },
        "/v1/conversations": {"post": _sent(create, "ConversationRequest", {"items": [message]}, required=False)},
        "/v1/conversations/{conversation_id}": {
            "parameters": conversation,
            "get": _operation("retrieveConversation", "One conversation", ref("Conversation")),
            "post": _sent(change, "ConversationChange", {"metadata": {"topic": "rivers"}}),
            "delete": _operation(
                "deleteConversation", "Delete one; a response's items stay with it", deleted("conversation.deleted")
            ),
        },
        "/v1/conversations/{conversation_id}/items": {
            "parameters": conversation,
            "get": items,
            "post": _sent(append, "ItemsRequest", {"items": [message]}),
        },
        "/v1/conversations/{conversation_id}/items/{item_id}": {
            "parameters": item,
            "get": _operation("retrieveItem", "One item", ref("Item")),
            "delete": _operation("deleteItem", "Take one out", ref("Conversation")),
        },
    }
