"""The key itself: ``sk-obj-<16 hex digits>-<48 hex digits>``. The part before the last dash is the visible prefix.

Invariants
1. The key is in no table and no log: what is stored is HMAC-SHA256 under a pepper that the database does not hold.
2. A wrong key costs the same whether its prefix exists or not, as far as the comparison goes.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from pydantic import SecretStr

KEY_START = "sk-obj-"
PREFIX_BYTES = 8
SECRET_BYTES = 24
KEY_PATTERN = re.compile(r"(sk-obj-[0-9a-f]{16})-[0-9a-f]{48}")
NO_DIGEST = bytes(hashlib.sha256().digest_size)


@dataclass(frozen=True)
class NewKey:
    """A fresh key."""

    prefix: str
    key: str = field(repr=False)
    digest: bytes = field(repr=False)


def generate(pepper: SecretStr) -> NewKey:
    """A key that nobody has."""
    prefix = KEY_START + secrets.token_hex(PREFIX_BYTES)
    key = f"{prefix}-{secrets.token_hex(SECRET_BYTES)}"
    return NewKey(prefix=prefix, key=key, digest=digest(key, pepper))


def digest(key: str, pepper: SecretStr) -> bytes:
    """What is stored of a key."""
    return hmac.digest(pepper.get_secret_value().encode(), key.encode(), "sha256")


def prefix_of(key: str) -> str | None:
    """The visible part of a well-formed key, else None."""
    match = KEY_PATTERN.fullmatch(key)
    return match.group(1) if match else None


def matches(key: str, stored: bytes | None, pepper: SecretStr) -> bool:
    """Whether ``key`` is the one stored; compares in constant time."""
    return hmac.compare_digest(digest(key, pepper), stored or NO_DIGEST)
