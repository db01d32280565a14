"""Figures out of rounds, and the one JSON object on the last line."""

import json
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType

from benchmarks.answers import LoadResult
from benchmarks.processes import BenchmarkError, say

SIGNIFICANT_DIGITS = 4


def median_of(results: Iterable[LoadResult], figure: Callable[[LoadResult], float]) -> float:
    """The median of one figure over rounds. Raises statistics.StatisticsError where there is no round."""
    return statistics.median(figure(result) for result in results)


def ratio(ours: float, theirs: float) -> float:
    """How many times theirs. Raises BenchmarkError where theirs is nothing."""
    if theirs <= 0:
        raise BenchmarkError("the figure to compare with is zero")
    return ours / theirs


def print_report(report: Mapping[str, float]) -> None:
    """The last line of standard output, rounded to significant digits, keys as given."""
    sys.stdout.write(
        f"{json.dumps({key: float(f'{value:.{SIGNIFICANT_DIGITS}g}') for key, value in report.items()})}\n"
    )
    sys.stdout.flush()


def main(benchmark: Callable[[], Mapping[str, float]]) -> int:
    """Run a benchmark and print its report; 1 and a line that says why where there is none.

    SIGTERM unwinds like an exception, so that what was started is ended.
    """
    signal.signal(signal.SIGTERM, _end)
    try:
        print_report(benchmark())
    except BenchmarkError as error:
        say(f"benchmark: {error}")
        return 1
    return 0


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
    raise SystemExit(128 + number)
