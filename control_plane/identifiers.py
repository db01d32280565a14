"""Ids: a prefix that names the noun, then 32 hex digits that sort by time of creation (UUID version 7)."""

from typing import Literal

import uuid_utils

Prefix = Literal["org", "proj", "user", "key", "kb", "ing", "agent", "bud", "batch", "cred", "dk"]


def new_id(prefix: Prefix) -> str:
    """A fresh id such as ``kb_0199…``; later ids sort after earlier ones."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def new_file_id() -> str:
    """A fresh ``file-…``, with OpenAI's dash; later ids sort after earlier ones."""
    return f"file-{uuid_utils.uuid7().hex}"
