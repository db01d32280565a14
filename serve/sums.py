"""What LangChain's messages say of their tokens, added up over an answer's chunks, and on OpenAI's wire.

The provider's own figures, uncorrected: whoever reads the wire judges them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages.ai import UsageMetadata

# The ones by age stand in place of the whole: where they are told, ``cache_creation`` is nought.
WRITTEN = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


@dataclass(frozen=True, slots=True)
class Sums:
    """Tokens as the provider counts them: ``prompt`` holds ``cached``, ``written`` and ``heard``; ``completion`` holds
    ``reasoning`` and ``spoken``. ``heard`` and ``spoken`` are audio.
    """

    prompt: int = 0
    cached: int = 0
    written: int = 0
    heard: int = 0
    completion: int = 0
    reasoning: int = 0
    spoken: int = 0

    def plus(self, metadata: UsageMetadata) -> "Sums":
        """With one more chunk's."""
        sent = cast("Mapping[str, Any]", metadata.get("input_token_details") or {})
        made = cast("Mapping[str, Any]", metadata.get("output_token_details") or {})
        return Sums(
            prompt=self.prompt + metadata["input_tokens"],
            cached=self.cached + (sent.get("cache_read") or 0),
            written=self.written + sum(sent.get(name) or 0 for name in WRITTEN),
            heard=self.heard + (sent.get("audio") or 0),
            completion=self.completion + metadata["output_tokens"],
            reasoning=self.reasoning + (made.get("reasoning") or 0),
            spoken=self.spoken + (made.get("audio") or 0),
        )

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object; written tokens and audio are named only where there are any."""
        written = {"cache_write_tokens": self.written} if self.written else {}
        heard = {"audio_tokens": self.heard} if self.heard else {}
        spoken = {"audio_tokens": self.spoken} if self.spoken else {}
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, **written, **heard},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, **spoken},
        }
