"""A retry budget: how often an upstream may be asked in place of another, or again, for calls that failed before.

A retry takes a token, and gets it back where the upstream answers. So a healthy upstream may stand in for a dead one
without end, and a failing one sees few requests beside its own. Tokens come as ``share`` of the calls that it was asked
first, and as ``per_second``; they are worth ``seconds``. Invariant, for any stretch of T seconds with C such calls:

    retries that failed or still run ≤ per_second · (seconds + T) + share · (C + the C of about ``seconds`` before)

Source: Finagle's RetryBudget (twitter/finagle, finagle-core/…/service/RetryBudget.scala); Google, Site Reliability
Engineering, "Handling Overload". The token that comes back is gRPC's retry throttling (gRFC A6).
"""

import math
import time
from collections.abc import Callable

from serve.config import RetryPolicy


class RetryBudget:
    """One upstream's, in one process. Add 1 to ``calls`` for a call that is no retry."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._at = clock()
        self._counted = 0
        self._recent = 0.0
        self._tokens = policy.per_second * policy.seconds
        self.calls = 0
        self.sent = 0
        self.refused = 0

    def withdraw(self) -> bool:
        """Whether a retry may be sent."""
        policy = self._policy
        now = self._clock()
        elapsed, self._at = now - self._at, now
        new, self._counted = self.calls - self._counted, self.calls
        self._recent = self._recent * math.exp(-elapsed / policy.seconds) + new
        most = policy.per_second * policy.seconds + policy.share * self._recent
        self._tokens = min(most, self._tokens + policy.per_second * elapsed + policy.share * new)
        if self._tokens < 1:
            self.refused += 1
            return False
        self._tokens -= 1
        self.sent += 1
        return True

    def answered(self) -> None:
        """The upstream answered a retry."""
        self._tokens += 1
