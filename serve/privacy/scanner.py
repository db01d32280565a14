"""All that a policy looks for, found in a text.

Invariants
1. Places do not overlap and are in order; where two kinds overlap, one place covers both.
2. Looking through takes no longer than its time, nor a project's own pattern longer than its own: TooSlow is raised
   then, and the call is not made.
"""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import regex

from models.privacy import PiiPolicy
from serve.privacy.finders import FINDERS, Find, phones

POLICIES_MAX = 1_024
CANDIDATES_A_LOOK = 64


class TooSlow(Exception):
    """Looking for what has this name took too long."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Finding(NamedTuple):
    """Personal data in a text: from ``start`` to ``end``, of the kind ``name``."""

    start: int
    end: int
    name: str


class Scanner:
    """One policy's. Safe to use in several threads."""

    def __init__(self, policy: PiiPolicy, pattern_seconds_max: float) -> None:
        self._finders: list[tuple[str, Find]] = [
            (name, phones(policy.phone_regions) if name == "phone" else FINDERS[name]) for name in policy.entities
        ]
        self._patterns = [(one.name, regex.compile(one.pattern)) for one in policy.patterns]
        self._seconds_max = pattern_seconds_max

    def find(self, text: str, until: float) -> Sequence[Finding]:
        """What is in a text, by ``until`` in monotonic seconds. Raises TooSlow."""
        found: list[Finding] = []
        for name, find in self._finders:
            for number, place in enumerate(find(text)):
                if place is not None:
                    found.append(Finding(*place, name))
                if number % CANDIDATES_A_LOOK == 0 and time.monotonic() > until:
                    raise TooSlow(name)
        for name, pattern in self._patterns:
            try:
                spans = [match.span() for match in pattern.finditer(text, timeout=self._seconds_max)]
            except TimeoutError:
                raise TooSlow(name) from None
            found += [Finding(start, end, name) for start, end in spans if end > start]
        return found if len(found) < 2 else _apart(found)


def _apart(found: list[Finding]) -> list[Finding]:
    found.sort()
    apart = [found[0]]
    for one in found[1:]:
        last = apart[-1]
        if one.start >= last.end:
            apart.append(one)
            continue
        name = one.name if one.end - one.start > last.end - last.start else last.name
        apart[-1] = Finding(last.start, max(last.end, one.end), name)
    return apart


def scanner_of(policy: PiiPolicy, pattern_seconds_max: float) -> Scanner:
    """The scanner of a policy, built once."""
    return _scanner(policy.model_dump_json(), pattern_seconds_max)


@lru_cache(maxsize=POLICIES_MAX)
def _scanner(policy: str, pattern_seconds_max: float) -> Scanner:
    return Scanner(PiiPolicy.model_validate_json(policy), pattern_seconds_max)
