"""The one configuration object: a YAML file named by ``OBJECTA_CONFIG``, overridden by ``OBJECTA_*`` variables.

Nothing else reads the environment. Unknown keys are refused; secrets never show in a repr. Every other constructor
gets only its own section, built in ``deployments.sections``.
"""

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from cluster.home import write_private
from deployments.places import ModelPlaces
from models.catalogue import SHIPPED_CATALOGUE, Catalogue, CatalogueEntry, load_catalogue, plain_name
from models.credentials import address
from serve.cache.config import CacheConfig, ModelCache
from serve.config import Bounds, CircuitPolicy, Queueing, RedisAwayPolicy, RetryPolicy, RoutePolicy, Timeouts

VARIABLE_PREFIX = "OBJECTA_"
CONFIG_VARIABLE = "OBJECTA_CONFIG"
GATEWAY_PORT = 8000
CONTROL_PORT = 8080
DASHBOARD_PORT = 8265
HEADER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
HEADERS_OF_OURS = frozenset(
    {
        *("accept-encoding", "authorization", "connection", "content-length", "content-type", "expect", "host"),
        *("te", "trailer", "transfer-encoding", "upgrade", "x-request-id"),
    }
)


class HostedUpstream(BaseModel):
    """A provider outside the cluster; catalogue entries name it as ``hosted:<name>``.

    ``openai``: it speaks OpenAI's dialect, and the gateway calls it. ``langchain``: ``model_class`` does, in an
    application of its own; ``options`` are further arguments of the class's constructor, in its own words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    dialect: Literal["openai", "langchain"] = "openai"
    base_url: str | None = Field(default=None, description="Up to and without /v1; as the class wants it for langchain")
    api_key: SecretStr | None = None
    model_class: str | None = Field(default=None, description="langchain only: package.module:Class")
    options: dict[str, Any] = Field(default={}, repr=False, description="langchain only; may hold secrets")
    concurrency: int | None = Field(default=None, ge=1, description="Calls at once of all gateways; None: any number")
    headers: dict[str, SecretStr] = Field(default={}, description="openai only; sent with api_key, and never without")
    needs_credential: bool = Field(default=True, description="False: it asks for none, or options hold it")
    base_urls: tuple[str, ...] = Field(default=(), description="openai only; addresses organisations may choose")

    @model_validator(mode="after")
    def _says_what_its_dialect_needs(self) -> Self:
        if self.dialect == "langchain":
            if self.model_class is None:
                raise ValueError(f"upstream {self.name!r} needs a model_class")
        elif self.base_url is None:
            raise ValueError(f"upstream {self.name!r} needs a base_url")
        elif self.model_class is not None or self.options:
            raise ValueError(f"upstream {self.name!r}: model_class and options belong to the dialect 'langchain'")
        return self

    @model_validator(mode="after")
    def _can_be_sent(self) -> Self:
        if self.dialect == "langchain":
            if self.headers or self.base_urls:
                raise ValueError(f"upstream {self.name!r}: headers and base_urls belong to the dialect 'openai'")
            return self
        for url in (self.base_url or "", *self.base_urls):
            address(url)
        for name, value in self.headers.items():
            if not HEADER_NAME.fullmatch(name) or name in HEADERS_OF_OURS or name.startswith("x-objecta-"):
                raise ValueError(f"upstream {self.name!r}: {name!r} is no lower-case header, or the gateway's own")
            if not HEADER_VALUE.fullmatch(value.get_secret_value()):
                raise ValueError(f"upstream {self.name!r}: the header {name!r} must be printable ASCII")
        return self


class PlatformConfig(BaseSettings):
    """Everything a process of the platform may need to know."""

    model_config = SettingsConfigDict(
        env_prefix=VARIABLE_PREFIX,
        env_ignore_empty=True,
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    home: Path = Field(description="Where this node keeps spools and other local state")
    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=GATEWAY_PORT, ge=1, le=65_535)
    gateway_url: str = Field(default="", description="How processes of the platform reach it; from the port by default")
    control_plane_host: str = "127.0.0.1"
    control_plane_port: int = Field(default=CONTROL_PORT, ge=1, le=65_535)
    control_plane_url: str = Field(default="", description="How they reach it; from the port by default")
    dashboard_url: str = f"http://127.0.0.1:{DASHBOARD_PORT}"

    database_url: SecretStr
    redis_url: SecretStr
    cluster_secret: SecretStr
    operator_key: SecretStr
    key_pepper: SecretStr
    credential_key: SecretStr | None = Field(default=None, description="Seals organisations' credentials; None: none")
    credential_keys_former: tuple[SecretStr, ...] = Field(default=(), description="Until everything is re-wrapped")
    ray_token: SecretStr

    catalogue_path: Path = SHIPPED_CATALOGUE
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("smollm2-135m-instruct", "all-minilm-l6-v2")
    aliases: dict[str, str] = Field(default={}, description="Further names of served models")
    fallbacks: dict[str, tuple[str, ...]] = Field(default={}, description="Who answers when a served model cannot")
    policies: dict[str, RoutePolicy] = Field(default={}, description="How a served model's calls are treated")
    timeouts: Timeouts = Field(default=Timeouts(), description="Waiting for upstreams; policies may say otherwise")
    places: dict[str, ModelPlaces] = Field(default={}, description="Where else a served model answers")
    retries: RetryPolicy = Field(default=RetryPolicy(), description="What an upstream may be asked for others")
    circuit: CircuitPolicy = Field(default=CircuitPolicy(), description="When a hosted upstream is left alone")
    model_store: Path = Field(description="One folder a model, named by its id")
    knowledge_store: str = Field(description="LanceDB's root: a folder or an s3:// address")
    object_store: str = Field(description="Where uploaded files lie: a folder or an s3:// address")
    file_bytes_max: int = Field(default=512 * 1024 * 1024, ge=1, description="Of one uploaded file")
    ingestion_roots: tuple[Path, ...] = ()
    upstreams: tuple[HostedUpstream, ...] = ()
    gpus_per_node: int = Field(default=0, ge=0)
    gateway_replicas: int = Field(default=1, ge=1)
    call_bounds: Bounds = Field(default=Bounds(), description="What a budget holds for what a call leaves open")
    response_cache: CacheConfig | None = Field(default=CacheConfig(), description="Answers kept on request; null: none")
    cached_models: dict[str, ModelCache] = Field(default={}, description="Served models whose answers are kept unasked")
    redis_away: RedisAwayPolicy = Field(default=RedisAwayPolicy(), description="Calls while Redis is away")
    concurrency: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default={}, description="Calls at once of a model run here, of all gateways; 0: any number. Else by its engine"
    )
    queueing: Queueing = Field(default=Queueing(), description="Calls that wait for an upstream")
    byok_price_percent: int = Field(default=0, ge=0, le=100, description="Price of calls under organisations' own keys")

    @model_validator(mode="before")
    @classmethod
    def _addresses_follow_ports(cls, data: dict[str, Any]) -> dict[str, Any]:
        gateway, control_plane = data.get("gateway_port", GATEWAY_PORT), data.get("control_plane_port", CONTROL_PORT)
        addresses = {
            "gateway_url": data.get("gateway_url") or f"http://127.0.0.1:{gateway}",
            "control_plane_url": data.get("control_plane_url") or f"http://127.0.0.1:{control_plane}",
        }
        return {**data, **addresses}

    @model_validator(mode="after")
    def _models_are_known(self) -> Self:
        known = {entry.id for entry in self.catalogue().models}
        unknown = [name for name in self.models if name not in known]
        if unknown:
            raise ValueError(f"models not in the catalogue: {', '.join(unknown)}")
        kinds = {entry.id: entry.kind for entry in self.served()}
        for alias, name in self.aliases.items():
            if name not in kinds:
                raise ValueError(f"aliases: {alias!r} stands for {name!r}, which models does not name")
            if alias in known or alias.startswith("agent/"):
                raise ValueError(f"aliases: {alias!r} is the name of a model already")
        for name, others in self.fallbacks.items():
            if name not in kinds:
                raise ValueError(f"fallbacks: models does not name {name!r}")
            wrong = [other for other in others if other == name or kinds.get(other) != kinds[name]]
            if wrong:
                raise ValueError(f"fallbacks of {name!r}: not another served model of its kind: {', '.join(wrong)}")
        if unserved := sorted(self.policies.keys() - kinds):
            raise ValueError(f"policies: models does not name {', '.join(unserved)}")
        return self

    @model_validator(mode="after")
    def _places_are_known(self) -> Self:
        upstreams = {upstream.name for upstream in self.upstreams}
        for name, places in self.places.items():
            if name not in self.models:
                raise ValueError(f"places: models does not name {name!r}")
            unknown = [other.upstream for other in places.others if other.upstream not in upstreams]
            if unknown:
                raise ValueError(f"places of {name!r}: upstreams does not name {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _cached_are_served(self) -> Self:
        unknown = sorted(self.cached_models.keys() - set(self.models))
        if unknown:
            raise ValueError(f"cached_models: models does not name {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _bounded_are_run_here(self) -> Self:
        run_here = {entry.id for entry in self.served() if all(source.scheme != "hosted" for source in entry.sources)}
        unknown = sorted(self.concurrency.keys() - run_here)
        if unknown:
            raise ValueError(f"concurrency: not run here: {', '.join(unknown)}; a hosted upstream has its own")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        sources = [init_settings, env_settings, dotenv_settings, file_secret_settings]
        path = os.environ.get(CONFIG_VARIABLE)
        if path:
            sources.append(YamlConfigSettingsSource(settings_cls, yaml_file=path))
        return tuple(sources)

    @classmethod
    def load(cls) -> "PlatformConfig":
        """From the file and the environment. Raises pydantic.ValidationError that names each bad field."""
        return cls()  # pyright: ignore[reportCallIssue] - the sources fill the required fields

    def write(self, path: Path) -> None:
        """Replace ``path`` with the whole configuration, secrets included, readable by the owner alone."""
        write_private(path, yaml.safe_dump(_plain(self.model_dump(mode="python")), sort_keys=False))

    @property
    def dashboard_port(self) -> int:
        """Of ``dashboard_url``."""
        return urlsplit(self.dashboard_url).port or DASHBOARD_PORT

    def catalogue(self) -> Catalogue:
        """The catalogue at ``catalogue_path``."""
        return load_catalogue(self.catalogue_path)

    def served(self) -> list[CatalogueEntry]:
        """The catalogue's entries for ``models``, in that order."""
        catalogue = self.catalogue()
        return [catalogue.find(name) for name in self.models]

    def model_folder(self, model_id: str) -> Path:
        """Where a pulled model's files are."""
        return self.model_store / plain_name(model_id)


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path | Decimal):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
