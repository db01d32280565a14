"""A deterministic encoder without weights: words hashed into buckets, so shared words mean similarity."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.protocols import Text


class HashEmbedder:
    """Implements ``models.protocols.Encoder``; texts that share words are close, others are not."""

    def __init__(self, dimensions: int = 64) -> None:
        self._dimensions = dimensions

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._dimensions

    @property
    def max_tokens(self) -> int:
        """It reads any length; the number is that of small sentence encoders."""
        return 256

    @property
    def vocabulary(self) -> int:
        """It has no vocabulary; the number is that of small sentence encoders."""
        return 30_522

    def count_tokens(self, texts: Sequence[Text]) -> list[int]:
        """One token a word, plus the two marks that sentence encoders add."""
        return [len(words(text)) + 2 for text in texts]

    def encode(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Float32 array of shape (len(texts), dimensions), rows of length one."""
        rows = np.zeros((len(texts), self._dimensions), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in words(text):
                digest = hashlib.blake2b(word.strip(".,;:!?").encode(), digest_size=8).digest()
                row[int.from_bytes(digest, "big") % self._dimensions] += 1.0
            if not row.any():
                row[0] = 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def words(text: Text) -> list[str]:
    """A text's words; the id of a token stands for a word that is written like it."""
    return text.lower().split() if isinstance(text, str) else [str(token) for token in text]
