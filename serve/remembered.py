"""What the control plane was asked, remembered until it is told to be forgotten.

Invariants
1. A question is asked once at a time, however many calls wait for the answer; who leaves takes it from nobody else.
2. While invalidations are heard an answer is believed for its age; while they are not, and after each gap in hearing,
   for ``unheard_seconds_max`` at the most. An answer that was under way when an invalidation came is used once.
3. The control plane away: an answer serves on for ``stale_seconds_max``, unless it was invalidated.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from models.errors import Unavailable
from serve.config import KeyCache

RETRY_SECONDS = 1.0

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Entry(Generic[Answer]):
    """An answer; times are monotonic seconds."""

    answer: Answer
    asked_at: float
    excused_until: float = 0.0


class Remembered(Generic[Question, Answer]):
    """``age``: for how many seconds an answer is believed at the most. ``clock``: monotonic seconds."""

    def __init__(
        self,
        limits: KeyCache,
        clock: Callable[[], float] = time.monotonic,
        age: Callable[[Answer], float] | None = None,
    ) -> None:
        self._limits = limits
        self._age = age
        self._clock = clock
        self._entries: dict[Question, Entry[Answer]] = {}
        self._asking: dict[Question, asyncio.Task[Answer]] = {}
        self._hearing_since: float | None = None
        self._invalidations = 0

    @property
    def hearing(self) -> bool:
        """Whether invalidations are heard."""
        return self._hearing_since is not None

    def known(self) -> Iterator[Answer]:
        """Every answer that is kept."""
        return (entry.answer for entry in self._entries.values())

    def hears(self) -> None:
        """From now on invalidations are heard."""
        self._hearing_since = self._clock()

    def deaf(self) -> None:
        """Invalidations may be missed from now on."""
        self._hearing_since = None

    def forget(self, concerned: Callable[[Question, Answer], bool]) -> None:
        """Forget all answers that are ``concerned``."""
        self._invalidations += 1
        self._entries = {
            question: entry for question, entry in self._entries.items() if not concerned(question, entry.answer)
        }

    def believed(self, question: Question) -> Entry[Answer] | None:
        """The answer if it is known and may be believed."""
        entry = self._entries.get(question)
        if entry is None:
            return None
        now = self._clock()
        heard = self._hearing_since is not None and self._hearing_since <= entry.asked_at
        seconds = self._limits.age_seconds_max if self._age is None else self._age(entry.answer)
        if not heard:
            seconds = min(seconds, self._limits.unheard_seconds_max)
        return entry if now < max(entry.asked_at + seconds, entry.excused_until) else None

    async def answer(self, question: Question, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer, asked for if need be: ``ask`` raises Unavailable where the control plane does not say.

        Raises what ``ask`` raises.
        """
        entry = self.believed(question)
        if entry is not None:
            return entry.answer
        task = self._asking.get(question)
        if task is None:
            task = self._asking[question] = asyncio.ensure_future(self._ask_and_keep(question, ask))
            task.add_done_callback(lambda done: self._answered(question, done))
        # One caller's hang-up must not take the answer from the others.
        return await asyncio.shield(task)

    def _answered(self, question: Question, task: asyncio.Task[Answer]) -> None:
        del self._asking[question]
        if not task.cancelled():
            # Looked at here, for all who waited may have left.
            task.exception()

    async def _ask_and_keep(self, question: Question, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        asked_at = self._clock()
        invalidations = self._invalidations
        try:
            answer = await ask()
        except Unavailable:
            entry = self._stale(question)
            if entry is None:
                raise
            return entry.answer
        if invalidations == self._invalidations:
            self._keep(question, Entry(answer, asked_at))
        return answer

    def _stale(self, question: Question) -> Entry[Answer] | None:
        """What was known before, for a little longer."""
        entry = self._entries.get(question)
        if entry is None or self._clock() > entry.asked_at + self._limits.stale_seconds_max:
            return None
        entry.excused_until = self._clock() + RETRY_SECONDS
        return entry

    def _keep(self, question: Question, entry: Entry[Answer]) -> None:
        # The most recently asked is last, so what goes first was asked longest ago.
        self._entries.pop(question, None)
        if len(self._entries) >= self._limits.entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[question] = entry
