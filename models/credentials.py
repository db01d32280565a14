"""Credentials at hosted providers: what an organisation brings, as it crosses from the control plane to a gateway.

A credential serializes with its secret hidden; ``to_wire`` alone writes it out, for the one route that gives it.
"""

import re
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr

KEY_CHARACTERS_MIN = 8
KEY_CHARACTERS_MAX = 4_096
ADDRESS_CHARACTERS_MAX = 500
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
ANY_LABEL = "*"


class Credential(BaseModel):
    """An organisation's key at one upstream. ``base_url`` None: the upstream's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    api_key: SecretStr = Field(min_length=1)
    base_url: str | None = None


def to_wire(credential: Credential | None) -> bytes:
    """What ``/internal/…/credentials/<upstream>`` answers, the secret included."""
    if credential is None:
        return orjson.dumps({"credential": None})
    fields = {**credential.model_dump(), "api_key": credential.api_key.get_secret_value()}
    return orjson.dumps({"credential": fields})


def from_wire(body: bytes) -> Credential | None:
    """The inverse of ``to_wire``. Raises ValueError, without the body's words, where it is none."""
    try:
        answer: Any = orjson.loads(body)
        found: object = cast("dict[str, Any]", answer)["credential"]
        return None if found is None else Credential.model_validate(found)
    except (ValueError, KeyError, TypeError):
        raise ValueError("the answer is no credential") from None


def address(url: str) -> str:
    """A provider's address in one form: without ``/v1`` and slashes at its end. Raises ValueError where it is none."""
    parts = urlsplit(url)
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if len(url) > ADDRESS_CHARACTERS_MAX or parts.scheme not in {"http", "https"} or not parts.hostname or not plain:
        raise ValueError("must be an http(s) address without user, query and fragment")
    port = "" if parts.port is None else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{_without_version(parts)}"


def allowed(url: str, patterns: Iterable[str]) -> bool:
    """Whether ``url``, from ``address``, is among ``patterns``; in ``https://*.example.com`` a star is one label."""
    if ANY_LABEL in url:
        return False
    first, dot, rest = url.partition("://")[2].partition(".")
    scheme = url.partition("://")[0]
    starred = f"{scheme}://{ANY_LABEL}{dot}{rest}" if LABEL.fullmatch(first) else url
    return any(address(pattern) in {url, starred} for pattern in patterns)


def _without_version(parts: SplitResult) -> str:
    return parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
