"""Reciprocal rank fusion: one order out of several, from ranks alone, so that scores of different scales can meet.

Source: Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods,
SIGIR 2009.
"""

from collections.abc import Iterable, Sequence

RANK_CONSTANT = 60


def fuse(rankings: Iterable[Sequence[str]]) -> dict[str, float]:
    """The sum over ``rankings`` (ids, best first) of 1 / (60 + rank), rank from one; by id, in no order."""
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (RANK_CONSTANT + rank)
    return scores
