"""Bodies and answers: credentials. No answer holds a key: what is stored is shown by its last four characters."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from control_plane.credentials.tables import CredentialRow
from control_plane.database import unix_seconds
from control_plane.fields import Body, Name
from models.credentials import ADDRESS_CHARACTERS_MAX, KEY_CHARACTERS_MAX, KEY_CHARACTERS_MIN, address


def _for_a_header(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return key


ApiKey = Annotated[
    SecretStr,
    Field(min_length=KEY_CHARACTERS_MIN, max_length=KEY_CHARACTERS_MAX, description="The key at the provider"),
    AfterValidator(_for_a_header),
]
Address = Annotated[
    str,
    Field(max_length=ADDRESS_CHARACTERS_MAX, description="Another address of the provider, if the operator allows it"),
    AfterValidator(address),
]


class CredentialCreate(Body):
    """A new credential. ``project_id``: for this project alone; null for all that have none of their own."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"upstream": "openai", "name": "our account", "api_key": "sk-…"}}
    )

    upstream: str = Field(min_length=1, max_length=64, description="A hosted upstream's name")
    name: Name = "default"
    project_id: str | None = Field(default=None, max_length=64)
    api_key: ApiKey
    base_url: Address | None = None


class CredentialChange(Body):
    """What to change; fields left out stay. ``api_key`` rotates it. ``base_url``: null for the upstream's own."""

    name: Name | None = None
    api_key: ApiKey | None = None
    base_url: Address | None = None


class CredentialView(BaseModel):
    """A credential, without its key."""

    object: Literal["credential"] = "credential"
    id: str
    organisation_id: str
    project_id: str | None
    upstream: str
    name: str
    last4: str = Field(description="The key's last characters; empty where the key is short")
    base_url: str | None
    created_at: int
    rotated_at: int = Field(description="Unix seconds; when the key came")

    @classmethod
    def of(cls, row: CredentialRow) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            project_id=row.project_id,
            upstream=row.upstream,
            name=row.name,
            last4=row.last4,
            base_url=row.base_url,
            created_at=unix_seconds(row.created_at),
            rotated_at=unix_seconds(row.rotated_at),
        )


class CredentialDeleted(BaseModel):
    """A credential that is no more."""

    object: Literal["credential.deleted"] = "credential.deleted"
    id: str
    deleted: Literal[True] = True


class Rewrapped(BaseModel):
    """What a re-wrap did."""

    object: Literal["data_keys.rewrapped"] = "data_keys.rewrapped"
    key_id: str = Field(description="The key-encryption key that wraps from now on")
    rewrapped: int
    remaining: int = Field(description="Data keys that a former key still wraps, for they cannot be opened")
