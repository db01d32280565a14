"""What may be asked of an agent: OpenAI's chat completion request, as far as an agent can honour it.

What it cannot honour is refused by name, never dropped.
Source: https://platform.openai.com/docs/api-reference/chat/create
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.agents import AgentSpec
from models.errors import InvalidRequest

MESSAGES_MAX = 2_048


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """One message. Assistant messages may come back with the extra fields an answer had."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | tuple[TextPart, ...]
    name: str | None = None
    annotations: Any = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """Options that go with ``stream``."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ResponseFormat(_Strict):
    """Plain text only: a version has no schema."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """The body."""

    model: str
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=MESSAGES_MAX)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | Annotated[tuple[str, ...], Field(min_length=1, max_length=4)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    # Said in words that change nothing.
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    store: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    modalities: tuple[Literal["text"]] | None = None
    service_tier: Literal["auto", "default"] | None = None
    # For the caller's own books.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def question(self) -> str:
        """The last user message. Raises InvalidRequest where there is none."""
        for message in reversed(self.messages):
            if message.role == "user" and message.text.strip():
                return message.text
        raise InvalidRequest("An agent needs a user message to answer.", param="messages")

    def settings(self, spec: AgentSpec) -> dict[str, Any]:
        """The inner model call's parameters: the version's, overridden by the caller's.

        Raises InvalidRequest where the caller asks for more tokens than the version allows.
        """
        for name in ("max_tokens", "max_completion_tokens"):
            if (getattr(self, name) or 0) > spec.max_completion_tokens:
                raise InvalidRequest(
                    f"This agent answers with at most {spec.max_completion_tokens} tokens.", param=name
                )
        limit = self.max_completion_tokens or self.max_tokens or spec.max_completion_tokens
        asked = {
            "temperature": spec.temperature if self.temperature is None else self.temperature,
            "max_completion_tokens": limit,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "seed": self.seed,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop and list(self.stop),
        }
        return {name: value for name, value in asked.items() if value is not None}

    def check(self) -> None:
        """Raises InvalidRequest for parameters that do not go together."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
