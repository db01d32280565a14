"""Bodies and answers: a project's policy, and its kept prompts."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds
from control_plane.fields import Body
from control_plane.privacy.patterns import check_pattern
from control_plane.privacy.tables import KeptPrompt, PrivacyPolicy
from models.privacy import DAYS_MAX, PiiPolicy


def _safe(policy: PiiPolicy) -> PiiPolicy:
    for one in policy.patterns:
        check_pattern(one.name, one.pattern)
    return policy


class PrivacyChange(Body):
    """A project's whole policy, in place of the present one. Both null: nothing is guarded, nothing is kept."""

    model_config = ConfigDict(
        # A pattern may begin or end with a space.
        str_strip_whitespace=False,
        json_schema_extra={
            "example": {
                "pii": {
                    "action": "mask_hosted",
                    "entities": ["email", "iban"],
                    "patterns": [{"name": "customer_number", "pattern": "\\bKD-\\d{6}\\b"}],
                },
                "keep_days": 30,
            }
        },
    )

    pii: Annotated[PiiPolicy, AfterValidator(_safe)] | None = None
    keep_days: int | None = Field(default=None, ge=1, le=DAYS_MAX, description="Keep prompts and answers so long")


class PrivacyView(BaseModel):
    """A project's policy."""

    object: Literal["privacy"] = "privacy"
    organisation_id: str
    project_id: str
    pii: PiiPolicy | None
    keep_days: int | None = Field(description="Null where prompts and answers are not kept")

    @classmethod
    def of(cls, organisation_id: str, project_id: str, row: PrivacyPolicy | None) -> Self:
        """As the API shows it; without a row nothing is guarded."""
        return cls(
            organisation_id=organisation_id,
            project_id=project_id,
            pii=None if row is None or row.pii is None else PiiPolicy.model_validate(row.pii),
            keep_days=None if row is None else row.keep_days,
        )


class PromptView(BaseModel):
    """What is kept of one call."""

    object: Literal["prompt"] = "prompt"
    id: str
    organisation_id: str
    project_id: str
    api_key_id: str
    request_id: str
    parent_request_id: str | None = Field(description="The request on whose behalf an agent made this one")
    endpoint: str
    model: str
    status: str
    started_at_ms: int = Field(description="Unix milliseconds")
    duration_ms: int
    cut: bool = Field(description="Something was left out for its length")
    expires_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: KeptPrompt) -> Self:
        """As lists show it."""
        return cls(**_fields(row))


class WholePromptView(PromptView):
    """With what was said."""

    request: dict[str, Any] = Field(description="The body of the request, on OpenAI's wire")
    answer: dict[str, Any] | None = Field(description="The answer; a stream's pieces are put together")

    @classmethod
    def of(cls, row: KeptPrompt) -> Self:
        """As the API shows it alone."""
        return cls(**_fields(row), request=row.request, answer=row.answer)


def _fields(row: KeptPrompt) -> dict[str, Any]:
    fields = {name: getattr(row, name) for name in PromptView.model_fields if name != "object"}
    return {**fields, "expires_at": unix_seconds(row.expires_at)}


class PromptDeleted(BaseModel):
    """A kept prompt that is no more."""

    object: Literal["prompt.deleted"] = "prompt.deleted"
    id: str
    deleted: Literal[True] = True


class PromptsDeleted(BaseModel):
    """All of a project's kept prompts are no more."""

    object: Literal["prompts.deleted"] = "prompts.deleted"
    deleted: int = Field(description="How many they were")
