"""What the ledger says of a provider beside what the provider says: by day and model, figure by figure, in integers.

Invariants
1. Every line of either side is in the result: one that has no counterpart is compared with nought.
2. Only figures that the provider tells are compared; ours that it does not tell cannot be judged.
3. A difference is within the tolerance where it is at most that many per cent of the provider's figure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from control_plane.usage.invoices import FIGURES, Line, Lines

DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")


@dataclass(frozen=True)
class Difference:
    """One figure of one day and model; ``ours`` less ``theirs`` is ``by``."""

    day: str
    model: str
    figure: str
    ours: int
    theirs: int
    within: bool

    @property
    def by(self) -> int:
        """Above nought: the ledger has more."""
        return self.ours - self.theirs

    def body(self) -> dict[str, Any]:
        """As JSON."""
        fields = ("day", "model", "figure", "ours", "theirs", "by", "within")
        return {name: getattr(self, name) for name in fields}


def ours_of(days: Iterable[Mapping[str, Any]], models: set[str], upstreams: Sequence[str]) -> tuple[Lines, list[str]]:
    """The ledger's lines, and the upstreams they are of: ``upstreams``, else those with a model of the invoice."""
    rows = list(days)
    wanted = set(upstreams) or {row["upstream"] for row in rows if row["model"] in models}
    lines: Lines = {}
    for row in rows:
        if row["upstream"] in wanted:
            line = lines.setdefault((row["day"], row["model"]), Line(0, 0, 0, 0, 0))
            sent = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "audio_prompt_tokens")
            made = ("completion_tokens", "reasoning_tokens", "audio_completion_tokens")
            _grow(line, "input", sum(row[name] for name in sent))
            _grow(line, "cached", row["cached_tokens"])
            _grow(line, "cache_write", row["cache_write_tokens"])
            _grow(line, "output", sum(row[name] for name in made))
            _grow(line, "cost_micro", row["cost_micro"])
    return lines, sorted(wanted)


def named_as_ours(theirs: Lines, known: set[str], aliases: Mapping[str, str]) -> Lines:
    """The invoice under the ledger's names: an alias, the same name, or that without the date at its end."""
    lines: Lines = {}
    for (day, model), line in theirs.items():
        name = aliases.get(model, model)
        if name not in known and DATED.sub("", name) in known:
            name = DATED.sub("", name)
        had = lines.setdefault((day, name), Line())
        for figure in FIGURES:
            if (value := getattr(line, figure)) is not None:
                _grow(had, figure, value)
    return lines


def _grow(line: Line, figure: str, value: int) -> None:
    setattr(line, figure, (getattr(line, figure) or 0) + value)


def compare(ours: Lines, theirs: Lines, tolerance_percent: Decimal) -> list[Difference]:
    """Every figure that the invoice tells, by day and model."""
    told = [figure for figure in FIGURES if any(getattr(line, figure) is not None for line in theirs.values())]
    found: list[Difference] = []
    for day, model in sorted({*ours, *theirs}):
        mine, other = ours.get((day, model), Line()), theirs.get((day, model), Line())
        for figure in told:
            one, two = getattr(mine, figure) or 0, getattr(other, figure) or 0
            if one or two:
                within = abs(one - two) * 100 <= tolerance_percent * two
                found.append(Difference(day, model, figure, one, two, within))
    return found
