"""Envelope encryption: a secret is sealed by its organisation's data key, the data key is wrapped by a key outside.

Invariants
1. AES-256-GCM with a fresh 96-bit nonce each time: ``nonce ‖ ciphertext ‖ tag``.
2. What is sealed opens for its organisation and its row alone: both are authenticated with it, so that a row moved or
   swapped in the database is refused, never opened.
3. A key-encryption key is known by an id that is derived from it. A wrapped data key names the one that wrapped it.
4. No key and no plain text is in a repr, a log or an error.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

KEY_BYTES = 32
NONCE_BYTES = 12
ID_DIGITS = 16


class SealBroken(Exception):
    """What was read is not what was sealed for this place, or it was sealed under a key that is not here."""


class KeyEncryption(Protocol):
    """Who wraps data keys: a key in the configuration, or a service that keeps it."""

    @property
    def current(self) -> str:
        """The id of the key that wraps from now on."""
        ...

    async def wrap(self, data_key: bytes, place: str) -> bytes:
        """The data key, wrapped by the current key for ``place``."""
        ...

    async def unwrap(self, key_id: str, wrapped: bytes, place: str) -> bytes:
        """The inverse of ``wrap``. Raises SealBroken."""
        ...


class ConfiguredKeys:
    """``KeyEncryption`` with keys of the configuration: the first wraps, all of them unwrap."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        """Each key is 64 hexadecimal digits. Raises ValueError where one is not."""
        self._keys: dict[str, bytes] = {}
        for key in keys:
            raw = raw_key(key)
            self._keys[key_id_of(raw)] = raw
        self._current = next(iter(self._keys))

    @property
    def current(self) -> str:
        """The id of the key that wraps from now on."""
        return self._current

    async def wrap(self, data_key: bytes, place: str) -> bytes:
        """The data key, wrapped by the current key for ``place``."""
        return seal(self._keys[self._current], data_key, _bound("data-key", self._current, place))

    async def unwrap(self, key_id: str, wrapped: bytes, place: str) -> bytes:
        """The inverse of ``wrap``. Raises SealBroken."""
        key = self._keys.get(key_id)
        if key is None:
            raise SealBroken(f"the key-encryption key {key_id} is not configured")
        return unseal(key, wrapped, _bound("data-key", key_id, place))


def raw_key(key: SecretStr) -> bytes:
    """A configured key's bytes. Raises ValueError where it is not 64 hexadecimal digits."""
    try:
        raw = bytes.fromhex(key.get_secret_value())
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError("must be 64 hexadecimal digits")
    return raw


def key_id_of(raw: bytes) -> str:
    """An id that tells nothing of the key."""
    return hashlib.sha256(b"objecta.key-encryption-key.v1" + raw).hexdigest()[:ID_DIGITS]


def new_data_key() -> bytes:
    """A fresh data key."""
    return AESGCM.generate_key(KEY_BYTES * 8)


def seal(key: bytes, plain: bytes, bound: bytes) -> bytes:
    """``plain`` sealed under ``key``, bound to ``bound``."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def unseal(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    """The inverse of ``seal``. Raises SealBroken where key, place or bytes are not the ones it was sealed with."""
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError):
        raise SealBroken("what was read is not what was sealed for this place") from None


def place_of(organisation_id: str, credential_id: str) -> bytes:
    """What a credential is bound to."""
    return _bound("credential", organisation_id, credential_id)


def _bound(*parts: str) -> bytes:
    # A separator that no id holds: else two different lists of parts could be the same bytes.
    return "\x1f".join(("objecta.v1", *parts)).encode()
