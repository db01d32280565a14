"""A deterministic scorer without weights: a text answers a query as far as it has the query's words."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class OverlapScorer:
    """Implements ``models.protocols.Scorer``."""

    @property
    def max_tokens(self) -> int:
        """It reads any length; the number is that of small cross-encoders."""
        return 512

    def count_tokens(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """One token a word, plus the three marks that cross-encoders add."""
        return [len(query.split()) + len(text.split()) + 3 for query, text in pairs]

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """The share of the query's words that the text has, float32 of shape (len(pairs),)."""
        return np.array([_share(query, text) for query, text in pairs], dtype=np.float32)


def _share(query: str, text: str) -> float:
    wanted = set(query.lower().split())
    return len(wanted & set(text.lower().split())) / len(wanted) if wanted else 0.0
