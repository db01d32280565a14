"""A provider's export as rows by day and model: OpenAI's, Anthropic's, or any CSV with the columns named below.

Columns are known by their names, in any order, whatever their case and whether blanks or underscores part their words;
columns that are not known are passed over. Tokens are whole numbers. Money is decimal and becomes integer micro-units
once, for each day and model. Nothing is passed over in silence: a cell that cannot be read makes the file wrong, and
all such cells are told at once.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

# By what they mean; the first that a file has is taken, but of the parts of a sum all are added.
DAY = ("day", "date", "usage_date_utc", "usage_date", "start_time_iso", "start_time", "timestamp")
MODEL = ("model", "model_version", "model_id", "line_item", "snapshot_id")
INPUT = ("input_tokens", "prompt_tokens", "n_context_tokens_total", "input")
FRESH = ("usage_input_tokens_no_cache", "uncached_input_tokens", "fresh_input_tokens", "input_uncached_tokens")
CACHED = (
    *("cached_tokens", "cached_input_tokens", "input_cached_tokens", "cached"),
    *("usage_input_tokens_cache_read", "cache_read_input_tokens"),
)
WRITTEN = (
    *("usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h"),
    *("cache_creation_input_tokens", "cache_write_tokens"),
)
OUTPUT = ("output_tokens", "completion_tokens", "usage_output_tokens", "n_generated_tokens_total", "output")
COST = ("cost", "cost_usd", "amount_value", "amount", "amount_usd")
CURRENCY = ("amount_currency", "currency")
FIGURES = ("input", "cached", "cache_write", "output", "cost_micro")
NO_MODEL = "(no model)"
ERRORS_MAX = 20
TOKENS_MAX = 10**15


class InvoiceError(Exception):
    """The file cannot be read; ``problems`` say where and why."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.problems = problems


@dataclass
class Line:
    """Sums of one day and model; None: the file does not tell that figure. ``input`` is all of the prompt."""

    input: int | None = None
    cached: int | None = None
    cache_write: int | None = None
    output: int | None = None
    cost_micro: int | None = None


Lines = dict[tuple[str, str], Line]


@dataclass
class _Sums:
    tokens: dict[str, int] = field(default_factory=dict[str, int])
    cost: Decimal | None = None


def parse(text: str) -> Lines:
    """The file's sums by day (``YYYY-MM-DD``, UTC) and model. Raises InvoiceError."""
    try:
        reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True, delimiter=_delimiter(text))
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InvoiceError([f"this is no CSV: {error}"]) from None
    if not rows:
        raise InvoiceError(["the file is empty"])
    return _Reader(rows[0][1]).read(rows[1:])


def _delimiter(text: str) -> str:
    head = text.partition("\n")[0]
    return max((",", ";", "\t"), key=head.count)


def plain(name: str) -> str:
    """A column's name, without what makes no difference."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


class _Reader:
    def __init__(self, header: Sequence[str]) -> None:
        self._names = header
        self._places = {plain(name): place for place, name in reversed(list(enumerate(header)))}
        self._problems: list[str] = []
        self._row: Sequence[str] = ()
        self._number = 0
        self._currencies: set[str] = set()
        self._parts = self._figures()
        day, model, cost = self._first(DAY), self._first(MODEL), self._first(COST)
        missing = [name for name, found in (("day", day), ("model", model)) if found is None]
        if not self._parts and cost is None:
            missing.append("tokens or cost")
        if missing or day is None or model is None:
            raise InvoiceError([f"line 1: no column for {', '.join(missing)}; there are: {', '.join(header)}"])
        self._day, self._model, self._cost = day, model, cost

    def _first(self, names: Sequence[str]) -> int | None:
        return next((self._places[name] for name in names if name in self._places), None)

    def _figures(self) -> Mapping[str, Sequence[int]]:
        """Which columns add up to which figure."""
        cached, whole = self._first(CACHED), self._first(INPUT)
        written = [self._places[name] for name in WRITTEN if name in self._places]
        fresh, output = self._first(FRESH), self._first(OUTPUT)
        figures: dict[str, Sequence[int]] = {}
        if whole is not None:
            figures["input"] = [whole]
        elif fresh is not None:
            figures["input"] = [fresh, *([] if cached is None else [cached]), *written]
        if cached is not None:
            figures["cached"] = [cached]
        if written:
            figures["cache_write"] = written
        if output is not None:
            figures["output"] = [output]
        return figures

    def read(self, rows: Sequence[tuple[int, Sequence[str]]]) -> Lines:
        sums: dict[tuple[str, str], _Sums] = {}
        figures = {place for places in self._parts.values() for place in places}
        if self._cost is not None:
            figures.add(self._cost)
        for self._number, self._row in rows:
            if len(self._row) != len(self._names):
                self._problems.append(f"line {self._number}: {len(self._row)} cells, the header has {len(self._names)}")
            elif any(map(self._cell, figures)):
                # OpenAI also writes a row for each day without use.
                self._add(sums)
        if len(self._currencies) > 1:
            self._problems.append(f"amounts are in several currencies: {', '.join(sorted(self._currencies))}")
        if self._problems:
            more = len(self._problems) - ERRORS_MAX
            raise InvoiceError([*self._problems[:ERRORS_MAX], *([f"and {more} more"] if more > 0 else [])])
        return {key: _line(found) for key, found in sorted(sums.items())}

    def _add(self, sums: dict[tuple[str, str], _Sums]) -> None:
        day, model = self._date(), self._cell(self._model)
        if plain(self._names[self._model]) == "line_item":
            model = model.partition(", ")[0]
        found = sums.setdefault((day, model or NO_MODEL), _Sums())
        for figure, places in self._parts.items():
            found.tokens[figure] = found.tokens.get(figure, 0) + sum(map(self._count, places))
        if self._cost is not None:
            found.cost = (found.cost or Decimal(0)) + self._money(self._cost)
        currency = self._first(CURRENCY)
        if currency is not None and (told := self._cell(currency)):
            self._currencies.add(told.upper())

    def _cell(self, place: int) -> str:
        return self._row[place].strip() if place < len(self._row) else ""

    def _wrong(self, place: int, what: str) -> None:
        self._problems.append(
            f"line {self._number}, column {place + 1} ({self._names[place]}): {self._cell(place)!r} is no {what}"
        )

    def _date(self) -> str:
        text = self._cell(self._day)
        try:
            if text.isdecimal():
                return datetime.fromtimestamp(int(text), UTC).date().isoformat()
            if len(text) <= 10:
                return date.fromisoformat(text).isoformat()
            when = datetime.fromisoformat(text)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).date().isoformat()
        except (ValueError, OverflowError, OSError):
            self._wrong(self._day, "day")
            return ""

    def _count(self, place: int) -> int:
        text = self._cell(place).replace(",", "")
        if not text:
            return 0
        whole = text.removesuffix(".0")
        if not (whole.isascii() and whole.isdecimal()) or int(whole[:20]) > TOKENS_MAX:
            self._wrong(place, "number of tokens")
            return 0
        return int(whole)

    def _money(self, place: int) -> Decimal:
        text = self._cell(place).replace(",", "").replace("$", "")
        try:
            value = Decimal(text or 0)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or abs(value) > TOKENS_MAX:
            self._wrong(place, "amount")
            return Decimal(0)
        return value


def _line(sums: _Sums) -> Line:
    cost = None
    if sums.cost is not None:
        cost = int((sums.cost * 1_000_000).to_integral_value(ROUND_HALF_UP))
    return Line(**sums.tokens, cost_micro=cost)
