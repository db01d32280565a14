"""The model catalogue: what can be served, where it comes from, what it costs and what it needs.

A YAML document, validated here; unknown keys are refused. ``load_catalogue`` reads the shipped one.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from models.errors import ModelNotFound
from models.usage import Price

ModelKind = Literal["chat", "embedding", "rerank", "agent"]
Scheme = Literal["hub", "pypi", "path", "hosted"]
SHIPPED_CATALOGUE = Path(__file__).with_name("catalogue.yaml")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """``scheme:location``: ``hub:owner/name``, ``pypi:package==version``, ``path:/folder``, ``hosted:upstream``.

    A wheel may carry its digest, ``pypi:package==version#sha256=…``: one that differs is refused.
    """

    scheme: Scheme
    location: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Raises ValueError where the scheme is not one we know."""
        scheme, colon, location = text.partition(":")
        if not colon:
            raise ValueError(f"source {text!r} has no scheme; use hub:, pypi:, path: or hosted:")
        place, mark, digest = location.partition("#sha256=") if scheme == "pypi" else (location, "", "")
        return cls.model_validate({"scheme": scheme, "location": place, "sha256": digest if mark else None})


class LoraAdapter(_Frozen):
    """A LoRA adapter served beside its base model under its own name."""

    name: str = Field(min_length=1)
    path: str = Field(min_length=1)


class EngineArguments(_Frozen):
    """How vLLM runs the model on one kind of hardware; names follow vLLM's own flags."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    max_num_seqs: int = Field(default=32, ge=1)
    max_model_len: int | None = Field(default=None, ge=16)
    memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_gib: int | None = Field(default=None, ge=1, description="CPU only: size of the KV cache")
    enforce_eager: bool = False
    lora_adapters: tuple[LoraAdapter, ...] = ()


class Hardware(_Frozen):
    """Engine arguments per kind of hardware; the one present decides."""

    cpu: EngineArguments | None = None
    gpu: EngineArguments | None = None


class Scaling(_Frozen):
    """Replicas and when to add one.

    ``apart``: so many engines, each with its own address and its own replicas, so that callers can choose between them.
    """

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: int = Field(default=16, ge=1)
    max_ongoing_requests: int = Field(default=64, ge=1)
    apart: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _ordered(self) -> "Scaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas exceeds max_replicas")
        return self


class CatalogueEntry(_Frozen):
    """One model. ``sources`` are tried in order; the first that can be had wins."""

    id: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")
    kind: ModelKind
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    upstream_model: str | None = Field(default=None, min_length=1, description="A hosted model's name at its provider")
    context_window: int = Field(ge=1, description="Tokens, prompt and completion together")
    dimensions: int | None = Field(default=None, ge=1, description="Embedding models: length of a vector")
    prices: Annotated[tuple[Price, ...], Field(min_length=1)]
    hardware: Hardware = Hardware()
    scaling: Scaling = Scaling()
    chat_template: str | None = None
    tool_parser: str = Field(
        default="prompted", pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="Who knows of tools: see docs/tools.md"
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _parse_sources(cls, value: object) -> object:
        if isinstance(value, list):
            items = cast("list[object]", value)
            return tuple(Source.parse(item) if isinstance(item, str) else item for item in items)
        return value

    @field_validator("prices")
    @classmethod
    def _sort_prices(cls, value: tuple[Price, ...]) -> tuple[Price, ...]:
        return tuple(sorted(value, key=lambda price: price.since))

    @model_validator(mode="after")
    def _named_where_hosted(self) -> "CatalogueEntry":
        if self.upstream_model is not None and not any(source.scheme == "hosted" for source in self.sources):
            raise ValueError("upstream_model is the name of a hosted model; no source of this one is hosted")
        return self

    @model_validator(mode="after")
    def _apart_are_engines(self) -> "CatalogueEntry":
        if self.scaling.apart > 1 and (
            self.kind != "chat" or any(source.scheme == "hosted" for source in self.sources)
        ):
            raise ValueError("scaling.apart is for chat models that engines of the platform answer for")
        return self

    def price_at(self, when: datetime | None = None) -> Price:
        """The price in force at ``when`` (UTC; now by default); the oldest where ``when`` precedes all."""
        day = (when or datetime.now(UTC)).date().isoformat()
        in_force = [price for price in self.prices if price.since <= day]
        return in_force[-1] if in_force else self.prices[0]

    def engine(self, gpus: int) -> EngineArguments:
        """The arguments for a node with ``gpus`` GPUs. Raises ValueError where the model cannot run on it."""
        chosen = self.hardware.gpu if gpus else self.hardware.cpu
        if chosen is None:
            raise ValueError(f"model {self.id!r} has no engine arguments for {'GPU' if gpus else 'CPU'} nodes")
        return chosen


def plain_name(model_id: str) -> str:
    """A model's id as one path segment: ``/`` is written ``--``."""
    return model_id.replace("/", "--")


class Catalogue(_Frozen):
    """All models known, by id."""

    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$")
    models: tuple[CatalogueEntry, ...]

    @model_validator(mode="after")
    def _unique(self) -> "Catalogue":
        ids = [entry.id for entry in self.models]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"model ids occur twice: {', '.join(twice)}")
        return self

    def find(self, model_id: str) -> CatalogueEntry:
        """Raises ModelNotFound."""
        for entry in self.models:
            if entry.id == model_id:
                return entry
        raise ModelNotFound(f"The model '{model_id}' does not exist or you do not have access to it.", param="model")


def load_catalogue(path: Path = SHIPPED_CATALOGUE) -> Catalogue:
    """Read and validate a catalogue. Raises pydantic.ValidationError naming the field, yaml.YAMLError, OSError."""
    return Catalogue.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
