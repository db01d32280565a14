"""What may be asked of a hosted provider: OpenAI's chat completion request, the parameters we know how to translate.

Values outside these types and names are refused by name; what the provider's class cannot honour is refused later, by
``serve.hosted.parameters``.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.errors import InvalidRequest

MESSAGES_MAX = 10_000
TOOLS_MAX = 1_024
NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ImageUrl(_Strict):
    """An address or a ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class Part(_Strict):
    """A part of a message's content; ``type`` names the one field that it has."""

    type: Literal["text", "image_url", "refusal"]
    text: str | None = None
    image_url: ImageUrl | None = None
    refusal: str | None = None


class FunctionCall(_Strict):
    """``arguments`` is JSON, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(_Strict):
    """A call that an assistant's message holds."""

    id: str = Field(min_length=1)
    type: Literal["function"]
    function: FunctionCall
    index: int | None = None


class Message(_Strict):
    """One message. Assistant messages may come back with the extra fields an answer had: they were for the caller."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    annotations: Any = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    audio: None = None
    function_call: None = None


class Function(_Strict):
    """A function the model may call; ``parameters`` is a JSON schema."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A tool."""

    type: Literal["function"]
    function: Function


class ChosenFunction(_Strict):
    """The function to call."""

    name: str


class NamedChoice(_Strict):
    """A tool choice that names a function."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(_Strict):
    """The schema of a structured answer."""

    name: str = Field(pattern=NAME_PATTERN)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Strict):
    """Options that go with ``stream``."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(_Strict):
    """The body. Types only: what a value may be is the gateway's check and the provider's."""

    model: str = Field(min_length=1)
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[tuple[Tool, ...], Field(min_length=1, max_length=TOOLS_MAX)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    stop: str | Annotated[tuple[str, ...], Field(max_length=4)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    reasoning_effort: str | None = None
    verbosity: str | None = None
    seed: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    n: int | None = None
    logprobs: bool | None = None
    store: bool | None = None
    modalities: tuple[str, ...] | None = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stop_sequences(self) -> list[str]:
        """What ends the answer; may be empty."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def check(self) -> None:
        """Raises InvalidRequest for parameters that do not go together."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(self, name) not in {None, "none"} and not self.tools:
                raise InvalidRequest(f"'{name}' is only allowed when 'tools' are given.", param=name)
        known = {tool.function.name for tool in self.tools or ()}
        if len(known) < len(self.tools or ()):
            raise InvalidRequest("The names of the tools must differ.", param="tools")
        if isinstance(self.tool_choice, NamedChoice) and self.tool_choice.function.name not in known:
            raise InvalidRequest("'tool_choice' names a tool that is not among 'tools'.", param="tool_choice")
        form = self.response_format
        if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
            raise InvalidRequest(
                "'response_format.json_schema' goes with the type 'json_schema'.", param="response_format.json_schema"
            )
