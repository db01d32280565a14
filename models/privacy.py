"""What a project guards: personal data in its calls, and whether its prompts and answers are kept.

Invariants
1. A guard is opt-in: a principal without one has ``guards`` None, and nothing of this runs.
2. What is looked for has a name, and the name is all that an error, a placeholder or a metric may tell of it.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Entity = Literal[
    "email",
    "phone",
    "credit_card",
    "iban",
    "ip_address",
    "us_ssn",
    "uk_nhs_number",
    "de_tax_id",
    "fr_nir",
    "es_nif",
    "it_fiscal_code",
    "br_cpf",
    "in_aadhaar",
]
"""What can be looked for without a pattern of one's own."""

ENTITIES: tuple[Entity, ...] = get_args(Entity)

Action = Literal["mask_logs", "mask_hosted", "mask_all", "refuse"]
"""``mask_logs``: in kept prompts alone; ``mask_hosted``: also before hosted models; ``mask_all``: before every model;
``refuse``: a call with personal data is not made."""

PATTERNS_MAX = 10
PATTERN_LENGTH_MAX = 200
RECORDS_MAX = 100
DAYS_MAX = 365


class CustomPattern(BaseModel):
    """A regular expression of the project's own, in the syntax of Python's ``regex``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    pattern: str = Field(min_length=1, max_length=PATTERN_LENGTH_MAX)

    @field_validator("name")
    @classmethod
    def _of_its_own(cls, name: str) -> str:
        if name in ENTITIES:
            raise ValueError("is the name of a built-in entity")
        return name


class PiiPolicy(BaseModel):
    """Which personal data, and what becomes of it.

    ``phone_regions``: countries (ISO 3166) whose numbers are found without a country code, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    entities: tuple[Entity, ...] = Field(default=(), max_length=len(ENTITIES))
    patterns: tuple[CustomPattern, ...] = Field(default=(), max_length=PATTERNS_MAX)
    phone_regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = Field(default=(), max_length=5)

    @model_validator(mode="after")
    def _looks_for_something(self) -> Self:
        names = [*self.entities, *(one.name for one in self.patterns)]
        if not names:
            raise ValueError("name at least one entity or pattern")
        if len(names) != len(set(names)):
            raise ValueError("each name once")
        return self


class Guards(BaseModel):
    """What travels with a principal. ``keep_prompts``: its calls' prompts and answers are kept, masked by ``pii``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pii: PiiPolicy | None = None
    keep_prompts: bool = False


class PromptRecord(BaseModel):
    """One call's prompt and answer as they are kept: masked, cut to their bounds. Times are Unix milliseconds, UTC.

    ``answer`` None: the model had not said anything. ``cut``: something was left out for its length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(max_length=64)
    organisation_id: str = Field(max_length=64)
    project_id: str = Field(max_length=64)
    api_key_id: str = Field(max_length=64)
    request_id: str = Field(max_length=128)
    parent_request_id: str | None = Field(default=None, max_length=128)
    endpoint: str = Field(max_length=64)
    model: str = Field(max_length=200)
    started_at_ms: int = Field(ge=0, le=2**53)
    duration_ms: int = Field(ge=0, le=2**53)
    status: Literal["ok", "error", "client_gone"]
    request: dict[str, Any]
    answer: dict[str, Any] | None
    cut: bool = False


class PromptRecords(BaseModel):
    """What a gateway hands over at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Annotated[tuple[PromptRecord, ...], Field(min_length=1, max_length=RECORDS_MAX)]
