"""A circuit breaker for upstreams that are not ours to ask how they are: it counts what their calls come to.

1. Closed: ``failures`` calls in a row that the server did not answer open it: no connection, a connection that broke,
   no first byte in time, or a status that says so (``FAULTS``). Any answer of the server's own ends the run. A plain
   500 is one: it may be the request's fault, and one tenant's must not shut the others out.
2. Open: calls are refused at once and told when to come again, for ``rest_seconds``.
3. Half-open: then one call goes through and decides, while the others are refused. Its answer closes the circuit, its
   failure doubles the rest, up to ``rest_seconds_max``. A call whose client leaves decides nothing: the next one will.

Source: M. Nygard, Release It!, "Circuit Breaker". ``serve.breaker`` is its sister for upstreams of ours.
"""

import time
from collections.abc import Callable
from typing import Literal

from models.errors import Unavailable
from serve.config import CircuitPolicy

State = Literal["closed", "half_open", "open"]
# Bad gateway, unavailable, gateway timeout; overloaded (Anthropic's); what CDNs say of a server that they cannot reach.
FAULTS = frozenset({502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 529, 530})


class Circuit:
    """One upstream's, in one process."""

    def __init__(self, policy: CircuitPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._failures = 0
        self._rest_seconds = policy.rest_seconds
        self._until: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        """``half_open``: the rest is over, and a call decides or will decide."""
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until else "half_open"

    @property
    def shut(self) -> bool:
        """Whether a call would be refused."""
        return self._until is not None and (self._probing or self._clock() < self._until)

    def enter(self, model: str) -> bool:
        """Whether the call is the one that decides. Raises Unavailable where it is refused.

        Tell ``ended`` or ``left`` what came of it.
        """
        if self._until is None:
            return False
        if self.shut:
            wait = max(self._until - self._clock(), self._policy.rest_seconds)
            raise Unavailable(f"The model '{model}' cannot be reached at the moment.", retry_after_seconds=wait)
        self._probing = True
        return True

    def ended(self, *, answered: bool, probe: bool) -> None:
        """A call came to its first byte, or failed before it."""
        if probe:
            self._probing = False
            if answered:
                self._close()
            else:
                self._rest()
        elif self._until is None:
            # What an old call comes to while the circuit is open says nothing new.
            self._failures = 0 if answered else self._failures + 1
            if self._failures >= self._policy.failures:
                self._open()

    def left(self, *, probe: bool) -> None:
        """A call was given up before its first byte: nothing is known."""
        if probe:
            self._probing = False

    def late(self) -> None:
        """A call was given up because its upstream took too long."""
        if self._until is None:
            self.ended(answered=False, probe=False)
        elif not self.shut:
            self._rest()

    def _open(self) -> None:
        self._until = self._clock() + self._rest_seconds

    def _rest(self) -> None:
        self._rest_seconds = min(2 * self._rest_seconds, self._policy.rest_seconds_max)
        self._open()

    def _close(self) -> None:
        self._failures = 0
        self._rest_seconds = self._policy.rest_seconds
        self._until = None
