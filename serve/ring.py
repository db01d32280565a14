"""A ring of places for consistent hashing: a place that comes or goes moves no key but its own.

Each place has points in proportion to its weight. Every process that is told the same places has the same ring.

Source: D. Karger et al., "Consistent Hashing and Random Trees", 1997.
"""

from bisect import bisect
from collections.abc import Iterator, Mapping
from hashlib import blake2b

# Of a place of the least weight. The shares of places then differ from their weights by about a tenth.
POINTS = 128
POINTS_MAX = 16_384


def hashed(data: bytes) -> int:
    """64 bits."""
    return int.from_bytes(blake2b(data, digest_size=8).digest())


class Ring:
    """Names with weights above 0."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        least = min(weights.values())
        self._names = len(weights)
        placed = sorted(
            (hashed(f"{name}#{number}".encode()), name)
            for name, weight in weights.items()
            for number in range(min(round(POINTS * weight / least), POINTS_MAX))
        )
        self._points = [point for point, _ in placed]
        self._owners = [name for _, name in placed]

    def walk(self, key: int) -> Iterator[str]:
        """Every name once, from the key's own one on."""
        seen: set[str] = set()
        start = bisect(self._points, key)
        for step in range(len(self._owners)):
            name = self._owners[(start + step) % len(self._owners)]
            if name not in seen:
                yield name
                seen.add(name)
                if len(seen) == self._names:
                    return
